"""Sampling by its script: several models in one call, and only those that are not drawn yet."""

import errno
import importlib
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from legible.config import Generation
from legible.errors import UserError
from legible.io import read_jsonl, write_jsonl

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = [
    {"id": f"p{n}", "prompt": f'a sign that says "{word}"', "targets": [word]} for n, word in enumerate(("A", "B"))
]


@pytest.fixture
def weights(folders, tmp_path) -> list[Path]:
    """Two fine-tuned models: the base's transformer, changed a little."""
    made = []
    for seed in (0, 1):
        folder = tmp_path / f"weights{seed}" / "transformer"
        shutil.copytree(folders.zimage / "transformer", folder)
        (file,) = folder.glob("*.safetensors")
        generator = torch.Generator().manual_seed(seed)
        tensors = {name: t + 0.02 * torch.randn(t.shape, generator=generator) for name, t in load_file(file).items()}
        save_file(tensors, file)
        made.append(folder.parent)
    return made


@pytest.fixture
def generate(folders, tmp_path, monkeypatch):
    """Runs the script for some models; says which of them were drawn."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    script = importlib.import_module("generate_images")
    drawn, draw = [], script.draw
    monkeypatch.setattr(script, "draw", lambda *given: drawn.append(given[2]) or draw(*given))
    write_jsonl(tmp_path / "prompts.jsonl", PROMPTS)

    def run(weights: list[Path], store: bool = True, steps: int = 1, **more) -> list[str]:
        names = [f"arm-seed{n}" for n in range(len(weights))]
        generation = {"steps": steps, "seeds": [0], **more}
        config = {"model": {"path": str(folders.zimage)}, "generation": generation, "data": {}}
        options = ["--config", json.dumps(config), "--prompts", tmp_path / "prompts.jsonl", "--weights", *weights]
        options += ["--model-name", *names, "--output-dir", *(tmp_path / name / "short" for name in names)]
        options += ["--store", tmp_path / "store"] if store else []
        monkeypatch.setattr(sys, "argv", ["generate_images.py", *map(str, options)])
        drawn.clear()
        script.main()
        return list(drawn)

    return run


def test_one_call_draws_each_model_as_a_call_of_its_own_does(generate, weights, tmp_path):
    assert generate(weights, store=False) == ["arm-seed0", "arm-seed1"]
    together = [read_jsonl(tmp_path / f"arm-seed{n}" / "short" / "manifest.jsonl") for n in (0, 1)]
    assert [row["sha256"] for row in together[0]] != [row["sha256"] for row in together[1]]
    assert generate(weights[1:], store=False) == ["arm-seed0"]  # the second weights alone, by another name
    alone = read_jsonl(tmp_path / "arm-seed0" / "short" / "manifest.jsonl")
    assert [row["sha256"] for row in alone] == [row["sha256"] for row in together[1]]


def test_what_is_drawn_already_is_not_drawn_again(generate, weights, tmp_path):
    manifest = tmp_path / "arm-seed0" / "short" / "manifest.jsonl"
    assert generate(weights[:1]) == ["arm-seed0"]
    before = manifest.read_bytes()
    first, second = (manifest.with_name(f"p{n}_s0.png") for n in (0, 1))
    picture = first.read_bytes()
    shutil.rmtree(manifest.parent)  # as Snakemake does before a job
    assert generate(weights) == ["arm-seed1"]  # one more training seed
    assert manifest.read_bytes() == before
    assert first.read_bytes() == picture
    assert first.samefile(tmp_path / "store" / "arm-seed0_short" / first.name)  # on the disk once
    first.unlink()
    assert generate(weights) == []
    assert first.read_bytes() == picture
    second.write_bytes(b"damaged")  # in the store, too
    assert generate(weights) == ["arm-seed0"]
    (tmp_path / "store" / "arm-seed0_short" / first.name).unlink()
    assert generate(weights) == ["arm-seed0"]
    assert manifest.read_bytes() == before
    assert generate(weights, steps=2) == ["arm-seed0", "arm-seed1"]  # another setting
    assert generate(weights[::-1], steps=2) == ["arm-seed0", "arm-seed1"]  # other weights


@pytest.mark.parametrize("damage", ["target", "no sum", "nested", "pipe"])
def test_damaged_records_of_what_was_drawn_are_none(generate, weights, tmp_path, damage):
    """Scores refuse models that were asked for different targets, and would do so for ever."""
    manifest, drawn = tmp_path / "arm-seed0" / "short" / "manifest.jsonl", tmp_path / "store/arm-seed0_short/drawn.json"
    generate(weights[:1])
    before, record = manifest.read_bytes(), json.loads(drawn.read_text())
    drawn.unlink()
    if damage == "pipe":
        os.mkfifo(drawn)
    elif damage == "nested":
        drawn.write_text("[" * 100_000)
    elif damage == "target":
        record["rows"][0]["targets"] = ["OTHER"]
        drawn.write_text(json.dumps(record))
    else:
        drawn.write_text(json.dumps({key: record[key] for key in ("key", "rows")}))
    assert generate(weights[:1]) == ["arm-seed0"]
    assert manifest.read_bytes() == before
    assert generate(weights[:1]) == []


def test_a_pipe_in_place_of_a_kept_picture_is_not_waited_for(generate, weights, tmp_path):
    generate(weights[:1])
    picture = tmp_path / "store" / "arm-seed0_short" / "p0_s0.png"
    picture.unlink()
    os.mkfifo(picture)
    assert generate(weights[:1]) == ["arm-seed0"]
    assert picture.is_file()


def test_a_folder_in_place_of_the_record_is_named_before_anything_is_drawn(generate, weights, tmp_path):
    drawn = tmp_path / "store" / "arm-seed0_short" / "drawn.json"
    drawn.mkdir(parents=True)
    with pytest.raises(UserError, match=r"drawn\.json: a folder, where a file is needed; delete it"):
        generate(weights[:1])
    assert not (tmp_path / "arm-seed0").exists()


def test_where_there_are_no_hard_links_pictures_are_copied(generate, weights, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    generate(weights[:1])
    folder, store = tmp_path / "arm-seed0" / "short", tmp_path / "store" / "arm-seed0_short"
    names = [row["file"] for row in read_jsonl(folder / "manifest.jsonl")]
    assert [(folder / name).read_bytes() for name in names] == [(store / name).read_bytes() for name in names]
    assert not (folder / names[0]).samefile(store / names[0])
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "manifest.jsonl"])


def pictures(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)).astype(int) for path in sorted((folder / "short").glob("*.png"))])


def test_a_tuned_encoder_may_speak_in_the_last_steps_only(generate, folders, weights, tmp_path):
    encoder = tmp_path / "tuned" / "text_encoder"
    shutil.copytree(folders.zimage / "text_encoder", encoder)
    (file,) = encoder.glob("*.safetensors")
    save_file({name: 1.5 * tensor for name, tensor in load_file(file).items()}, file)
    drawn = {}
    for steps in (None, 3, 2, 1):
        more = {"tuned_steps": steps} if steps else {}
        generate([encoder.parent], store=False, steps=3, **more)
        drawn[steps] = pictures(tmp_path / "arm-seed0")
    assert np.abs(drawn[3] - drawn[None]).max() <= 1
    assert np.abs(drawn[2] - drawn[3]).max() > 1
    assert np.abs(drawn[1] - drawn[2]).max() > 1
    # A model whose encoder is the base's draws the same, bit for bit, however many steps that is.
    generate(weights[:1], store=False, steps=3)
    plain = pictures(tmp_path / "arm-seed0")
    generate(weights[:1], store=False, steps=3, tuned_steps=1)
    assert np.array_equal(pictures(tmp_path / "arm-seed0"), plain)


def test_more_tuned_steps_than_steps_are_refused():
    with pytest.raises(ValueError, match=r"tuned_steps: 9 is more than steps \(8\)"):
        Generation(tuned_steps=9)
