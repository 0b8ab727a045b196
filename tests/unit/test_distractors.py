"""Distractors: other strings, exactly one edit away from the right one."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import OSA

from legible.config import Fonts
from legible.errors import UserError
from legible.losses.distractors import one_edit_distractors

ROOT = Path(__file__).resolve().parents[2]
ALPHABET = Fonts().characters

words = st.text(alphabet="ABC1", min_size=1, max_size=7)


def one_edit_away(text: str, alphabet: str) -> set[str]:
    """All strings one edit away, by trying out everything that is one character shorter, as long, or longer."""
    lengths = range(max(1, len(text) - 1), len(text) + 2)
    grid = [np.array(np.meshgrid(*[list(alphabet)] * n)).reshape(n, -1).T for n in lengths]
    everything = ("".join(row) for rows in grid for row in rows)
    return {candidate for candidate in everything if OSA.distance(text, candidate) == 1}


@given(text=words, count=st.integers(1, 12))
def test_distractors_are_different_strings_exactly_one_edit_away(text, count):
    drawn = one_edit_distractors(text, ALPHABET, count)
    assert len(set(drawn)) == len(drawn) == count
    assert all(OSA.distance(text, other) == 1 for other in drawn)
    assert "" not in drawn
    assert drawn == one_edit_distractors(text, ALPHABET[::-1], count)


@settings(max_examples=40)
@given(text=st.text(alphabet="AB", min_size=1, max_size=5))
def test_all_strings_one_edit_away_can_be_drawn_and_no_more(text):
    expected = one_edit_away(text, "AB")
    assert set(one_edit_distractors(text, "AB", len(expected))) == expected
    with pytest.raises(UserError, match=f"only {len(expected)} strings are one edit away, {len(expected) + 1} "):
        one_edit_distractors(text, "AB", len(expected) + 1)


def test_distractors_do_not_depend_on_the_process():
    code = "from legible.losses.distractors import one_edit_distractors as f; print(f('HOTEL', 'ABCDEFGHIJKL', 9))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, cwd=ROOT, capture_output=True, text=True
        ).stdout
        for seed in "12"
    }
    assert printed == {f"{one_edit_distractors('HOTEL', 'ABCDEFGHIJKL', 9)}\n"}


def test_the_kinds_of_edit_are_drawn_about_equally_often():
    kinds = {"substitution": 0, "deletion": 0, "insertion": 0, "transposition": 0}
    texts = ["".join(np.random.default_rng(i).permutation(list(ALPHABET))[:6]) for i in range(200)]
    for text in texts:
        for other in one_edit_distractors(text, ALPHABET, 3):
            shorter, longer = len(other) < len(text), len(other) > len(text)
            same = "transposition" if sorted(other) == sorted(text) else "substitution"
            kinds["deletion" if shorter else "insertion" if longer else same] += 1
    assert sum(kinds.values()) == 600
    assert all(110 < count < 190 for count in kinds.values()), kinds


def test_no_distractor_differs_in_what_cannot_be_seen():
    everything = one_edit_distractors("AB", "AB ", 9)
    assert "A B" in everything
    assert not {" AB", "AB "} & set(everything)
    assert " " not in one_edit_distractors("A", "AB ", 4)
