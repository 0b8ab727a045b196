"""Calibration of judges: clean lines, counted by hand, and the verdict."""

import numpy as np
import pytest
from PIL import Image

from legible.config.scripts import known
from legible.errors import UserError
from legible.ocr import Engine, Reading, whole_image
from legible.ocr.calibration import LIMIT, Calibrated, calibrate, clean_lines, compared, fit_for

SCRIPTS = list(known().scripts)


def reader(answers: dict[bytes, str], wrong: int = 0) -> Engine:
    """Reads what it was told of a picture, the first `wrong` characters as something else."""

    def read(image: Image.Image) -> list[Reading]:
        text = answers[image.tobytes()]
        return [Reading(whole_image(image), "#" * wrong + text[wrong:], 1.0)] if text else []

    return Engine("fake", "1", read)


def answers_for(script: str, size: int, count: int) -> dict[bytes, str]:
    return {
        picture.tobytes(): text
        for font in known().scripts[script].fonts
        for kind in ("words", "phrases")
        for text, picture in clean_lines(script, font, size, kind, count, 10)
    }


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_judge_that_reads_all_makes_no_error(script):
    rows = list(calibrate(reader(answers_for(script, 24, 2)), script, (24,), 2))
    assert {row.font for row in rows} == set(known().scripts[script].fonts)
    assert all((row.errors, row.unread, row.lines) == (0, 0, 2) for row in rows)
    assert all(row.characters > 2 for row in rows)
    assert fit_for(rows, script, "fake") == [(font, 24) for font in known().scripts[script].fonts]


def test_errors_are_counted_by_hand():
    rows = list(calibrate(reader(answers_for("greek", 24, 3), wrong=1), "greek", (24,), 3))
    assert all(row.errors == 3 for row in rows)
    blind = Engine("blind", "1", lambda image: [])
    assert all(row.cer == 1 and row.unread == 3 for row in calibrate(blind, "greek", (24,), 3))


def test_lines_are_black_on_white_with_room_around_the_ink():
    for text, picture in clean_lines("arabic", "amiri", 30, "phrases", 4, 12):
        pixels = np.asarray(picture)
        assert text.count(" ") == 2
        assert pixels.min() < 60
        inner = np.argwhere(pixels.min(2) < 255)
        low, high = inner.min(0), inner.max(0)
        assert low.tolist() == [12, 12]
        assert (np.array(pixels.shape[:2]) - 1 - high).tolist() == [12, 12]


def test_scripts_without_spaces_are_compared_without_them():
    assert compared("写着 招牌") == "写着招牌"
    assert compared("two words") == "two words"


def test_a_judge_above_the_limit_is_refused():
    def row(kind: str, errors: int) -> Calibrated:
        return Calibrated("thai", "tesseract", "kanit", 24, kind, 30, 1000, errors, 0)

    assert fit_for([row("words", 0), row("phrases", int(1000 * LIMIT))], "thai", "tesseract") == [("kanit", 24)]
    with pytest.raises(
        UserError, match=r"tesseract cannot judge thai: .* gets 0\.070 of the characters wrong at best, 0\.03"
    ):
        fit_for([row("words", 0), row("phrases", 70)], "thai", "tesseract")
    with pytest.raises(UserError, match="rapidocr has not been calibrated for thai"):
        fit_for([row("words", 0)], "thai", "rapidocr")
