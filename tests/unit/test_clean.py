"""What a judge gets wrong on our own clean renders, and who is refused."""

import pandas as pd
import pytest

from legible.config import Scoring
from legible.errors import UserError
from legible.ocr.clean import check_fit, clean_errors

POLYGON = [[0, 0], [9, 0], [9, 9], [0, 9]]


def rows(texts: dict[str, tuple[str, str]]) -> tuple[list[dict], list[dict]]:
    """Manifest and readings of target → (kind, what was read)."""
    images, readings = [], []
    for number, (target, (kind, read)) in enumerate(texts.items()):
        own = {"file": f"{number}.png", "prompt_id": f"p{number}", "image_seed": 0}
        images.append(own | {"targets": [target], "kind": kind, "font": None})
        found = [{"polygon": POLYGON, "text": read, "confidence": 0.9}] if read else []
        readings.append(own | {"engine": "rapidocr", "engine_version": "1", "readings": found})
    return images, readings


TEXTS = {"SHOP": ("word", "SHOP"), "WAY": ("word", "way"), "XQZ": ("nonword", "XOZ"), "12": ("digits", "")}


@pytest.fixture
def table() -> pd.DataFrame:
    images, readings = rows(TEXTS)
    model = ("ceiling_render", "short")
    return clean_errors({model: images}, {("rapidocr", *model): readings}, Scoring())


def test_errors_are_counted_by_kind(table):
    found = table.set_index("kind")[["images", "unread", "characters", "errors"]].T.to_dict("list")
    assert found == {"digits": [1, 1, 2, 2], "nonword": [1, 0, 3, 1], "word": [2, 0, 7, 0]}
    assert table.set_index("kind")["cer"]["nonword"] == pytest.approx(1 / 3)


def test_a_judge_above_the_limit_is_refused_with_what_it_cannot_read(table):
    with pytest.raises(UserError) as error:
        check_fit(table, 0.03)
    said = str(error.value)
    assert "ocr.rapidocr: it cannot judge the prompt set short" in said
    assert "gets 0.250 of the characters wrong (digits 1.000, nonword 0.333, word 0.000)" in said
    assert "scoring.judge_limit is 0.03" in said
    assert "\n" not in said


def test_a_judge_at_the_limit_may_judge(table):
    check_fit(table, 0.25)
    check_fit(table[table["kind"] == "word"], 0.0)
