"""The dataset: same bytes whatever the workers, no target inside it, files that other tools open."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest

from legible.config import Data, Fonts, sections
from legible.corpus.prompts import Excluded, Prompt, load_prompts
from legible.corpus.templates import quoted_strings
from legible.corpus.words import is_held_out
from legible.errors import UserError
from legible.render.dataset import CHUNK, load_images, load_table, read_columns, render_signs, write_dataset
from legible.render.fonts import find_fonts, select_fonts

ROOT = Path(__file__).resolve().parents[2]
HELD_OUT = ROOT / "resources" / "prompts" / "held_out.jsonl"
NONE = Excluded.of([])
DATA = Data(jitter=3)
EVERY = find_fonts(Fonts())
TRAIN = select_fonts(EVERY, ("DejaVu Sans", "DejaVu Serif Bold", "cmss10"))
TEST = select_fonts(EVERY, ("cmr10",))


def content(sign):
    arrays = (sign.image.tobytes(), sign.mask.tobytes())
    return {k: v for k, v in vars(sign).items() if k not in ("image", "mask")}, *arrays


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    excluded = Excluded.of([load_prompts(HELD_OUT)])
    train, rejected = render_signs(DATA, TRAIN, "train", 60, excluded)
    test, rejected_test = render_signs(DATA, TEST, "test", 20, excluded)
    summary = write_dataset(folder, train, test, {"train": rejected, "test": rejected_test}, excluded)
    return folder, train, test, summary


def test_the_bytes_do_not_depend_on_workers_count_or_start():
    count = CHUNK + 20
    alone, rejected = render_signs(DATA, TRAIN, "train", count, NONE, workers=1)
    together, rejected_together = render_signs(DATA, TRAIN, "train", count, NONE, workers=2)
    assert [content(sign) for sign in alone] == [content(sign) for sign in together]
    assert rejected == rejected_together
    later, _ = render_signs(DATA, TRAIN, "train", 5, NONE, start=CHUNK)
    assert [content(sign) for sign in later] == [content(sign) for sign in alone[CHUNK : CHUNK + 5]]


def test_another_seed_or_split_draws_other_signs():
    texts = {
        (seed, split): [s.lines for s in render_signs(Data(seed=seed), TRAIN, split, 20, NONE)[0]]
        for seed, split in ((0, "train"), (1, "train"), (0, "test"))
    }
    assert len({tuple(lines) for lines in texts.values()}) == 3


def test_every_sign_keeps_the_rules(dataset):
    _, train, test, _ = dataset
    for sign in train + test:
        assert sign.contrast >= DATA.contrast
        assert quoted_strings(sign.caption) == list(sign.lines)
        x0, y0, x1, y1 = sign.line_boxes[0]
        assert min(x0, y0, DATA.width - x1, DATA.height - y1) >= DATA.margin
    assert [sign.index for sign in train] == list(range(60))


def test_held_out_words_and_fonts_are_disjoint_from_training(dataset):
    _, train, test, _ = dataset
    assert not {sign.font for sign in train} & {sign.font for sign in test}
    assert not any(is_held_out(line) for sign in train for line in sign.lines)
    assert all(is_held_out(line) for sign in test for line in sign.lines)


def test_no_target_occurs_in_the_training_text(dataset):
    _, train, test, summary = dataset
    targets = [target for prompt in load_prompts(HELD_OUT) for target in prompt.targets]
    assert not [(t, s.lines) for s in train + test for t in targets if any(t in line for line in s.lines)]
    assert summary["excluded_targets"] == 160
    # Every text, and every quoted string of every caption.
    assert summary["splits"]["train"]["strings_checked_for_targets"] == 120


def test_a_forced_violation_is_found_before_anything_is_written(tmp_path):
    train, rejected = render_signs(DATA, TRAIN, "train", 5, NONE)
    target = train[3].lines[0][:-1] or train[3].lines[0]
    late = Excluded.of([[Prompt("late", "p", (target,))]])
    with pytest.raises(
        UserError, match="is a target that the dataset also trains on: sample 3 of the train split"
    ) as e:
        write_dataset(tmp_path, train, [], {"train": rejected}, late)
    assert f"'{target.lower()}'" in str(e.value)
    assert f"'{train[3].lines[0]}'" in str(e.value)
    assert not list(tmp_path.iterdir())


def test_rejections_are_counted_by_reason():
    narrow = Data(width=48, font_size=(14, 20))
    excluded = Excluded.of([[Prompt(str(i), "p", (letter,)) for i, letter in enumerate("EA")]])
    _, rejected = render_signs(narrow, TRAIN, "train", 40, excluded)
    assert set(rejected) == {"contrast", "overflow", "excluded"}
    assert min(rejected.values()) > 10
    _, easy = render_signs(Data(width=256, contrast=1.0), TRAIN, "train", 40, NONE)
    assert easy == Counter()


@pytest.mark.parametrize(
    ("data", "excluded", "message"),
    [
        (Data().model_copy(update={"contrast": 22.0}), "", r"for contrast \(100% .* lower data\.contrast"),
        (Data(width=8), "", r"for overflow \(100% .* lower data\.font_size"),
        (Data(contrast=1.0), "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", r"for excluded \(100% .* raise data\.length"),
    ],
)
def test_when_nothing_is_accepted_the_error_says_which_key_to_change(data, excluded, message):
    targets = Excluded.of([[Prompt("a", "p", tuple(excluded))]])
    with pytest.raises(UserError, match=message):
        render_signs(data, TRAIN, "train", 1, targets)


def test_a_font_checked_for_too_few_characters_is_an_error():
    few = select_fonts(find_fonts(Fonts(characters="ABC")), ("cmr10",))
    with pytest.raises(UserError, match=r"add the characters to fonts\.characters"):
        render_signs(DATA, few, "train", 1, NONE)


def test_several_lines(tmp_path):
    data = Data(height=96, width=128, lines=(2, 3))
    signs, rejected = render_signs(data, TRAIN, "train", 20, NONE)
    assert {len(sign.lines) for sign in signs} == {2, 3}
    assert all(len(s.line_boxes) == len(s.kinds) == len(s.lines) for s in signs)
    write_dataset(tmp_path, signs, [], {"train": rejected}, NONE)
    assert list(load_table(tmp_path / "train.parquet").text) == ["\n".join(sign.lines) for sign in signs]
    assert load_images(tmp_path / "test.parquet").shape == (0, 0, 0, 3)


def test_the_parquet_opens_with_datasets_images_included(dataset, tmp_path):
    folder, _, test, _ = dataset
    files = {split: str(folder / f"{split}.parquet") for split in ("train", "test")}
    opened = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path))
    assert {split: len(opened[split]) for split in files} == {"train": 60, "test": 20}
    assert isinstance(opened["train"].features["image"], datasets.Image)
    for row, sign in zip(opened["test"], test, strict=True):
        assert np.array_equal(np.asarray(row["image"]), sign.image)
        assert np.array_equal(np.asarray(row["mask"]), sign.mask)
        assert row["character_boxes"] == [list(box) for box in sign.character_boxes]
        assert (row["text"], row["caption"], row["font"]) == (sign.lines[0], sign.caption, sign.font)


def test_reading_back(dataset):
    folder, train, _, summary = dataset
    path = folder / "train.parquet"
    assert np.array_equal(load_images(path), np.stack([sign.image for sign in train]))
    assert np.array_equal(load_images(path, "mask"), np.stack([sign.mask for sign in train]))
    table = load_table(path)
    assert list(table.kind) == [sign.kinds[0] for sign in train]
    assert [tuple(map(tuple, boxes)) for boxes in table.word_boxes] == [sign.word_boxes for sign in train]
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert sum(summary["splits"]["train"]["fonts"].values()) == 60


def test_a_truncated_or_missing_shard_is_named(dataset, tmp_path):
    shard = tmp_path / "train.parquet"
    whole = (dataset[0] / "train.parquet").read_bytes()
    with pytest.raises(UserError, match="no such dataset file"):
        load_table(shard)
    for part in (whole[: len(whole) // 2], b"", b"PAR1"):
        shard.write_bytes(part)
        with pytest.raises(UserError, match=f"{shard}: the shard is truncated or damaged"):
            load_images(shard)
    with pytest.raises(UserError, match="truncated or damaged"):
        read_columns(dataset[0] / "summary.json", ["text"])


def run(script, *arguments):
    command = [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)


def test_the_scripts_from_fonts_to_ceiling(tmp_path):
    config = tmp_path / "config.json"
    names = {"train": ["DejaVu Sans", "cmss10"], "held_out": ["cmr10"]}
    config.write_text(json.dumps({"fonts": names, "data": {"train": 12, "test": 4}}))
    fonts = tmp_path / "fonts.json"
    done = run("inspect_fonts.py", "--config", config, "--output", fonts, "--sheet", tmp_path / "sheet.png")
    assert done.returncode == 0, done.stderr
    assert "draws 'A' and 'B' as the same glyph" in done.stderr
    common = ("--config", config, "--fonts", fonts, "--prompts", HELD_OUT)
    done = run("render_dataset.py", *common, "--output-dir", tmp_path / "data")
    assert done.returncode == 0, done.stderr
    assert set(load_table(tmp_path / "data" / "test.parquet").font) == {"cmr10"}
    done = run("render_ceiling.py", *common, "--limit", 5, "--output-dir", tmp_path / "ceiling")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "ceiling" / "manifest.jsonl").read_text().splitlines()]
    assert [row["prompt_id"] for row in rows] == [prompt.id for prompt in load_prompts(HELD_OUT, 5)]
    assert all((tmp_path / "ceiling" / row["file"]).is_file() and row["model"] == "ceiling_render" for row in rows)


def test_the_prompt_script_writes_the_shipped_file(tmp_path):
    fonts = {"train": ["DejaVu Sans", "DejaVu Sans Bold", "DejaVu Serif Bold", "STIXGeneral Bold", "cmss10"]}
    config = json.dumps({"fonts": fonts, "data": {}})
    done = run("make_prompts.py", "--config", config, "--output", tmp_path / "prompts.jsonl")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "prompts.jsonl").read_bytes() == HELD_OUT.read_bytes()


def test_a_script_says_what_is_wrong_in_one_line(tmp_path):
    config = '{"fonts": {"train": ["Comic Sans"]}}'
    done = run("inspect_fonts.py", "--config", config, "--output", tmp_path / "fonts.json")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: fonts: the font 'Comic Sans' was not found")
    assert not (tmp_path / "fonts.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "--config: not valid JSON"),
        ("nowhere.json", "nowhere.json: no such configuration file"),
        ('{"dato": {}}', "dato: unknown key; did you mean `data`"),
        ("{}", "the section data is missing"),
        ('{"data": {"widht": 3}}', "data.widht: unknown key"),
        ('{"data": {"contrast": "4.5"}}', "data.contrast: '4.5' is text"),
        ('{"data": {"length": [5, 2]}}', "the first number must not exceed"),
    ],
)
def test_bad_sections(text, message):
    with pytest.raises(UserError, match=message):
        sections(text, "data")


def test_sections_are_the_validated_objects():
    parsed = sections('{"data": {"width": 128}, "seeds": [3]}', "data")
    assert parsed == {"data": Data(width=128), "seeds": (3,)}
