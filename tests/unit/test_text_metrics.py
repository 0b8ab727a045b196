"""Text metrics by hand, against jiwer and RapidFuzz, and their properties."""

import jiwer
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from legible.corpus.text import characters, words
from legible.metrics.text import (
    Edits,
    cer,
    edit_counts,
    exact,
    extra_characters,
    joined_like,
    matched_ned,
    ned,
    wer,
    word_scores,
)

plain = st.text(alphabet="ABCÉ ", max_size=12).map(lambda text: " ".join(text.split()))
filled = plain.filter(bool)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "edits", "rate"),
    [
        ("OPEN", "OPEN", Edits(0, 0, 0), 0.0),
        ("OPEN", "OPFN", Edits(1, 0, 0), 0.25),
        ("OPEN", "PEN", Edits(0, 1, 0), 0.25),
        ("OPEN", "OPENS", Edits(0, 0, 1), 0.25),
        ("OPEN", "", Edits(0, 4, 0), 1.0),
        ("AB", "ABCDE", Edits(0, 0, 3), 1.5),
        ("Cafe\u0301", "Cafè", Edits(1, 0, 0), 0.25),
    ],
)
def test_edits_by_hand(reference, hypothesis, edits, rate):
    assert edit_counts(characters(reference), characters(hypothesis)) == edits
    assert cer(reference, hypothesis) == rate


@given(filled, plain)
def test_error_rates_agree_with_jiwer(reference, hypothesis):
    assert cer(reference, hypothesis) == pytest.approx(jiwer.cer(reference, hypothesis))
    assert wer(reference, hypothesis) == pytest.approx(jiwer.wer(reference, hypothesis))


@given(plain, plain)
def test_ned_agrees_with_rapidfuzz(reference, hypothesis):
    assert ned(reference, hypothesis) == pytest.approx(Levenshtein.normalized_similarity(reference, hypothesis))


@given(plain, plain)
def test_counts_account_for_the_difference_in_length(reference, hypothesis):
    edits = edit_counts(reference, hypothesis)
    assert edits.insertions - edits.deletions == len(hypothesis) - len(reference)
    assert edits.distance == Levenshtein.distance(reference, hypothesis)
    assert (
        extra_characters(reference.replace(" ", ""), hypothesis.replace(" ", ""))
        <= edit_counts(reference.replace(" ", ""), hypothesis.replace(" ", "")).insertions
    )


@given(st.text(max_size=12), st.text(max_size=12))
def test_ned_is_a_symmetric_similarity(a, b):
    assert 0.0 <= ned(a, b) <= 1.0
    assert ned(a, b) == ned(b, a)
    assert (ned(a, b) == 1.0) == exact(a, b)


@given(filled)
def test_a_perfect_and_an_empty_reading(text):
    assert cer(text, text) == wer(text, text) == 0.0
    assert cer(text, "") == wer(text, "") == 1.0
    assert word_scores(text, text) == (1.0, 1.0, 1.0)
    assert word_scores(text, "") == (0.0, 0.0, 0.0)
    assert ned(text, "") == matched_ned([text], []) == 0.0


def test_an_empty_reference_has_no_error_rate():
    for metric in (cer, wer, word_scores):
        with pytest.raises(ValueError, match="reference"):
            metric("", "OPEN")


def test_word_scores_by_hand():
    assert word_scores("OPEN LATE", "LATE OPEN") == (1.0, 1.0, 1.0)
    precision, recall, f1 = word_scores("OPEN OPEN LATE", "OPEN DAILY")
    assert (precision, recall) == (0.5, pytest.approx(1 / 3))
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall))
    # A word that was asked for once and read twice is right once.
    assert word_scores("OPEN", "OPEN OPEN")[0] == 0.5


@given(st.lists(filled.map(lambda t: t.replace(" ", "")), min_size=1, max_size=4), st.randoms())
def test_word_scores_and_matched_ned_ignore_the_order(targets, random):
    shuffled = list(targets)
    random.shuffle(shuffled)
    assert word_scores(" ".join(targets), " ".join(shuffled)) == (1.0, 1.0, 1.0)
    assert matched_ned(targets, shuffled) == pytest.approx(1.0)


@given(st.lists(filled, min_size=1, max_size=4), st.lists(plain, max_size=4), st.randoms())
def test_matched_ned_is_invariant_and_bounded(targets, readings, random):
    shuffled = list(readings)
    random.shuffle(shuffled)
    value = matched_ned(targets, readings)
    assert value == pytest.approx(matched_ned(targets, shuffled))
    assert 0.0 <= value <= 1.0


def test_matched_ned_by_hand():
    # OPEN–OPFN 0.75 and LATE–LATE 1; the third reading has no target.
    assert matched_ned(["LATE", "OPEN"], ["OPFN", "XX", "LATE"]) == pytest.approx(1.75 / 3)
    # Serving ABCX first would give it ABCD (0.75) and leave ABXX (0.5) for ABCD: 1.25 instead of 1.75.
    assert matched_ned(["ABCX", "ABCD"], ["ABCD", "ABXX"]) == pytest.approx(1.75 / 2)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "extra"),
    [("OPEN", "OPEN DAILY", 5), ("OPEN", "OP EN", 0), ("OPEN", "", 0), ("OPEN LATE", "OPENLATER", 1), ("AB", "XY", 0)],
)
def test_extra_text_by_hand(reference, hypothesis, extra):
    assert extra_characters(reference, hypothesis) == extra


@given(filled, filled, st.randoms())
def test_extra_text_ignores_order_and_segmentation(reference, hypothesis, random):
    pieces = list(hypothesis.replace(" ", ""))
    assume(pieces)
    random.shuffle(pieces)
    assert extra_characters(reference, hypothesis) == extra_characters(reference, " ".join(pieces))


def test_one_word_is_compared_without_spaces():
    assert joined_like("open", "op en") == "open"
    assert joined_like("open late", "op en late") == "op en late"
    assert words(joined_like("open", "open now")) == ["opennow"]
