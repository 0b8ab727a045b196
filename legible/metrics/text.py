"""How well a reading matches the text that was asked for. Definitions, directions and limits: docs/METRICS.md.

Every function takes normalised text (`legible.corpus.text.normalize`). `reference` is what was asked for, `hypothesis`
what was read. Characters are graphemes; the spaces between words are characters too.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein
from scipy.optimize import linear_sum_assignment

from legible.corpus.text import characters, words


class Edits(NamedTuple):
    """Operations of one optimal alignment that turn the reference into the hypothesis. Only `distance` is unique."""

    substitutions: int
    deletions: int
    insertions: int

    @property
    def distance(self) -> int:
        """Levenshtein distance."""
        return self.substitutions + self.deletions + self.insertions


def edit_counts(reference: Sequence[str], hypothesis: Sequence[str]) -> Edits:
    """Substitutions, deletions and insertions between two sequences of characters or words (RapidFuzz)."""
    counts = Counter(operation.tag for operation in Levenshtein.editops(reference, hypothesis))
    return Edits(counts["replace"], counts["delete"], counts["insert"])


def error_rate(reference: Sequence[str], hypothesis: Sequence[str]) -> float:
    """(S + D + I) / N_reference: 0 is perfect, 1 for an empty hypothesis, above 1 when too much was read.

    Raises:
        ValueError: the reference is empty.
    """
    if not reference:
        raise ValueError("the reference is empty: an error rate needs something that should have been read")
    return edit_counts(reference, hypothesis).distance / len(reference)


def cer(reference: str, hypothesis: str) -> float:
    """Character error rate, 0 (perfect) … ∞."""
    return error_rate(characters(reference), characters(hypothesis))


def wer(reference: str, hypothesis: str) -> float:
    """Word error rate, 0 (perfect) … ∞."""
    return error_rate(words(reference), words(hypothesis))


def exact(reference: str, hypothesis: str) -> bool:
    """Whether every character is right."""
    return characters(reference) == characters(hypothesis)


def ned(reference: str, hypothesis: str) -> float:
    """1 − d / max(lengths): a similarity, 1 (equal) … 0 (nothing in common); symmetric. Two empty texts are equal."""
    a, b = characters(reference), characters(hypothesis)
    longest = max(len(a), len(b))
    return 1.0 - edit_counts(a, b).distance / longest if longest else 1.0


def word_scores(reference: str, hypothesis: str) -> tuple[float, float, float]:
    """Precision, recall and F1 (0 … 1) of the words as multisets: order is ignored, a repeated word counts repeatedly.

    An empty hypothesis has precision, recall and F1 of 0.

    Raises:
        ValueError: the reference is empty.
    """
    wanted, read = Counter(words(reference)), Counter(words(hypothesis))
    if not wanted:
        raise ValueError("the reference has no word")
    matched = (wanted & read).total()
    precision = matched / read.total() if read else 0.0
    recall = matched / wanted.total()
    return precision, recall, 2 * matched / (wanted.total() + read.total())


def matched_ned(targets: Sequence[str], readings: Sequence[str]) -> float:
    """NED of the best one-to-one assignment of readings to targets, whatever their order, 0 … 1.

    Divided by the larger of the two numbers: a target without a reading and a reading without a target both cost.

    Raises:
        ValueError: there is no target.
    """
    if not targets:
        raise ValueError("there is no target")
    if not readings:
        return 0.0
    similarity = np.array([[ned(target, reading) for reading in readings] for target in targets])
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    return float(similarity[rows, columns].sum() / max(similarity.shape))


def extra_characters(reference: str, hypothesis: str) -> int:
    """How many characters more were read than asked for, spaces not counted: insertions that no alignment can avoid."""
    return max(0, len(characters(hypothesis.replace(" ", ""))) - len(characters(reference.replace(" ", ""))))


def joined_like(reference: str, hypothesis: str) -> str:
    """The hypothesis as it is compared with the reference under the lenient profile.

    A reference of one word is compared without spaces: an engine that splits a widely set OPEN into "OP EN" makes no
    spelling error. A reference of several words keeps its spaces, and so does its hypothesis.
    """
    return hypothesis if " " in reference else hypothesis.replace(" ", "")
