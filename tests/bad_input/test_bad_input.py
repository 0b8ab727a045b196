"""Bad input, handed to the real scripts: one sentence on standard error, exit status 2, and nothing half done."""

import importlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training import settings, small_data

from legible.errors import run_cli
from legible.io import write_jsonl
from legible.train import session
from legible.train.checkpoint import load_checkpoint
from legible.train.data import save_training_data

ROOT = Path(__file__).resolve().parents[2]
PROMPT = {"id": "p0", "prompt": 'a sign that says "OPEN" in red letters on white', "targets": ["OPEN"]}


class Failure:
    """Runs a script's `main` in this process (importing torch anew takes ten seconds) and expects it to refuse."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def run(self, script: str, *arguments: str | Path) -> None:
        self.monkeypatch.chdir(ROOT)
        self.monkeypatch.syspath_prepend(str(ROOT / "scripts"))
        self.monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, arguments)])
        self.capsys.readouterr()
        run_cli(importlib.import_module(script).main)

    def sentence(self, script: str, *arguments: str | Path) -> str:
        """The one line that it says."""
        with pytest.raises(SystemExit) as caught:
            self.run(script, *arguments)
        assert caught.value.code == 2
        lines = [line for line in self.capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0].removeprefix("error: ")


@pytest.fixture
def failure(monkeypatch, capsys) -> Failure:
    return Failure(monkeypatch, capsys)


@pytest.fixture
def prompts(tmp_path) -> Path:
    write_jsonl(tmp_path / "prompts.jsonl", [PROMPT])
    return tmp_path / "prompts.jsonl"


def generation(folders, prompts: Path, output: Path, **sections) -> list[str]:
    config = {"model": {"path": str(folders.zimage)}, "generation": {"steps": 1}, "data": {}} | sections
    return [
        "--config",
        json.dumps(config),
        "--prompts",
        str(prompts),
        "--model-name",
        "base",
        "--output-dir",
        str(output),
    ]


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ('{"trainign": {}}', "--config: trainign: unknown key; did you mean `training`?"),
        ('{"training": {"stepz": 3}}', "--config: training.stepz: unknown key; did you mean `steps`?"),
        (
            '{"training": {"learning_rate": "1e-4"}}',
            "--config: training.learning_rate: '1e-4' is text, a number is needed;"
            " YAML 1.1 reads it as text, write 1.0e-04 with a decimal point",
        ),
        (
            '{"training": {"aux": {"loss": "clip_region", "lambda": -0.5}}}',
            "--config: training.aux.lambda: it must be 0 or more, got -0.5",
        ),
    ],
)
def test_the_configuration(failure, tmp_path, raw, sentence):
    assert failure.sentence("write_config", "--config", raw, "--output", tmp_path / "config.yaml") == sentence
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("data", "key"), [({"height": 36}, "data.height: 36"), ({"width": 70}, "data.width: 70")])
def test_an_image_size_off_the_latent_grid(failure, folders, prompts, tmp_path, data, key):
    said = failure.sentence("generate_images", *generation(folders, prompts, tmp_path / "images", data=data))
    assert said == f"{key} is not divisible by 8, the latent grid of this model"
    assert not (tmp_path / "images").exists()


def test_no_usable_font(failure, tmp_path):
    config = json.dumps({"fonts": {"bundled": False, "folders": [str(tmp_path)]}})
    said = failure.sentence("inspect_fonts", "--config", config, "--output", tmp_path / "manifest.json")
    assert "no usable font" in said


def test_a_font_without_the_needed_characters(failure, tmp_path):
    config = json.dumps({"fonts": {"characters": "AБ", "train": ["cmss10"]}})
    said = failure.sentence("inspect_fonts", "--config", config, "--output", tmp_path / "manifest.json")
    assert "cmss10" in said
    assert "Б" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no prompt in it; one JSON object a line is needed, with id, prompt and targets"),
        ('{"id": "a", "prompt": "x"}\n', "line 1: a prompt without a target"),
        ('{"id": "a", "prompt": "x", "targets": []}\n', "line 1: a prompt without a target"),
        ('{"id": "../a", "prompt": "x", "targets": ["X"]}\n', "line 1: the id '../a' must consist of letters"),
        ('{"id": "a"\n', "line 1: not a JSON object"),
        (None, "no such prompt file"),
    ],
)
def test_prompt_files(failure, folders, tmp_path, content, said):
    path = tmp_path / "prompts.jsonl"
    if content is not None:
        path.write_text(content)
    found = failure.sentence("generate_images", *generation(folders, path, tmp_path / "images"))
    assert found.startswith(str(path))
    assert said in found


@pytest.mark.parametrize("damage", ["missing", "truncated", "no folder"])
def test_the_model(failure, folders, prompts, tmp_path, damage):
    copy = tmp_path / "model"
    shutil.copytree(folders.zimage, copy)
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    if damage == "missing":
        shutil.rmtree(copy / "vae")
        expected = (
            f"{copy}: the component folder `vae` is missing; needed are transformer, vae, text_encoder, tokenizer"
        )
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
        expected = f"{copy}: component `vae` cannot be loaded ("
    else:
        shutil.rmtree(copy)
        expected = f"model.path: {copy} is neither a folder on this machine nor a hub id (owner/name)"
    said = failure.sentence(
        "generate_images", *generation(folders, prompts, tmp_path / "out", model={"path": str(copy)})
    )
    assert said.startswith(expected)


def test_a_truncated_dataset(failure, folders, tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and nothing more")
    said = failure.sentence(
        "encode_dataset", "--config", json.dumps({"model": {"path": str(folders.zimage)}}), "--dataset",
        tmp_path / "train.parquet", "--store", tmp_path / "store", "--output", tmp_path / "cache.safetensors",
    )  # fmt: skip
    assert said.startswith(f"{tmp_path / 'train.parquet'}: the shard is truncated or damaged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.parquet"]


class Arm:
    """Arguments of scripts/train_arm.py on the tiny models."""

    def __init__(self, folders, folder: Path) -> None:
        self.folders, self.folder = folders, folder
        self.cache = folder / "train.safetensors"
        save_training_data(self.cache, small_data(folders.zimage))

    def arguments(self, clip: Path | None = None, reader: Path | None = None, **training) -> list[str]:
        config = {
            "model": {"path": str(self.folders.zimage)},
            "clip": {"path": str(clip or self.folders.clip)},
            "reader": {"network": str(reader or self.folders.recognizer)},
            "generation": {"steps": 8},
            "training": settings(**training).model_dump(mode="json", by_alias=True),
        }
        return [
            "--config", json.dumps(config), "--arm", "clip_region", "--seed", "0", "--cache", str(self.cache),
            "--checkpoints", str(self.folder / "checkpoints"), "--output-dir", str(self.folder / "run"),
        ]  # fmt: skip


@pytest.fixture
def arm(folders, tmp_path) -> Arm:
    return Arm(folders, tmp_path)


CLIP = {"loss": "clip_region", "lambda": 0.2}


def test_a_truncated_cache(failure, arm):
    arm.cache.write_bytes(arm.cache.read_bytes()[:-10])
    said = failure.sentence("train_arm", *arm.arguments())
    assert said.startswith(f"{arm.cache}: the cache is missing or damaged")


def test_a_clip_that_is_not_there(failure, arm, folders, tmp_path):
    shutil.copytree(folders.clip, tmp_path / "clip")
    (tmp_path / "clip" / "open_clip_model.safetensors").unlink()
    said = failure.sentence("train_arm", *arm.arguments(clip=tmp_path / "clip", aux=CLIP))
    assert said == f"{tmp_path / 'clip'}: this CLIP cannot be loaded (open_clip_model.safetensors is missing)"
    failure.run("train_arm", *arm.arguments(clip=tmp_path / "clip", steps=1))  # the control does without a CLIP
    assert (arm.folder / "run" / "run.json").exists()


def test_lora_targets_that_match_nothing(failure, arm):
    said = failure.sentence("train_arm", *arm.arguments(method="lora", lora={"targets": ["ff.net.0.proj"]}))
    assert said.startswith("training.lora.targets: `ff.net.0.proj` matches no module")


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(failure, arm, monkeypatch):
    original, calls = session.micro_step, []

    def poisoned(*arguments):
        calls.append(None)
        losses = original(*arguments)
        return replace(losses, diffusion=losses.diffusion * (float("nan") if len(calls) == 4 else 1))

    with monkeypatch.context() as patch:
        patch.setattr(session, "micro_step", poisoned)
        said = failure.sentence("train_arm", *arm.arguments())
    (checkpoint,) = arm.folder.glob("checkpoints/*/checkpoint.json")
    assert said.startswith(f"clip_region seed 0: the loss is not finite at step 3 (the last good one is {checkpoint})")
    assert not (arm.folder / "run").exists()
    key = json.loads(checkpoint.read_text())["key"]
    assert load_checkpoint(checkpoint, key)["step"] == 2
    failure.run("train_arm", *arm.arguments())
    assert json.loads((arm.folder / "run" / "run.json").read_text())["steps"] == 6


def test_a_learning_rate_that_explodes(failure, arm):
    said = failure.sentence("train_arm", *arm.arguments(learning_rate=1.0e30, warmup=0, steps=20))
    assert "the loss is not finite at step" in said


def test_a_damaged_checkpoint(failure, arm):
    failure.run("train_arm", *arm.arguments())
    (checkpoint,) = arm.folder.glob("checkpoints/*/checkpoint.json")
    (shard,) = checkpoint.parent.glob("checkpoint-*/*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-100])
    said = failure.sentence("train_arm", *arm.arguments())
    why = f"{shard.name} is not what was written"
    assert said == f"{checkpoint}: the checkpoint is damaged; delete it to start this run again ({why})"


def test_another_configuration_gets_a_checkpoint_of_its_own(failure, arm):
    failure.run("train_arm", *arm.arguments())
    failure.run("train_arm", *arm.arguments(learning_rate=2.0e-3))
    assert len(list(arm.folder.glob("checkpoints/*/checkpoint.json"))) == 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            "the device has too little memory; `snak",
        ),
        (
            torch.AcceleratorError("CUDA error: unspecified launch failure\nmore"),
            "the device fails or has vanished (CUDA",
        ),
        (RuntimeError("CUDA error: device is lost"), "the device fails or has vanished (CUDA error: device is lost); "),
    ],
)
def test_a_device_in_trouble_costs_nothing_already_computed(failure, arm, monkeypatch, error, said):
    original, calls = session.micro_step, []

    def failing(*arguments):
        calls.append(None)
        if len(calls) == 4:
            raise error
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(session, "micro_step", failing)
        assert failure.sentence("train_arm", *arm.arguments()).startswith(said)
    (checkpoint,) = arm.folder.glob("checkpoints/*/checkpoint.json")
    assert load_checkpoint(checkpoint, json.loads(checkpoint.read_text())["key"])["step"] == 2
    failure.run("train_arm", *arm.arguments())
    assert json.loads((arm.folder / "run" / "run.json").read_text())["steps"] == 6


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(failure, folders, prompts, tmp_path):
    model = {"path": str(folders.zimage), "device": "cuda"}
    said = failure.sentence("generate_images", *generation(folders, prompts, tmp_path / "out", model=model))
    assert said.startswith("model.device: cuda, but no GPU can be used here")
