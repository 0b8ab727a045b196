"""The panel of damaged letters, with judges whose answers are known."""

import numpy as np
import pytest

from legible.config import Calibration, Data, Fonts
from legible.errors import UserError
from legible.ocr import Engine, to_reading, whole_image
from legible.ocr.panel import KINDS, NONE, OTHER_LETTER, overlooked, panel, reads_target
from legible.render.damage import DAMAGES
from legible.render.fonts import find_fonts, select_fonts

SETTINGS = Calibration(words=6, nonwords=6, fonts=("DejaVu Sans Bold",))
FONTS = select_fonts(find_fonts(Fonts()), SETTINGS.fonts)


@pytest.fixture(scope="module")
def pictures():
    return list(panel(SETTINGS, Data(), FONTS))


def engine(read) -> Engine:
    def readings(image):
        return [to_reading(whole_image(image), text, 1.0) for text in read(image)]

    return Engine("fake", "0", readings)


def test_the_panel_has_every_kind_severity_and_sort_of_text_in_the_datas_size(pictures):
    assert {shown.kind for shown in pictures} == set(KINDS)
    assert {shown.text for shown in pictures} == {"word", "nonword"}
    assert all((shown.image.height, shown.image.width) == (32, 64) for shown in pictures)
    assert all(len(shown.target) >= 3 for shown in pictures)
    for text in ("word", "nonword"):
        assert sum(shown.kind == NONE and shown.text == text for shown in pictures) == 6
    assert {s.severity for s in pictures if s.kind in DAMAGES} == {0.5, 1.0}


def test_the_first_and_the_last_letter_stay_whole(pictures):
    clean = {shown.target: np.asarray(shown.image) for shown in pictures if shown.kind == NONE}
    for shown in pictures:
        if shown.kind in DAMAGES:
            before, after = clean[shown.target], np.asarray(shown.image)
            inked = np.flatnonzero((before != before[0, 0]).any((0, 2)))
            changed = np.flatnonzero((before != after).any((0, 2)))
            assert inked[0] < changed[0]
            assert changed[-1] < inked[-1]


def test_a_judge_that_sees_all_and_one_that_is_blind(pictures):
    by_picture = {shown.image.tobytes(): shown.target for shown in pictures if shown.kind == NONE}
    sharp = overlooked(
        pictures, "sharp", reads_target(engine(lambda image: [by_picture.get(image.tobytes(), "nothing")]))
    )
    assert (sharp[sharp["kind"] == NONE]["share"] == 1).all()
    assert (sharp[sharp["kind"] != NONE]["share"] == 0).all()
    targets = iter([shown.target for shown in pictures])
    blind = overlooked(pictures, "blind", reads_target(engine(lambda image: [next(targets).lower()])))
    assert (blind["share"] == 1).all()  # also with another letter in its place: this judge reads nothing
    assert OTHER_LETTER in set(blind["kind"])
    assert list(blind.columns) == ["judge", "font", "text", "kind", "severity", "share", "n"]
    assert blind["n"].sum() == len(pictures)


def test_a_widely_set_reading_in_pieces_counts_as_the_target(pictures):
    targets = iter([shown.target for shown in pictures])

    def in_pieces(image):
        target = next(targets)
        return [target[:2] + " " + target[2:]]

    assert (overlooked(pictures, "pieces", reads_target(engine(in_pieces)))["share"] == 1).all()


def test_the_panel_is_the_same_every_time(pictures):
    again = list(panel(SETTINGS, Data(), FONTS))
    assert [s.image.tobytes() for s in again] == [s.image.tobytes() for s in pictures]


def test_too_many_words_for_too_small_signs_are_refused():
    with pytest.raises(UserError, match=r"calibration: .* of 5 words"):
        list(panel(Calibration(words=5), Data(width=16, font_size=(12, 20)), FONTS))
