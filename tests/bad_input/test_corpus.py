"""The corpus of bad input: nothing of it is accepted, hangs or ends in a traceback, and every sentence helps."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from corpus import (
    GOOD,
    KINDS,
    ROOT,
    Entry,
    answer,
    as_snakemake_merges,
    entries,
    faults,
    in_a_place_of_its_own,
    written,
)

from legible.admit import admitted
from legible.errors import UserError

ALL = entries()
# Of each kind that Snakemake reads, spread over the file: through a process of its own, which takes seconds.
SAMPLE = [
    entry
    for kind, number in (("configuration", 6), ("configuration_files", 4), ("command_line", 2), ("prompts", 4))
    for entry in entries(kind)[:: -(-len(entries(kind)) // number)]
]


def test_there_is_enough_of_every_kind():
    counts = Counter(entry.kind for entry in ALL)
    assert set(counts) == set(KINDS)
    assert sum(counts.values()) >= 250
    assert all(len(entry.says) > 0 and all(entry.says) for entry in ALL)
    contents = [json.dumps(entry.content, sort_keys=True) for entry in ALL]
    assert len(set(contents)) == len(contents)


@pytest.mark.parametrize("entry", ALL, ids=str)
def test_it_is_refused_in_one_sentence(entry: Entry):
    sentence = answer(entry)
    assert sentence is not None, "accepted"
    assert faults(entry, sentence) == [], sentence


def test_what_is_right_is_accepted():
    with in_a_place_of_its_own():
        Path("x.jsonl").write_text(GOOD)
        overlays = [
            "{}",
            "prompt_sets: {x: {path: x.jsonl}}",
            "drift: {limit: 3}",
            "seeds: [2147483647]",
            "arms: {x: {method: lora, lora: {rank: 4096}}}",
            "title: 'Ünïcödé, 中文, \U0001f600 and می‌خواهم'",
            "training: {aux: {balance: linear, lambda: 0.2, loss: ctc, lambda_end: 0.1}}",
        ]
        for overlay in overlays:
            Path("mine.yaml").write_text(overlay, encoding="utf-8")
            config, regimes = admitted(as_snakemake_merges(Path("mine.yaml")), ROOT, [Path("mine.yaml")])
            assert (config.experiment, regimes) == ("nano", {})


def test_a_checkout_whose_path_snakemake_would_misread(tmp_path):
    folder = tmp_path / "a{b}"
    folder.mkdir()
    (folder / "config.yaml").symlink_to(ROOT / "config.yaml")
    with pytest.raises(
        UserError, match=r"a\{b\}: this project's path holds a brace or a line break; move or rename it"
    ):
        admitted(as_snakemake_merges(None), folder)


@pytest.mark.parametrize("overlay", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_overlay_is_admitted(overlay):
    """As far as its models lie here, it is whole in itself, and asks for no git history."""
    merged = as_snakemake_merges(overlay)
    if overlay.stem == "zimage_turbo_full" or merged["protocol"]:
        pytest.skip("laid over another overlay, or with a protocol")
    foreign = [key for key in ("model", "clip", "caption_clip", "aesthetic", "pickscore", "hps") if key in merged]
    for key in foreign:
        path = (merged[key] or {}).get("path", "resources/nano")
        if not path.startswith("resources/nano"):
            pytest.skip(f"{path} is not here")
    with in_a_place_of_its_own():
        admitted(merged, ROOT, [overlay, ROOT / "config.yaml"])


def test_a_file_can_be_asked_about_without_snakemake(tmp_path):
    for text, code, said in (
        ("experiment: mine", 0, "right: experiment mine, arms diffusion_only, clip_region, ctc\n"),
        ("title: 'a", 2, "error: mine.yaml, line 1: not valid YAML (found unexpected end of stream)\n"),
        ("trainign: {}", 2, "error: config.yaml (or --configfile/--config): trainign: unknown key; did you mean"),
    ):
        (tmp_path / "mine.yaml").write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "legible.admit", "mine.yaml"], cwd=tmp_path, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == code
        assert (done.stderr or done.stdout).startswith(said)


@pytest.mark.workflow
@pytest.mark.parametrize("entry", SAMPLE, ids=str)
def test_snakemake_itself_says_the_same(entry: Entry):
    with in_a_place_of_its_own() as place:
        command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1", "--snakefile", ROOT / "Snakefile"]
        if entry.kind == "command_line":
            command += ["--config", entry.content["text"]]
        else:
            (place / "mine.yaml").write_bytes(written(entry.content))
            command += ["--configfile", "mine.yaml"]
        if entry.kind == "prompts":
            (place / "x.jsonl").write_bytes(written(entry.content))
            x = {"drift": {"prompts": "x.jsonl"}} if entry.content.get("without") else None
            (place / "mine.yaml").write_text(yaml.safe_dump(x or {"prompt_sets": {"x": {"path": "x.jsonl"}}}))
        done = subprocess.run(
            command, cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
        )  # fmt: skip
        assert done.returncode == 1
        assert "Traceback" not in done.stdout
        for part in entry.says:
            assert part in done.stdout, done.stdout
        assert len(done.stdout.strip().splitlines()) <= 6
        assert not (place / "HACKED").exists()
