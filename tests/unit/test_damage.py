"""Damage to one letter: it changes that letter, more with severity, and never leaves one that is well formed."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legible.config import Data, Fonts
from legible.render.damage import DAMAGES, MIN_CHANGE, PAD, change, damaged_glyph, damaged_mask, within
from legible.render.fonts import find_fonts
from legible.render.sign import draw_line, draw_sign

CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
SANS = next(font for font in find_fonts(Fonts()) if font.name == "DejaVu Sans")
KIND, LETTER = st.sampled_from(sorted(DAMAGES)), st.sampled_from(CHARACTERS)
SEVERITY, SEED = st.floats(0, 1), st.integers(0, 10_000)


def glyph(letter: str, size: int = 14) -> np.ndarray:
    return np.asarray(draw_line(letter, SANS.path, size).ink) / 255


@given(LETTER, KIND, SEVERITY, SEED)
def test_a_damage_counts_only_when_it_can_be_seen(letter, kind, severity, seed):
    before = glyph(letter)
    after = damaged_glyph(before, letter, kind, severity, np.random.default_rng(seed))
    if after is not None:
        assert after.shape == (before.shape[0] + 2 * PAD, before.shape[1] + 2 * PAD)
        assert after.min() >= 0
        assert after.max() <= 1
        assert change(within(before), after) >= MIN_CHANGE
        assert letter not in DAMAGES[kind].spared


@given(LETTER, KIND, SEED)
def test_no_severity_is_no_damage(letter, kind, seed):
    whole = within(glyph(letter))
    assert np.allclose(DAMAGES[kind].apply(whole, letter, 0.0, np.random.default_rng(seed)), whole, atol=1e-9)
    assert damaged_glyph(glyph(letter), letter, kind, 0.0, np.random.default_rng(seed)) is None


@pytest.mark.parametrize("kind", sorted(set(DAMAGES) - {"doubled", "warped", "melted", "speckled"}))
@given(letter=LETTER, seed=SEED, severities=st.tuples(SEVERITY, SEVERITY))
@settings(max_examples=30)
def test_a_severer_damage_of_one_seed_is_the_milder_one_and_more(kind, letter, seed, severities):
    whole, (low, high) = within(glyph(letter)), sorted(severities)
    mild, severe = (DAMAGES[kind].apply(whole, letter, s, np.random.default_rng(seed)) for s in (low, high))
    assert change(whole, severe) >= change(whole, mild) - 1e-6
    if kind in ("erased", "broken"):
        assert (severe <= mild + 1e-9).all()  # ink goes only
    if kind in ("extra_stroke", "blob"):
        assert (severe >= mild - 1e-9).all()  # ink comes only


@pytest.mark.parametrize("kind", sorted(DAMAGES))
def test_on_average_every_kind_changes_more_with_severity(kind):
    means = []
    for severity in (0.25, 0.5, 0.75, 1.0):
        pairs = [(letter, seed) for letter in CHARACTERS if letter not in DAMAGES[kind].spared for seed in range(3)]
        found = [
            change(whole, DAMAGES[kind].apply(whole, letter, severity, np.random.default_rng(seed)))
            for letter, seed in pairs
            for whole in [within(glyph(letter))]
        ]
        means.append(np.mean(found))
    assert all(a < b for a, b in pairwise(means))
    assert means[-1] > 2 * MIN_CHANGE


@pytest.mark.parametrize(("kind", "letters"), [("upside_down", "HINOSXZ08"), ("mirrored", "AHIMOTUVWXY08")])
def test_letters_that_turn_into_themselves_are_spared(kind, letters):
    for letter in letters:
        assert letter in DAMAGES[kind].spared
        assert damaged_glyph(glyph(letter), letter, kind, 1.0, np.random.default_rng(0)) is None
        if letter not in "I1":  # thin strokes fall between pixels
            whole = within(glyph(letter, 40))
            assert change(whole, DAMAGES[kind].apply(whole, letter, 1.0, np.random.default_rng(0))) < 0.45
    for letter in "FGJKLPR47":  # these do not
        assert damaged_glyph(glyph(letter), letter, kind, 1.0, np.random.default_rng(0)) is not None


def test_turned_six_nine_m_and_w_are_other_letters_and_count_as_well_formed():
    assert set("69MW") <= DAMAGES["upside_down"].spared


def test_halves_of_one_letter_by_hand():
    part = np.array([[1.0, 0, 0]] * 2 + [[0, 0, 1.0]] * 2)
    after = damaged_glyph(part, "Z", "halves", 1.0, np.random.default_rng(0))
    assert np.array_equal(after[PAD:-PAD, PAD:-PAD], part[[2, 3, 0, 1]])


@given(KIND, st.sampled_from(["SERIF", "K7B4D", "MAGIC"]), SEED)
@settings(max_examples=60)
def test_only_the_letter_in_the_box_is_damaged(kind, text, seed):
    sign = draw_sign((text,), SANS, 14, "white", "black", Data())
    box = sign.character_boxes[2]
    after = damaged_mask(sign.mask, box, text[2], kind, 1.0, np.random.default_rng(seed))
    if after is None:
        return
    assert after.shape == sign.mask.shape
    assert after.dtype == np.uint8
    x0, y0, x1, y1 = box
    around = np.ones(sign.mask.shape, bool)
    around[max(0, y0 - PAD) : y1 + PAD, max(0, x0 - PAD) : x1 + PAD] = False
    assert np.array_equal(after[around], sign.mask[around])
    outside = np.ones(sign.mask.shape, bool)
    outside[y0:y1, x0:x1] = False
    assert (after[outside] >= sign.mask[outside]).all()  # the neighbours keep their ink


def test_unknown_kinds_and_severities_are_errors():
    for kind, severity in (("burnt", 0.5), ("erased", 1.5)):
        with pytest.raises(ValueError, match="a kind of erased"):
            damaged_glyph(glyph("A"), "A", kind, severity, np.random.default_rng(0))
