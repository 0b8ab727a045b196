"""Targets to evaluate on: drawn, and whether they are fresh, so that nothing was trained on or chosen by them."""

from collections.abc import Iterable, Mapping

import numpy as np

from legible.corpus.prompts import Prompt, folded
from legible.corpus.words import DIGITS, is_held_out, letters_of, word_lists
from legible.errors import UserError

MOST_WORDS_LOST = 3  # of the lists, which an evaluation target takes out of the training text
TRIES = 100_000


def trained_words(script: str) -> tuple[str, ...]:
    """The listed words that training text may be drawn from: those of datasets and of nano's pool (the split train)."""
    return tuple(word for words in word_lists(script) for word in words if not is_held_out(word))


def drawable(target: str, words: Iterable[str]) -> str:
    """What training text may have held of a target: itself (any string of the split train), or a word around it.

    Args:
        words: of `trained_words`. Random strings of the pool are in no list: they may hold a short target, too.
    """
    looked_for = folded(target)
    if not is_held_out(looked_for):
        return target
    return next((word for word in words if looked_for in folded(word)), "")


def overlaps(prompts: Iterable[Prompt], others: Mapping[str, Iterable[Prompt]], words: Iterable[str]) -> list[str]:
    """Why these prompts are not fresh, a clause each; empty: they are.

    Args:
        prompts: those to be fresh, with targets.
        others: name → prompts that were looked at or trained on, with targets or without.
        words: of `trained_words`.
    """
    listed, found = tuple(words), []
    known = [(folded(other.prompt), name) for name, prompts_of in others.items() for other in prompts_of]
    targets = [(folded(t), name) for name, prompts_of in others.items() for p in prompts_of for t in p.targets]
    texts = dict(known)
    for prompt in prompts:
        if (text := folded(prompt.prompt)) in texts:
            found.append(f"the prompt {prompt.id} is also in {texts[text]}")
        for target in prompt.targets:
            own = folded(target)
            found += [
                f"the target {target!r} of {prompt.id} overlaps {other!r} in {name}"
                for other, name in targets
                if own in other or other in own
            ]
            if trained := drawable(target, listed):
                found.append(f"the target {target!r} of {prompt.id} may be in training text (as {trained!r})")
    return found


def draw_target(
    rng: np.random.Generator, script: str, kind: str, length: int, excluded: list[str], unseen: bool
) -> str:
    """A string of this kind and length that neither holds nor is held by one of `excluded`.

    Args:
        kind: "word", "rare", "nonword" or "digits".
        unseen: and that is not `drawable`.

    Raises:
        UserError: there is none, or no luck in `TRIES` draws.
    """
    common, rare = word_lists(script)
    pool = [word for word in (common if kind == "word" else rare) if len(word) == length]
    if kind in ("word", "rare") and not pool:
        raise UserError(f"--plan: {kind}: no listed word has {length} letters")
    for _ in range(TRIES):
        if kind in ("word", "rare"):
            target = pool[rng.integers(len(pool))]
        else:
            alphabet = letters_of(script) if kind == "nonword" else DIGITS
            target = "".join(alphabet[i] for i in rng.integers(0, len(alphabet), length))
        lost = sum(target in word for word in common + rare)
        lost_too_many = lost > (MOST_WORDS_LOST if kind in ("word", "rare") else 0)
        if lost_too_many or (unseen and drawable(target, trained_words(script))):
            continue
        own = folded(target)
        if not any(own in folded(other) or folded(other) in own for other in excluded):
            return target
    raise UserError(f"no {kind} target of {length} characters is left")
