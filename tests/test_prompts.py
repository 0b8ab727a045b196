"""Prompt sets: one sentence for everything that can be wrong with them, and the shipped one keeps its promises."""

import json
from collections import Counter
from pathlib import Path

import pytest

from legible.config import Data, Fonts
from legible.corpus.prompts import Excluded, Prompt, load_prompts
from legible.corpus.templates import PALETTE, quoted_strings
from legible.corpus.words import read_words
from legible.errors import UserError
from legible.render.fonts import find_fonts
from legible.render.sign import contrast_ratio, draw_prompt

HELD_OUT = Path(__file__).parents[1] / "resources" / "prompts" / "held_out.jsonl"
GOOD = {"id": "a-1", "prompt": 'a sign that says "GO"', "targets": ["GO"]}


def write(tmp_path, *rows):
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_a_prompt_set_is_read_in_order_and_limited(tmp_path):
    path = write(tmp_path, GOOD, "", GOOD | {"id": "b", "kind": "word", "font": "cmr10", "color": "red"})
    first, second = load_prompts(path)
    assert first == Prompt("a-1", GOOD["prompt"], ("GO",), "other", None, None, None)
    assert (second.kind, second.font, second.color, second.background) == ("word", "cmr10", "red", None)
    assert load_prompts(path, 1) == (first,)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no prompt in it"),
        (["", "  "], "no prompt in it"),
        ([GOOD, "", {**GOOD, "id": "b", "targets": []}], "line 3: a prompt without a target"),
        ([{"id": "b", "prompt": "x"}], "line 1: a prompt without a target"),
        ([{**GOOD, "targets": [" "]}], "line 1: a prompt without a target"),
        ([{**GOOD, "targets": "GO"}], "line 1: a prompt without a target"),
        ([GOOD, GOOD], "the id 'a-1' occurs twice"),
        ([GOOD, {**GOOD, "id": "A-1"}], "the id 'A-1' occurs twice"),
        ([{**GOOD, "id": "../etc"}], "line 1: the id '../etc' must consist of"),
        ([{**GOOD, "id": "a\n"}], "must consist of"),
        ([{**GOOD, "id": ""}], "must consist of"),
        ([{**GOOD, "id": 3}], "must consist of"),
        ([{**GOOD, "prompt": " "}], "`prompt` must be a non-empty string"),
        ([{**GOOD, "color": "mauve"}], "unknown color 'mauve'; allowed are white"),
        ([{**GOOD, "font": 3}], "`font` must be a string, got 3"),
        ([{**GOOD, "colour": "red"}], "unknown key 'colour'; allowed are id"),
        ([GOOD, "{"], "line 2: not a JSON object"),
        (["[1]"], "line 1: a JSON object is needed"),
    ],
)
def test_bad_prompt_files(tmp_path, rows, message):
    path = write(tmp_path, *rows)
    with pytest.raises(UserError, match=message) as caught:
        load_prompts(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_prompt_file(tmp_path):
    with pytest.raises(UserError, match="no such prompt file"):
        load_prompts(tmp_path / "nowhere.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        load_prompts(tmp_path / "binary")


@pytest.mark.parametrize(
    ("text", "hit"),
    [("OPEN", "open"), ("reopened", "open"), ("OP EN", None), ("24", "24"), ("1245", "24"), ("OPE", None), ("", None)],
)
def test_excluded_finds_targets_inside_longer_strings_in_any_case(text, hit):
    excluded = Excluded.of([[Prompt("a", "p", ("Open",))], [Prompt("b", "p", ("24", "STRASSE"))]])
    assert excluded.hit(text) == hit


def test_excluded_agrees_with_trying_every_target():
    prompts = load_prompts(HELD_OUT)
    excluded = Excluded.of([prompts])
    targets = [target for prompt in prompts for target in prompt.targets]
    for word in read_words("common") + read_words("rare"):
        assert (excluded.hit(word) is not None) == any(target in word for target in targets)


def test_the_shipped_set_has_the_planned_mix():
    prompts = load_prompts(HELD_OUT)
    assert len(prompts) == 160
    assert Counter(len(p.targets[0]) for p in prompts) == {2: 20, 3: 35, 4: 35, 5: 35, 6: 35}
    assert Counter(p.kind for p in prompts) == {"word": 64, "nonword": 48, "rare": 24, "digits": 24}
    # `limit` keeps about this mix.
    for kind, count in Counter(p.kind for p in prompts[:64]).items():
        assert count / 64 == pytest.approx(sum(p.kind == kind for p in prompts) / 160, abs=0.1)


def test_no_shipped_target_occurs_in_another_and_two_letter_targets_occur_in_no_word():
    targets = [p.targets[0] for p in load_prompts(HELD_OUT)]
    assert not [(a, b) for a in targets for b in targets if a is not b and a in b]
    words = read_words("common") + read_words("rare")
    assert not [t for t in targets if len(t) == 2 and any(t in word for word in words)]


def test_every_shipped_prompt_can_be_drawn_as_it_says():
    fonts = [font for font in find_fonts(Fonts()) if font.usable]
    for prompt in load_prompts(HELD_OUT):
        assert quoted_strings(prompt.prompt) == list(prompt.targets)
        assert prompt.prompt.endswith(f" {prompt.color} letters on {prompt.background}")
        assert contrast_ratio(PALETTE[prompt.color], PALETTE[prompt.background]) >= 4.5
        sign = draw_prompt(prompt, Data(), fonts)
        assert (sign.lines, sign.font) == (prompt.targets, prompt.font)
