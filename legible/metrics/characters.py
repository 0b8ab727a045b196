"""Which characters go wrong, and what is read in their place: characters.csv."""

from collections import Counter

import pandas as pd
from rapidfuzz.distance import Levenshtein

from legible.corpus.text import characters, normalize
from legible.metrics.text import joined_like


def character_errors(scores: pd.DataFrame, profile: str) -> pd.DataFrame:
    """How often each character of the targets was substituted or deleted, per arm, engine and prompt set.

    Args:
        scores: one row per image and engine, from `score_images`.
        profile: the normalisation profile with which they were scored; the characters are those of normalised text.

    Returns:
        Columns arm, engine, prompt_set, character, asked (occurrences in the targets of all images), wrong (of these
        substituted or deleted in one optimal alignment, RapidFuzz's), error_rate = wrong / asked (0 … 1), substitute
        (the character most often read instead, the first in code point order among equals; empty when it was only ever
        deleted) and substituted (how often this one). Arms in order of appearance, spaces left out.
    """
    rows = []
    for (arm, engine, prompt_set), part in scores.groupby(["arm", "engine", "prompt_set"], sort=False):
        asked, wrong, instead = Counter(), Counter(), {}
        for target, reading in zip(part["target"], part["reading"], strict=True):
            reference, hypothesis = normalize(target, profile), normalize(reading, profile)
            compared = joined_like(reference, hypothesis) if profile == "lenient" else hypothesis
            wanted, read = characters(reference), characters(compared)
            asked.update(wanted)
            for tag, start, end, other, _ in Levenshtein.opcodes(wanted, read):
                if tag in ("replace", "delete"):
                    wrong.update(wanted[start:end])
                if tag == "replace":  # as many for as many
                    for offset, character in enumerate(wanted[start:end]):
                        instead.setdefault(character, Counter())[read[other + offset]] += 1
        for character in sorted(character for character in asked if not character.isspace()):
            found = instead.get(character, {"": 0})
            substitute = min(found, key=lambda other: (-found[other], other))
            row = {"arm": arm, "engine": engine, "prompt_set": prompt_set, "character": character}
            row |= {"asked": asked[character], "wrong": wrong[character]}
            row |= {"error_rate": wrong[character] / asked[character]}
            rows.append(row | {"substitute": substitute, "substituted": found[substitute]})
    return pd.DataFrame(rows)
