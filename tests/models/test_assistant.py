"""The assistant LoRA: merged it is base + alpha / r · B·A; what is saved is without it; the run knows its file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from training import Killed, equal, killed_at, run, settings, small_data

from legible.config import Model, Training, validate
from legible.errors import UserError
from legible.io import sha256_file
from legible.models.conditioning import Conditioning
from legible.models.family import open_model
from legible.models.zimage.model import CAPTION, ZImage
from legible.seeds import stateless_generator
from legible.train.adapters import select_parameters
from legible.train.anchor import open_reference
from legible.train.assistant import merge_assistant
from legible.train.data import TrainingData, save_training_data

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ["to_q", "feed_forward.w2", "cap_embedder.1"]  # the last one is not among the modules trained by default
NO_STEP = {"steps": 1, "learning_rate": 1.0e-30}


@pytest.fixture(scope="module")
def data(folders) -> TrainingData:
    return small_data(folders.zimage)


@pytest.fixture(scope="module")
def file(folders, tmp_path_factory) -> str:
    """A LoRA of rank 3 and alpha 6 as diffusers saves it."""
    transformer = ZImageTransformer2DModel.from_pretrained(folders.zimage / "transformer")
    transformer.add_adapter(LoraConfig(r=3, lora_alpha=6.0, target_modules=TARGETS))
    with torch.no_grad():
        for number, (name, parameter) in enumerate(transformer.named_parameters()):
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=stateless_generator(number)))
    folder = tmp_path_factory.mktemp("assistant")
    ZImagePipeline.save_lora_weights(
        folder,
        transformer_lora_layers=get_peft_model_state_dict(transformer),
        transformer_lora_adapter_metadata=transformer.peft_config["default"].to_dict(),
        weight_name="assistant.safetensors",
    )
    return str(folder / "assistant.safetensors")


def opened(folders, dtype: str = "float32") -> ZImage:
    return open_model(Model(path=str(folders.zimage), dtype=dtype), ("denoiser", "scheduler"))


@torch.no_grad()
def velocity(model: ZImage) -> torch.Tensor:
    generator, config = stateless_generator(4), model.transformer.config
    noisy = torch.randn((2, config.in_channels, 8, 16), generator=generator)
    captions = [torch.randn((20, config.cap_feat_dim), generator=generator) for _ in range(2)]
    return model.predict(noisy, torch.tensor([0.5, 0.9]), Conditioning({CAPTION: captions}))


def by_hand(file: str) -> dict[str, torch.Tensor]:
    """Weight → alpha / rank · B·A, from the file's own matrices."""
    stored = {name.removeprefix("transformer."): matrix for name, matrix in load_file(file).items()}
    return {
        name.replace("lora_A.", ""): 6 / 3 * stored[name.replace("lora_A", "lora_B")] @ matrix
        for name, matrix in stored.items()
        if ".lora_A." in name
    }


