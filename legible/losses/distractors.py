"""Strings that are easily taken for another one: exactly one edit away."""

import hashlib
from collections.abc import Iterator

import numpy as np

from legible.errors import UserError


def shuffled(items: list[str], rng: np.random.Generator) -> Iterator[str]:
    """The items in random order."""
    return iter([items[i] for i in rng.permutation(len(items))])


def one_edit_distractors(text: str, alphabet: str, count: int) -> list[str]:
    """`count` different strings one edit away from `text`; the kinds of edit take turns, so that none prevails.

    An edit is a substitution, a deletion (where something is left), an insertion, or a transposition of unequal
    neighbours: Damerau's four (optimal string alignment distance 1). Where one kind has no string left, the others go
    on. The result depends on the arguments alone, through SHA-256, and is the same in every process.

    Raises:
        UserError: there are fewer than `count` such strings.
    """
    letters = sorted(set(alphabet))
    places = range(len(text))
    edits = [
        [text[:i] + letter + text[i + 1 :] for i in places for letter in letters],
        [text[:i] + text[i + 1 :] for i in places],
        [text[:i] + letter + text[i:] for i in range(len(text) + 1) for letter in letters],
        [text[:i] + text[i + 1] + text[i] + text[i + 2 :] for i in places[:-1]],
    ]
    # Out fall substitutions of a letter by itself, swaps of equal letters, and what differs in outer blanks only or has
    # nothing left: no picture could tell these apart.
    kinds = [[edited for edited in dict.fromkeys(kind) if edited.split() not in ([], text.split())] for kind in edits]
    possible = len({edited for kind in kinds for edited in kind})
    if possible < count:
        raise UserError(f"target {text!r}: only {possible} strings are one edit away, {count} distractors are wanted")
    seed = hashlib.sha256("\0".join([text, *letters, str(count)]).encode()).digest()
    rng = np.random.default_rng(int.from_bytes(seed[:16], "big"))
    # A round draws the kinds in a new order each time: with few distractors, too, all kinds are equally likely.
    remaining = [shuffled(kind, rng) for kind in kinds]
    chosen: dict[str, None] = {}
    while len(chosen) < count:
        for kind in rng.permutation(len(remaining)):
            fresh = next((edited for edited in remaining[kind] if edited not in chosen), None)
            if fresh is not None and len(chosen) < count:
                chosen[fresh] = None
    return list(chosen)
