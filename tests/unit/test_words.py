"""Strings: kinds, lengths, and the split that a string's own hash decides."""

from collections import Counter

import numpy as np
import pytest

from legible.config import Data
from legible.corpus.templates import FONT_WORDS, PALETTE, caption, quoted_strings, vocabulary
from legible.corpus.words import DIGITS, is_held_out, letters_of, load_lists, read_words, sample_line
from legible.errors import UserError
from legible.render.sign import contrast_ratio


def lines(data, split, count, seed=0):
    rng = np.random.default_rng(seed)
    lists = load_lists(data, split)
    return [sample_line(rng, data, lists) for _ in range(count)]


@pytest.mark.parametrize(("name", "least", "shortest"), [("common", 500, 2), ("rare", 300, 3)])
def test_word_lists(name, least, shortest):
    words = read_words(name)
    assert len(words) >= least
    assert len(set(words)) == len(words)
    assert all(shortest <= len(word) <= 10 and set(word) <= set(letters_of("latin")) for word in words)


def test_word_lists_are_disjoint():
    assert not set(read_words("common")) & set(read_words("rare"))


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_line_is_of_its_kind_and_length_and_split(split):
    drawn = lines(Data(length=(3, 5)), split, 3000)
    for text, kind in drawn:
        assert 3 <= len(text) <= 5
        assert is_held_out(text) == (split == "test")
        if kind in ("word", "rare"):
            assert text in read_words("common" if kind == "word" else "rare")
        elif kind == "nonword":
            assert set(text) <= set(letters_of("latin"))
            assert text not in read_words("common") + read_words("rare")
        else:
            assert set(text) <= set(DIGITS)
    share = {kind: count / len(drawn) for kind, count in Counter(kind for _, kind in drawn).items()}
    assert share == pytest.approx({"word": 0.4, "rare": 0.2, "nonword": 0.3, "digits": 0.1}, abs=0.03)


def test_train_and_test_share_no_string():
    train, test = ({text for text, _ in lines(Data(length=(2, 3)), split, 4000)} for split in ("train", "test"))
    assert len(test) > 200
    assert not train & test


def test_about_15_percent_of_the_words_are_held_out_whatever_their_case():
    words = read_words("common") + read_words("rare")
    assert np.mean([is_held_out(word) for word in words]) == pytest.approx(0.15, abs=0.03)
    assert all(is_held_out(word) == is_held_out(word.lower()) for word in words[:50])


def test_a_kind_of_weight_zero_is_never_drawn():
    data = Data(kinds={"word": 0.0, "rare": 0.0, "nonword": 0.0, "digits": 1.0})
    assert {kind for _, kind in lines(data, "train", 200)} == {"digits"}


def test_lengths_without_any_word():
    with pytest.raises(UserError, match=r"data\.length: no listed word of 30 to 40 letters"):
        load_lists(Data(length=(30, 40), kinds={"nonword": 0.0, "digits": 0.0}), "train")


def test_captions_quote_every_line_and_use_only_the_vocabulary():
    rng = np.random.default_rng(0)
    seen = set()
    for font_words in ((), ("plain",), ("bold", "serif")):
        for color in PALETTE:
            text = caption(rng, ("OPEN", "24"), font_words, color, "dark green")
            assert quoted_strings(text) == ["OPEN", "24"]
            assert '"OPEN" and "24"' in text
            assert text.index('"') == len(" ".join(text.split()[:4])) + 1, "four words before the quotation mark"
            assert text.endswith(" ".join((*font_words, color)) + " letters on dark green")
            assert "  " not in text
            rest = text.replace('"OPEN"', "").replace('"24"', "").split()
            assert set(rest) <= set(vocabulary())
            seen.add(text.split('"')[0])
    assert len(seen) == 3
    assert vocabulary() == sorted(set(vocabulary()))
    assert set(FONT_WORDS) <= set(vocabulary())


def test_every_colour_has_partners_of_sufficient_contrast():
    for name, color in PALETTE.items():
        assert sum(contrast_ratio(color, other) >= 4.5 for other in PALETTE.values()) >= 1, name