@pytest.mark.parametrize("method", ["lora", "full"])
def test_merged_it_is_the_base_plus_its_matrices(folders, file, method):
    model, reference = opened(folders), opened(folders)
    training = settings(method=method, assistant_lora=file)
    base = velocity(model)
    parameters = select_parameters(model, training, 0)
    merge_assistant(model, training)
    with torch.no_grad():
        for name, delta in by_hand(file).items():
            reference.transformer.get_parameter(name).add_(delta)
    torch.testing.assert_close(velocity(model), velocity(reference), atol=1e-5, rtol=1e-5)
    assert (velocity(model) - base).abs().max() > 1e-2
    assert {name for name, p in model.transformer.named_parameters() if p.requires_grad} == set(parameters)
    pipeline = ZImagePipeline.from_pretrained(folders.zimage)  # as diffusers itself puts it on
    pipeline.load_lora_weights(str(Path(file).parent), weight_name=Path(file).name)
    theirs = velocity(ZImage(model.device, 64, transformer=pipeline.transformer))
    torch.testing.assert_close(theirs, velocity(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("style", ["ai-toolkit", "kohya"])
def test_other_trainers_formats_are_read(folders, file, tmp_path, style):
    stored = {name.removeprefix("transformer."): matrix for name, matrix in load_file(file).items()}
    other = {}
    for name, matrix in stored.items():
        layer, _, side = name.removesuffix(".weight").partition(".lora_")
        if style == "ai-toolkit":  # without alpha: the scale is 1
            other[f"diffusion_model.{name}"] = matrix * (2.0 if side == "B" else 1.0)
        else:
            other[f"diffusion_model.{layer}.lora_{'down' if side == 'A' else 'up'}.weight"] = matrix
            other[f"diffusion_model.{layer}.alpha"] = torch.tensor(6.0)
    save_file({name: matrix.contiguous() for name, matrix in other.items()}, tmp_path / "other.safetensors")
    expected, found = opened(folders), opened(folders)
    merge_assistant(expected, settings(assistant_lora=file))
    merge_assistant(found, settings(assistant_lora=str(tmp_path / "other.safetensors")))
    torch.testing.assert_close(velocity(found), velocity(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("override", [{}, {"ema": 0.9}, {"method": "lora"}])
def test_without_a_step_the_base_comes_back(folders, data, file, tmp_path, override):
    training = settings(**NO_STEP, assistant_lora=file, **override)
    run(folders.zimage, data, training, tmp_path / "work", output=tmp_path / "weights")
    kept = open_model(Model(path=str(folders.zimage)), ("denoiser",), weights=tmp_path / "weights")
    torch.testing.assert_close(velocity(kept), velocity(opened(folders)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "weights"), [("float32", "float32"), ("bfloat16", "float32")])
def test_what_is_saved_is_what_was_trained_minus_the_assistant(folders, data, file, tmp_path, dtype, weights):
    training = settings(learning_rate=1.0e-2, assistant_lora=file, weights=weights)
    trained = run(folders.zimage, data, training, tmp_path / "work", output=tmp_path / "weights", dtype=dtype)
    stored = load_file(tmp_path / "weights" / "transformer" / "diffusion_pytorch_model.safetensors")
    start, deltas = opened(folders, dtype).transformer.state_dict(), by_hand(file)
    assert {name for name in deltas if name not in trained} == {"cap_embedder.1.weight"}
    for name, value in stored.items():
        if name in trained:
            expected = trained[name] - deltas.get(name, 0.0)
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-6)
            assert value.dtype == torch.float32
        else:
            assert torch.equal(value, start[name]), name  # the frozen ones exactly, merged or not


def test_training_sees_the_assistant_and_resumes(folders, data, file, tmp_path, monkeypatch):
    for method in ("full", "lora"):
        training = settings(method=method, assistant_lora=file, learning_rate=1.0e-2)
        folder = tmp_path / method
        whole = run(folders.zimage, data, training, folder / "whole", output=folder / "a")
        plain = run(folders.zimage, data, settings(method=method, learning_rate=1.0e-2), folder / "plain")
        assert not equal(whole, plain)
        with monkeypatch.context() as patch:
            killed_at(patch, 4)
            with pytest.raises(Killed):
                run(folders.zimage, data, training, folder / "cut")
        assert equal(run(folders.zimage, data, training, folder / "cut", output=folder / "b"), whole)
        files = sorted(path.relative_to(folder / "a") for path in (folder / "a").rglob("*.safetensors"))
        assert files
        assert all(equal(load_file(folder / "a" / path), load_file(folder / "b" / path)) for path in files)
        if method == "lora":
            assert all("lora_" in name for name in load_file(folder / "a" / files[0]))


def test_the_script_takes_it_out_of_weights_and_snapshots_and_records_the_file(folders, data, file, tmp_path):
    save_training_data(tmp_path / "cache.safetensors", data)
    copy = tmp_path / "own.safetensors"
    tensors, keys = load_file(file), []
    training = settings(steps=2, learning_rate=1.0e-30, snapshots=[1], assistant_lora=str(copy))
    for factor in (1.0, 2.0):
        save_file({name: factor * value for name, value in tensors.items()}, copy)
        output = tmp_path / f"run{factor}"
        done = train_arm(folders, training, tmp_path, output)
        assert done.returncode == 0, done.stderr
        record = json.loads((output / "run.json").read_text())
        assert record["assistant_lora"] == sha256_file(copy)
        keys.append(record["key"])
        for folder in ("weights", "snapshots/step1"):
            kept = open_model(Model(path=str(folders.zimage)), ("denoiser",), weights=output / folder)
            torch.testing.assert_close(velocity(kept), velocity(opened(folders)), atol=1e-5, rtol=1e-5)
    assert keys[0] != keys[1]
    copy.unlink()
    done = train_arm(folders, training, tmp_path, tmp_path / "none")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"error: training.assistant_lora: {copy} is no .safetensors file on this machine"
    )


def train_arm(folders, training: Training, work: Path, output: Path) -> subprocess.CompletedProcess:
    config = {
        "model": {"path": str(folders.zimage)},
        "clip": {},
        "reader": {},
        "training": training.model_dump(mode="json", by_alias=True),
        "generation": {"steps": 8},
    }
    command = [
        sys.executable, "scripts/train_arm.py", "--config", json.dumps(config), "--arm", "taught", "--seed", "0",
        "--cache", str(work / "cache.safetensors"), "--checkpoints", str(work / "checkpoints"),
        "--output-dir", str(output),
    ]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_adapter_off_means_our_adapters_off_only(folders, data, file):
    training = settings(method="lora", assistant_lora=file, anchor={"weight": 1.0, "reference": "adapter_off"})
    model, merged = opened(folders), opened(folders)
    merge_assistant(merged, training)
    parameters = select_parameters(model, training, 0)
    merge_assistant(model, training)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(0.1)
    points = open_reference(training, None, data, model.level_grid(8)).points(model, 5, stateless_generator(1))
    with torch.no_grad():
        expected = merged.predict(points.latents, points.levels, points.conditioning)
    assert torch.equal(points.predictions, expected)


def damaged(tensors: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    name = next(iter(tensors))
    if how == "layer":
        return {key.replace("layers.0", "layers.7"): value for key, value in tensors.items()}
    if how == "size":
        return tensors | {name: tensors[name][:, :-1].contiguous()}
    if how == "half":
        return {key: value for key, value in tensors.items() if key != name}
    if how == "dora":
        return tensors | {"transformer.layers.0.attention.to_q.lora_magnitude_vector": torch.ones(3)}
    return {"weight": torch.ones(3)}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("layer", r"is for another model: no layer `layers\.7\."),
        ("size", r"is for another model: `.*lora_A\.weight` is \[3, \d+\], but the layer's weight"),
        ("dora", r"holds `.*lora_magnitude_vector`, which is no matrix of a plain LoRA"),
        ("half", r"holds one matrix of `.*`, a LoRA has two"),
        ("other", r"holds `weight`, which is no matrix of a plain LoRA"),
    ],
)
def test_an_unsuited_file_is_one_sentence(folders, file, tmp_path, how, message):
    save_file(damaged(load_file(file), how), tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match=message) as caught:
        merge_assistant(opened(folders), settings(assistant_lora=str(tmp_path / "bad.safetensors")))
    assert str(caught.value).startswith(f"training.assistant_lora: {tmp_path}/bad.safetensors ")
    assert "\n" not in str(caught.value)


def test_a_missing_or_damaged_file_is_one_sentence(folders, tmp_path):
    missing = tmp_path / "none.safetensors"
    with pytest.raises(UserError, match=r"none\.safetensors is no \.safetensors file on this machine"):
        merge_assistant(opened(folders), settings(assistant_lora=str(missing)))
    missing.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"none\.safetensors is no LoRA of this model") as caught:
        merge_assistant(opened(folders), settings(assistant_lora=str(missing)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"method": "lora", "quantization": "nf4"}, r"cannot be merged into a quantised base"),
        ({"method": "lora", "anchor": {"weight": 1.0}}, r"recorded base is without it; set anchor\.reference"),
    ],
)
def test_what_does_not_go_with_it_is_refused(override, message):
    arms = {"diffusion_only": {}, "taught": override | {"assistant_lora": "a.safetensors"}}
    with pytest.raises(UserError, match=r"arms\.taught\.assistant_lora: .*" + message):
        validate({"arms": arms}, "x")


def test_the_file_is_an_input_of_the_arm_and_a_live_anchor_needs_no_recording(file, tmp_path):
    for name in ("config.yaml", "resources"):
        (tmp_path / name).symlink_to(ROOT / name)
    live = {"weight": 1.0, "reference": "adapter_off"}
    for anchor, recorded in ((live, False), ({"weight": 1.0}, True)):
        taught = {"method": "lora", "anchor": anchor} | ({} if recorded else {"assistant_lora": file})
        arms = {"diffusion_only": {"method": "lora"}, "clip_region": None, "ctc": None, "taught": taught}
        (tmp_path / "own.yaml").write_text(json.dumps({"arms": arms, "seeds": [0]}))
        command = [sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run", "--directory", str(tmp_path)]
        command += ["--snakefile", str(ROOT / "Snakefile"), "--configfile", "own.yaml", "--", "train"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert ("rule record_anchor:" in said) == recorded
        inputs = [line for line in said.splitlines() if line.startswith("    input:") and "cache/train" in line]
        assert len(inputs) == 2
        assert sum(file in line for line in inputs) == (not recorded)
