"""Normalisation profiles, graphemes and words."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legible.corpus.text import characters, normalize, words


@pytest.mark.parametrize(
    ("text", "strict", "lenient"),
    [
        ("  OPEN \n late\t", "OPEN late", "open late"),
        ("Cafe\u0301", "Café", "café"),
        ("“Don’t”", "“Don’t”", "dont"),
        ("`Don´t'", "`Don´t'", "dont"),
        ("A–B—C−D-E", "A–B—C−D-E", "abcde"),
        ("ＯＰＥＮ ﬁne", "ＯＰＥＮ ﬁne", "open fine"),
        ("Straße", "Straße", "strasse"),
        ("$5 + 7%!", "$5 + 7%!", "$5 + 7"),
        ("so\u00adft\u200b", "so\u00adft\u200b", "soft"),
        ("?!", "?!", ""),
    ],
)
def test_profiles_by_hand(text, strict, lenient):
    assert normalize(text, "strict") == strict
    assert normalize(text, "lenient") == lenient


@given(st.text(max_size=30), st.sampled_from(["strict", "lenient"]))
def test_normalising_twice_is_normalising_once(text, profile):
    once = normalize(text, profile)
    assert normalize(once, profile) == once


@given(st.text(max_size=30), st.sampled_from(["strict", "lenient"]))
def test_the_encoding_of_accents_does_not_matter(text, profile):
    composed, decomposed = unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)
    assert normalize(composed, profile) == normalize(decomposed, profile)


@given(st.text(alphabet=st.characters(categories=["Lu", "Ll"], max_codepoint=0x17F), max_size=20))
def test_lenient_ignores_case(text):
    assert normalize(text, "lenient") == normalize(text.casefold(), "lenient")


def test_an_unknown_profile_is_refused():
    with pytest.raises(ValueError, match="strict, lenient"):
        normalize("A", "loose")


def test_a_character_is_what_a_reader_sees():
    assert characters("Cafe\u0301") == ["C", "a", "f", "é"]
    assert len(characters("क्षि")) == 1
    assert len(characters("👍🏽a👨‍👩‍👧")) == 3


@given(st.text(max_size=30))
def test_characters_lose_nothing(text):
    assert "".join(characters(text)) == unicodedata.normalize("NFC", text)


def test_words_by_whitespace_and_by_character_without_spaces():
    assert words("OPEN LATE") == ["OPEN", "LATE"]
    assert words("営業中 Tokyo駅 5") == ["営", "業", "中", "Tokyo", "駅", "5"]
    assert words("") == []
