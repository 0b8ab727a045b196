"""Signs: boxes hold the ink and nothing else, colours and rejections mean what they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legible.config import Data, Fonts
from legible.corpus.prompts import Prompt
from legible.corpus.templates import PALETTE
from legible.errors import UserError
from legible.render.fonts import find_fonts, select_fonts
from legible.render.sign import contrast_ratio, draw_prompt, draw_sign, luminance

FONTS = {font.name: font for font in select_fonts(find_fonts(Fonts()), (), ())}
WIDE = Data(height=96, width=512, font_size=(8, 40), lines=(1, 3), jitter=20)
words = st.text(alphabet=Fonts().characters, min_size=1, max_size=10)


def ink_box(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def union(boxes):
    boxes = np.array(boxes)
    return (*map(int, boxes[:, :2].min(0)), *map(int, boxes[:, 2:].max(0)))


def edges(mask, box):
    """The largest coverage on each of the four sides of a box."""
    crop = mask[box[1] : box[3], box[0] : box[2]]
    return [crop[0].max(), crop[-1].max(), crop[:, 0].max(), crop[:, -1].max()]


@settings(deadline=None, max_examples=150)
@given(text=words, name=st.sampled_from(sorted(FONTS)), size=st.integers(8, 40), shift=st.floats(-1, 1))
def test_boxes_are_ink_tight(text, name, size, shift):
    sign = draw_sign((text,), FONTS[name], size, "white", "black", WIDE, (shift, -shift))
    assert sign is not None
    box = ink_box(sign.mask)
    assert sign.line_boxes == (box,)
    assert sign.word_boxes == (box,)
    assert union(sign.character_boxes) == box
    assert len(sign.character_boxes) == len(text)
    outside = sign.mask.copy()
    for x0, y0, x1, y1 in sign.character_boxes:
        assert min(edges(sign.mask, (x0, y0, x1, y1))) > 0
        outside[y0:y1, x0:x1] = 0
    assert not outside.any()


def test_character_boxes_equal_the_runs_of_ink_where_letters_do_not_touch():
    sign = draw_sign(("HEIL7",), FONTS["DejaVu Sans Mono"], 40, "white", "black", WIDE)
    inked = np.concatenate([[0], sign.mask.any(0), [0]]).astype(int)
    starts, ends = np.flatnonzero(np.diff(inked) == 1), np.flatnonzero(np.diff(inked) == -1)
    assert [(box[0], box[2]) for box in sign.character_boxes] == list(zip(starts, ends, strict=True))


def test_words_and_lines_have_their_own_boxes_in_reading_order():
    sign = draw_sign(("NO EXIT", "24"), FONTS["DejaVu Sans"], 24, "white", "black", WIDE)
    (no, exit_, number), (first, second) = sign.word_boxes, sign.line_boxes
    assert union([no, exit_]) == first
    assert number == second
    assert no[2] < exit_[0]
    assert first[3] <= second[1]
    assert union(sign.line_boxes) == ink_box(sign.mask)
    assert len(sign.character_boxes) == 8


def test_text_is_centred_by_its_ink_and_stays_inside_the_margins():
    data = Data(height=64, width=256, font_size=(10, 20), margin=5)
    x0, y0, x1, y1 = draw_sign(("QUAY",), FONTS["DejaVu Sans"], 20, "white", "black", data).line_boxes[0]
    assert abs(x0 - (256 - x1)) <= 1
    assert abs(y0 - (64 - y1)) <= 1
    far = Data(height=64, width=256, font_size=(10, 20), margin=5, jitter=1000)
    sign = draw_sign(("QUAY",), FONTS["DejaVu Sans"], 20, "white", "black", far, (1.0, 1.0))
    assert sign.line_boxes[0][2:] == (251, 59)


@pytest.mark.parametrize(
    ("first", "second", "ratio"),
    [
        ((0, 0, 0), (255, 255, 255), 21.0),
        ((255, 255, 255), (0, 0, 0), 21.0),
        ((9, 9, 9), (9, 9, 9), 1.0),
        ((119, 119, 119), (255, 255, 255), 4.478),  # the well-known #777, which just fails 4.5 on white
        ((118, 118, 118), (255, 255, 255), 4.542),  # and #767676, which just passes
        ((255, 0, 0), (255, 255, 255), 3.998),
        ((0, 0, 255), (255, 255, 255), 8.592),
    ],
)
def test_contrast_is_wcag(first, second, ratio):
    assert contrast_ratio(first, second) == pytest.approx(ratio, abs=1e-3)


def test_luminance_weights():
    assert [round(luminance(c), 4) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255))] == [0.2126, 0.7152, 0.0722]


def test_image_is_background_plus_coverage_times_difference():
    sign = draw_sign(("GO",), FONTS["DejaVu Serif"], 30, "orange", "dark blue", WIDE)
    low, high = (np.array(PALETTE[name], float) for name in ("dark blue", "orange"))
    expected = low + (high - low) * sign.mask[..., None] / 255
    assert np.abs(sign.image - expected).max() <= 0.5
    assert sign.image.shape == (96, 512, 3)
    assert 0 < (sign.mask % 255 > 0).mean() < 0.1, "anti-aliased edges"


def test_the_size_shrinks_until_the_text_fits_and_no_further():
    data = Data(font_size=(8, 20))
    sign = draw_sign(("OYSTER",), FONTS["DejaVu Sans Bold"], 20, "white", "black", data)
    assert 8 <= sign.font_size < 20
    larger = Data(font_size=(sign.font_size + 1, 20))
    assert draw_sign(("OYSTER",), FONTS["DejaVu Sans Bold"], 20, "white", "black", larger) is None


def test_without_boxes_the_pixels_are_the_same():
    full = draw_sign(("OPEN",), FONTS["cmss10"], 16, "white", "black", Data())
    fast = draw_sign(("OPEN",), FONTS["cmss10"], 16, "white", "black", Data(), boxes=False)
    assert np.array_equal(full.image, fast.image)
    assert fast.line_boxes == full.line_boxes
    assert fast.character_boxes == ()


def test_a_prompt_is_drawn_as_it_asks():
    fonts = [FONTS["DejaVu Sans"], FONTS["cmr10"]]
    asked = draw_prompt(Prompt("a", "p", ("OPEN",), "word", "cmr10", "black", "yellow"), Data(), fonts)
    assert (asked.font, asked.color, asked.background, asked.kinds) == ("cmr10", "black", "yellow", ("word",))
    plain = draw_prompt(Prompt("a", "p", ("OPEN", "24")), Data(height=64), fonts)
    assert (plain.font, plain.color, plain.background) == ("DejaVu Sans", "white", "dark green")
    assert plain.lines == ("OPEN", "24")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Prompt("a", "p", ("EXTRAORDINARY",)), "prompt 'a': its targets do not fit"),
        (Prompt("a", "p", ("OPEN",), "word", "Nix"), "prompt 'a': the font 'Nix' was not found"),
        (Prompt("a", "p", ("open",)), "not known to draw 'enop'"),
    ],
)
def test_a_prompt_that_cannot_be_drawn(prompt, message):
    with pytest.raises(UserError, match=message):
        draw_prompt(prompt, Data(), [FONTS["DejaVu Sans"]])
