"""Prompt sets: one sentence for everything that can be wrong with them, and the shipped one keeps its promises."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from legible.config import Data, Fonts
from legible.corpus.fresh import overlaps, trained_words
from legible.corpus.prompt_files import check_prompt_file
from legible.corpus.prompts import Excluded, Prompt, load_prompts
from legible.corpus.scenes import BLENDED, COUNTS, PHRASINGS, SHAPES, STRIPED, TEMPLATES, scene_words
from legible.corpus.templates import PALETTE, quoted_strings, vocabulary
from legible.corpus.words import read_words
from legible.errors import UserError
from legible.nano.recipe import HELD_OUT_FONTS, TRAIN_FONTS, Recipe
from legible.render.fonts import find_fonts
from legible.render.scene import draw_scenes, split_of
from legible.render.sign import contrast_ratio, draw_prompt

ROOT = Path(__file__).resolve().parents[2]
SECOND = ROOT / "resources" / "prompts" / "held_out_2.jsonl"
HELD_OUT, SHIFT, NO_TEXT = (ROOT / "resources" / "prompts" / f"{n}.jsonl" for n in ("held_out", "shift", "no_text"))
SHIFT_FONTS = ["DejaVu Serif", "DejaVu Serif Italic", "DejaVu Sans Bold Oblique", "STIXGeneral", "cmb10"]
SHIFT_PLAN = {
    "word": {4: 7, 5: 9, 6: 11, 7: 17},
    "rare": {4: 3, 5: 4, 6: 5, 7: 8},
    "nonword": {4: 6, 5: 8, 6: 9, 7: 13},
    "digits": {4: 4, 5: 4, 6: 5, 7: 7},
}
CONFIRM_PLAN = {
    "word": {"4": 38, "5": 42, "6": 22},
    "rare": {"4": 18, "5": 34, "6": 28},
    "nonword": {"3": 20, "4": 24, "5": 24, "6": 20},
    "digits": {"3": 14, "4": 14, "5": 12, "6": 10},
}
VALIDATION_PLAN = {
    "word": {3: 6, 4: 6, 5: 7, 6: 7},
    "rare": {3: 2, 4: 2, 5: 3, 6: 3},
    "nonword": {2: 6, 3: 3, 4: 3, 5: 4, 6: 3},
    "digits": {2: 2, 3: 1, 4: 2, 5: 2, 6: 2},
}
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
        ([{**GOOD, "prompt": " "}], "`prompt` must be a non-empty text"),
        ([{**GOOD, "color": "mauve"}], "unknown color 'mauve'; allowed are white"),
        ([{**GOOD, "font": 3}], "`font` must be text, got 3"),
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


def test_prompts_without_text_have_no_target(tmp_path):
    row = {"id": "a", "prompt": "a sign on white", "targets": []}
    (prompt,) = load_prompts(write(tmp_path, row), text=False)
    assert (prompt.prompt, prompt.targets) == ("a sign on white", ())
    for targets in (["GO"], None, "", [""]):
        with pytest.raises(UserError, match="line 2: a prompt with a target; without text `targets` must be an empty"):
            load_prompts(write(tmp_path, row, row | {"id": "b", "targets": targets}), text=False)
    with pytest.raises(UserError, match="line 1: a prompt without a target"):
        load_prompts(write(tmp_path, row))


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


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("cafe\u0301", "CAF\u00c9S"),  # an accent as a character of its own, and composed
        ("CAF\u00c9", "cafe\u0301s"),
        ("\uff2f\uff30\uff25\uff2e", "REOPENED"),  # full-width
        ("NEW  YORK", "a new\u00a0york sign"),
        ("LI\u00adGHT", "LIGHTS"),  # a soft hyphen, which nobody sees
        ("STRA\u00dfE", "strasse"),
    ],
)
def test_excluded_finds_targets_however_they_are_encoded(target, text):
    """What a score does not tell from the target would be trained on."""
    assert Excluded.of([[Prompt("a", "p", (target,))]]).hit(text)
    assert not Excluded.of([[Prompt("a", "p", (f"{target}X",))]]).hit(text)


def test_a_target_of_which_nothing_is_seen_excludes_nothing():
    assert Excluded.of([[Prompt("a", "p", ("\u00ad",))]]).hit("OPEN") is None


def test_a_prompt_may_ask_for_its_target_in_another_encoding(tmp_path):
    composed, apart = "CAF\u00c9", "CAFE\u0301"
    row = {"id": "a", "prompt": f"a sign that says {composed}", "targets": [apart]}
    check_prompt_file(str(write(tmp_path, row)), text=True)


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


@pytest.mark.parametrize("path", [HELD_OUT, SHIFT, HELD_OUT.parent / "validation.jsonl"])
def test_every_shipped_prompt_can_be_drawn_as_it_says(path):
    fonts = [font for font in find_fonts(Fonts()) if font.usable]
    for prompt in load_prompts(path):
        assert quoted_strings(prompt.prompt) == list(prompt.targets)
        assert prompt.prompt.endswith(f" {prompt.color} letters on {prompt.background}")
        assert contrast_ratio(PALETTE[prompt.color], PALETTE[prompt.background]) >= 4.5
        sign = draw_prompt(prompt, Data(), fonts)
        assert (sign.lines, sign.font) == (prompt.targets, prompt.font)


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, f"scripts/{script}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


CYRILLIC = {  # set → seed, targets by length
    "cyrillic_dev": (2026, {3: 48, 4: 56, 5: 56}),
    "cyrillic": (2027, {3: 30, 4: 60, 5: 70}),
}


@pytest.mark.parametrize("name", list(CYRILLIC))
def test_the_cyrillic_sets_are_what_the_script_writes(name, tmp_path):
    """The second one, of configs/alphabet.yaml, shares no word with the one that its settings were chosen on."""
    seed, lengths = CYRILLIC[name]
    settings = yaml.safe_load((ROOT / "configs" / "alphabet.yaml").read_text(encoding="utf-8"))
    config = {"fonts": settings["fonts"], "data": {"script": "cyrillic", "length": settings["data"]["length"]}}
    config["fonts"]["characters"] += "0123456789"
    dev = ROOT / "resources" / "prompts" / "cyrillic_dev.jsonl"
    more = ["--exclude", dev] if name == "cyrillic" else []
    plan = json.dumps({"word": {str(length): count for length, count in lengths.items()}})
    arguments = ["--config", json.dumps(config), "--prefix", "cyrillic", "--seed", seed, "--plan", plan]
    done = run("make_prompts.py", *arguments, *more, "--output", tmp_path / "made.jsonl")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made.jsonl").read_bytes() == dev.with_name(f"{name}.jsonl").read_bytes()


def test_the_shift_set_is_what_the_script_writes(tmp_path):
    config = {"fonts": {"train": SHIFT_FONTS}, "data": {"length": [4, 7]}}
    path = tmp_path / "shift.jsonl"
    arguments = ["--config", json.dumps(config), "--plan", json.dumps(SHIFT_PLAN), "--prefix", "shift"]
    done = run("make_prompts.py", *arguments, "--exclude", HELD_OUT, "--output", path)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == SHIFT.read_bytes()


def test_the_second_held_out_set_is_what_the_script_writes_and_shares_no_target(tmp_path):
    config = {"fonts": {"train": TRAIN_FONTS, "held_out": HELD_OUT_FONTS}, "data": {}}
    path = tmp_path / "held_out_2.jsonl"
    arguments = ["--config", json.dumps(config), "--prefix", "held_out_2", "--seed", "2611"]
    done = run("make_prompts.py", *arguments, "--exclude", HELD_OUT, SHIFT, "--output", path)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == SECOND.read_bytes()
    targets = [p.targets[0] for p in load_prompts(SECOND)]
    others = [p.targets[0] for file in (HELD_OUT, SHIFT) for p in load_prompts(file)]
    assert len(set(targets)) == 160
    assert not [(a, b) for a in targets for b in others if a in b or b in a]


def test_the_confirmations_set_is_what_the_script_writes_and_is_fresh(tmp_path):
    """Drawn with every other prompt file in Latin taken out (docs/PROTOCOL.md)."""
    config = {"fonts": {"train": TRAIN_FONTS, "held_out": HELD_OUT_FONTS}, "data": {}}
    path = tmp_path / "confirm.jsonl"
    others = [HELD_OUT, SECOND, SHIFT, *(HELD_OUT.with_name(f"{name}.jsonl") for name in ("study", "validation"))]
    arguments = ["--config", json.dumps(config), "--prefix", "confirm", "--seed", "20261128", "--unseen"]
    arguments += ["--plan", json.dumps(CONFIRM_PLAN), "--exclude", *others]
    done = run("make_prompts.py", *arguments, "--output", path)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == HELD_OUT.with_name("confirm.jsonl").read_bytes()
    prompts = load_prompts(path)
    assert len(prompts) == 320
    assert overlaps(prompts, {str(other): load_prompts(other) for other in others}, trained_words("latin")) == []


def test_the_validation_set_is_what_the_script_writes_and_shares_no_target(tmp_path):
    """Its mix is about the held-out set's; no target is in one of the other sets' or holds one."""
    config = {"fonts": {"train": TRAIN_FONTS, "held_out": HELD_OUT_FONTS}, "data": {}}
    path, others = tmp_path / "validation.jsonl", (HELD_OUT, SECOND, SHIFT)
    arguments = ["--config", json.dumps(config), "--prefix", "validation", "--seed", "6464"]
    arguments += ["--plan", json.dumps(VALIDATION_PLAN), "--exclude", *others]
    done = run("make_prompts.py", *arguments, "--output", path)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == (HELD_OUT.parent / "validation.jsonl").read_bytes()
    targets = [p.targets[0] for p in load_prompts(path)]
    scored = [p.targets[0] for file in others for p in load_prompts(file)]
    assert len(set(targets)) == 64
    assert not [(a, b) for a in targets for b in scored if a in b or b in a]


def test_the_shift_set_is_longer_in_fonts_that_the_base_has_never_seen():
    prompts = load_prompts(SHIFT)
    assert len(prompts) == 120
    planned = {(kind, length): n for kind, by_length in SHIFT_PLAN.items() for length, n in by_length.items()}
    assert Counter((p.kind, len(p.targets[0])) for p in prompts) == planned
    assert Counter(p.font for p in prompts) == dict.fromkeys(SHIFT_FONTS, 24)
    assert not set(SHIFT_FONTS) & {*TRAIN_FONTS, *HELD_OUT_FONTS}
    known = set(vocabulary())
    assert all(set(p.prompt.replace(f'"{p.targets[0]}"', "").split()) <= known for p in prompts)


def test_no_target_of_the_shift_set_occurs_in_another_one_of_either_set():
    targets = [p.targets[0] for p in load_prompts(SHIFT)]
    every = targets + [p.targets[0] for p in load_prompts(HELD_OUT)]
    assert not [(a, b) for a in targets for b in every if a is not b and (a in b or b in a)]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("{", "--plan: Invalid JSON"),
        ('{"wrd": {"4": 1}}', "--plan: wrd.*'word', 'rare', 'nonword' or 'digits'"),
        ('{"word": {"4": 0}}', "--plan: word.4: it must be above 0, got 0"),
        ('{"word": {"19": 1}}', "--plan: word: no listed word has 19 letters"),
    ],
)
def test_a_bad_plan_is_named(tmp_path, plan, message):
    path = tmp_path / "prompts.jsonl"
    done = run("make_prompts.py", "--config", '{"fonts": {}, "data": {}}', "--plan", plan, "--output", path)
    assert done.returncode == 2
    assert re.search(message, done.stderr.splitlines()[-1])
    assert not path.exists()


DRIFT = ("--phrasing", "unseen", "--count", "240", "--seed", "2031", "--prefix", "no_text")
ANCHOR_SET = ("--phrasing", "taught", "--split", "train", "--count", "96", "--seed", "2032", "--prefix", "anchor")


@pytest.mark.parametrize(("name", "arguments"), [("no_text", DRIFT), ("anchor", ANCHOR_SET)])
def test_the_prompts_without_text_are_distinct_and_of_words_that_the_model_knows(name, arguments, tmp_path):
    done = run("make_scene_prompts.py", *arguments, "--output", tmp_path / f"{name}.jsonl")
    assert done.returncode == 0, done.stderr
    shipped = NO_TEXT.parent / f"{name}.jsonl"
    assert (tmp_path / f"{name}.jsonl").read_bytes() == shipped.read_bytes()
    prompts = load_prompts(shipped, text=False)
    assert len({p.prompt for p in prompts}) == len(prompts)
    assert len({p.background for p in prompts}) > 8
    for prompt in prompts:
        assert set(prompt.prompt.split()) <= {*vocabulary(), *scene_words()}
        assert quoted_strings(prompt.prompt) == []
        assert prompt.background in prompt.prompt
        assert (prompt.kind == "shapes") == (prompt.count is not None) == (prompt.shape is not None)
        assert not prompt.count or COUNTS[prompt.count - 1] in prompt.prompt.split()


def test_the_drift_prompts_share_neither_scene_nor_sentence_with_what_nano_and_its_anchor_saw():
    drift, anchor = (load_prompts(NO_TEXT.parent / f"{name}.jsonl", text=False) for name in ("no_text", "anchor"))
    told = ("kind", "count", "color", "shape", "background")
    scenes = [
        {tuple(getattr(p, key) for key in told) for p in prompts if p.kind == "shapes"} for prompts in (drift, anchor)
    ]
    assert not scenes[0] & scenes[1]

    def frames(prompts):
        """The sentences without colours, numbers and shapes."""
        said = "|".join(
            [*sorted(PALETTE, key=len, reverse=True), *COUNTS, *SHAPES.values(), *SHAPES, *STRIPED, *BLENDED]
        )
        return {re.sub(rf"\b({said})\b", "…", prompt.prompt) for prompt in prompts}

    assert not frames(drift) & frames(anchor)
    pool = [picture.scene for picture in draw_scenes(Recipe().seed, "train", 2000, 32, 64)]
    taught = {scene.phrased(t) for scene in pool for t in (TEMPLATES[scene.kind], *PHRASINGS[scene.kind])}
    assert not {prompt.prompt for prompt in drift} & taught


def test_as_many_scenes_as_there_are():
    done = run("make_scene_prompts.py", "--count", "0", "--output", "none.jsonl")
    assert (done.returncode, "--count: 1 to" in done.stderr) == (2, True)


def test_the_prompts_of_scenes_are_distinct_and_were_never_trained_on(tmp_path):
    done = run("make_scene_prompts.py", "--bare", "--output", tmp_path / "scenes.jsonl")
    assert done.returncode == 0, done.stderr
    shipped = NO_TEXT.parent / "scenes.jsonl"
    assert (tmp_path / "scenes.jsonl").read_bytes() == shipped.read_bytes()
    captions = [prompt.prompt for prompt in load_prompts(shipped, text=False)]
    assert len(set(captions)) == len(captions) == 64
    trained = {picture.scene.caption for picture in draw_scenes(Recipe().seed, "train", 2000, 32, 64)}
    assert {split_of(caption) for caption in captions} == {"test"}
    assert not set(captions) & trained
