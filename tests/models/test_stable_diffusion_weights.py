"""Fine-tuned Stable Diffusion: what is saved gives the same pictures in plain diffusers; and the scripts end to end."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import ROOT
from training import model_of, run, settings, small_data
from transformers import CLIPTextModel

from legible.config import Data, Fonts
from legible.errors import UserError
from legible.io import read_jsonl, write_jsonl
from legible.models.family import ROLES, embed_prompts, open_model
from legible.models.stable_diffusion.model import StableDiffusion
from legible.render.dataset import Excluded, render_signs, write_dataset
from legible.render.fonts import find_fonts, select_fonts
from legible.train.assistant import merge_assistant
from legible.train.data import TrainingData, load_training_data, save_training_data

PROMPTS = ['a sign that says "OPEN" in red letters on white', "black"]
PARTS = {"unet": ["denoiser"], "text encoder": ["text_encoder"], "both": ["denoiser", "text_encoder"]}
LORA = "pytorch_lora_weights.safetensors"


@pytest.fixture
def folder(stable_diffusion) -> Path:
    return stable_diffusion


@pytest.fixture(scope="module")
def data(stable_diffusion) -> TrainingData:
    return small_data(stable_diffusion)


def noise() -> torch.Tensor:
    return torch.randn((2, 4, 8, 16), generator=torch.Generator().manual_seed(2))


def official_images(pipeline: StableDiffusionPipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        prompt=list(PROMPTS), height=32, width=64, num_inference_steps=4, guidance_scale=5.0, latents=noise(),
        output_type="np",
    ).images  # fmt: skip
    return torch.from_numpy((images * 255).round().astype("uint8"))


def our_images(folder: Path, weights: Path | None = None) -> torch.Tensor:
    """As scripts/generate_images.py makes them: text encoder and denoiser are never open together."""
    model = open_model(model_of(folder), ("denoiser", "autoencoder", "scheduler"), weights=weights)
    captions = embed_prompts(model_of(folder), [*PROMPTS, ""], weights=weights)
    return model.sample(captions.pick([0, 1]), noise(), 4, 5.0, captions.pick([2]))


def by_hand(folder: Path, trained: dict[str, torch.Tensor], scale: float) -> StableDiffusion:
    """A fresh model with W + scale · B · A."""
    model = open_model(model_of(folder), ROLES)
    with torch.no_grad():
        for name, matrix in trained.items():
            if ".lora_A." in name:
                place = name.split(".lora_A.")[0]
                part = "text_encoder" if place.startswith("text_encoder.") else "denoiser"
                layer = model.module(part).get_submodule(place.removeprefix("text_encoder."))
                layer.weight += scale * trained[name.replace("lora_A", "lora_B")] @ matrix
    return model


@pytest.mark.parametrize("parts", PARTS)
def test_full_weights_give_the_same_images_through_diffusers(folder, data, tmp_path, parts):
    training = settings(steps=3, learning_rate=5.0e-3, parts=PARTS[parts])
    trained = run(folder, data, training, tmp_path / "work", output=tmp_path / "weights")
    own = {"denoiser": ("unet", UNet2DConditionModel), "text_encoder": ("text_encoder", CLIPTextModel)}
    opened = {own[part][0]: own[part][1].from_pretrained(tmp_path / "weights" / own[part][0]) for part in PARTS[parts]}
    assert {path.name for path in (tmp_path / "weights").iterdir()} == set(opened)
    for name, network in opened.items():
        prefix = "" if name == "unet" else f"{name}."
        found = {f"{prefix}{key}": value for key, value in network.named_parameters()}
        assert all(torch.equal(found[key], value) for key, value in trained.items() if key in found)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, **opened)
    images = our_images(folder, tmp_path / "weights")
    # Captions are encoded in batches of another size here: rounded otherwise.
    assert (official_images(pipeline).int() - images.int()).abs().max() <= 1
    assert (images.int() - our_images(folder).int()).abs().max() > 5


@pytest.mark.parametrize(("rank", "alpha"), [(4, 4.0), (2, 16.0)])
@pytest.mark.parametrize("parts", PARTS)
def test_lora_weights_give_the_same_images_through_diffusers(folder, data, tmp_path, parts, rank, alpha):
    lora = {"method": "lora", "lora": {"rank": rank, "alpha": alpha}}
    training = settings(steps=4, learning_rate=5.0e-2, parts=PARTS[parts], **lora)
    trained = run(folder, data, training, tmp_path / "work", output=tmp_path / "weights")
    assert [path.name for path in (tmp_path / "weights").iterdir()] == [LORA]
    reference = by_hand(folder, trained, alpha / rank)
    expected = official_images(reference.pipeline())
    assert (expected.int() - our_images(folder).int()).abs().max() > 5
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(tmp_path / "weights", weight_name=LORA)
    assert (official_images(pipeline).int() - expected.int()).abs().max() <= 1
    assert (our_images(folder, tmp_path / "weights").int() - expected.int()).abs().max() <= 1


def test_a_file_of_both_parts_puts_on_whichever_is_there(folder, data, tmp_path):
    training = settings(steps=2, learning_rate=1.0e-2, method="lora", parts=PARTS["both"], lora={"rank": 2})
    trained = run(folder, data, training, tmp_path / "work", output=tmp_path / "weights")
    stored = load_file(tmp_path / "weights" / LORA)
    assert {key.split(".")[0] for key in stored} == {"unet", "text_encoder"}
    assert all(key.startswith(("unet.", "text_encoder.text_model.encoder.")) for key in stored)
    whole = open_model(model_of(folder), ROLES, weights=tmp_path / "weights")
    for roles in (("text",), ("denoiser", "autoencoder", "scheduler"), ("autoencoder",)):
        opened = open_model(model_of(folder), roles, weights=tmp_path / "weights")
        for part in ("denoiser", "text_encoder"):
            network = opened.module(part)
            if network is None:
                continue
            adapters = {name: p for name, p in network.named_parameters() if "lora_" in name}
            expected = dict(whole.module(part).named_parameters())
            assert len(adapters) == sum(key.startswith("text_encoder.") == (part != "denoiser") for key in trained)
            assert all(torch.equal(p, expected[name]) for name, p in adapters.items())
            assert not any(p.requires_grad for p in network.parameters())


def kohya(trained: dict[str, torch.Tensor], alpha: float) -> dict[str, torch.Tensor]:
    """Adapters of a UNet as most other tools write them: underscores, down and up, and an alpha a layer."""
    stored = {}
    for name, matrix in trained.items():
        layer, _, kind = name.partition(".lora_")
        place = f"lora_unet_{layer.replace('.', '_')}"
        stored[f"{place}.lora_{'down' if kind.startswith('A') else 'up'}.weight"] = matrix.contiguous()
        stored[f"{place}.alpha"] = torch.tensor(alpha)
    return stored


def test_files_of_other_tools_are_opened_and_merged(folder, data, tmp_path):
    training = settings(steps=2, learning_rate=1.0e-2, method="lora", lora={"rank": 2, "alpha": 8.0})
    trained = run(folder, data, training, tmp_path / "work", output=tmp_path / "weights")
    (tmp_path / "other").mkdir()
    save_file(kohya(trained, 8.0), tmp_path / "other" / LORA)
    expected = our_images(folder, tmp_path / "weights")
    assert (our_images(folder, tmp_path / "other").int() - expected.int()).abs().max() <= 1
    merged = dict(by_hand(folder, trained, 4.0).unet.named_parameters())
    for name in ("weights", "other"):  # as an assistant, under full training
        model = open_model(model_of(folder), ("denoiser",))
        merge_assistant(model, settings(assistant_lora=str(tmp_path / name / LORA)))
        for key, parameter in model.unet.named_parameters():
            torch.testing.assert_close(parameter, merged[key], atol=1e-6, rtol=1e-5)


def test_a_lora_of_another_model_is_one_sentence(folder, data, tmp_path):
    training = settings(steps=1, method="lora", lora={"rank": 2})
    trained = run(folder, data, training, tmp_path / "work")
    for prefix, said in (
        ("transformer", "it is for transformer; unet and text_encoder are here"),
        ("unet", "state_dict"),
    ):
        names = {name: f"{prefix}.{name.replace('.default', '')}" for name in trained}
        save_file({own: torch.cat([trained[name]] * 3).contiguous() for name, own in names.items()}, tmp_path / LORA)
        with pytest.raises(UserError, match=f"{LORA}: no LoRA of this model .*{said}") as caught:
            open_model(model_of(folder), ("denoiser",), weights=tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / LORA).write_bytes(b"no safetensors")
    with pytest.raises(UserError, match="no LoRA of this model"):
        open_model(model_of(folder), ("text",), weights=tmp_path)
    (tmp_path / LORA).unlink()
    with pytest.raises(UserError, match=f"neither a folder of a component nor {LORA} is there"):
        open_model(model_of(folder), ("denoiser",), weights=tmp_path)


def script(name: str, *arguments: object) -> None:
    """Run a script in this process: starting five of them would take longer than what they do."""
    main = runpy.run_path(f"scripts/{name}.py")["main"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        main()


def training_arguments(folder: Path, cache: Path, output: Path, **training) -> list[object]:
    """What scripts/train_arm.py is called with."""
    chosen = settings(**training).model_dump(mode="json", by_alias=True)
    config = {"model": model_of(folder).model_dump(), "clip": {}, "reader": {}, "generation": {"steps": 3}}
    return [
        "--config", json.dumps(config | {"training": chosen}), "--arm", "arm", "--seed", 1, "--cache", cache,
        "--checkpoints", output / "checkpoints", "--output-dir", output,
    ]  # fmt: skip


def test_from_signs_to_pictures_by_the_scripts(folder, tmp_path, monkeypatch):
    """encode_dataset → record_anchor → train_arm → generate_images."""
    monkeypatch.chdir(ROOT)
    look = Data(train=6, length=(2, 3), font_size=(10, 12))
    fonts = select_fonts(find_fonts(Fonts()), ("DejaVu Sans Bold",))
    signs, rejected = render_signs(look, fonts, "train", 6, Excluded.of([]))
    write_dataset(tmp_path, signs, signs[:1], {"train": rejected, "test": rejected}, Excluded.of([]))
    rows = [{"id": f"p-{i}", "prompt": prompt, "targets": []} for i, prompt in enumerate(PROMPTS)]
    write_jsonl(tmp_path / "prompts.jsonl", rows)
    model, cache, anchor = (
        model_of(folder).model_dump(),
        tmp_path / "cache.safetensors",
        tmp_path / "anchor.safetensors",
    )
    script(
        "encode_dataset", "--config", json.dumps({"model": model}), "--dataset", tmp_path / "train.parquet",
        "--store", tmp_path / "store", "--output", cache,
    )  # fmt: skip
    stored = load_training_data(cache)
    assert stored.latents.shape == (6, 4, 8, 16)
    assert stored.conditioning.lengths() == [77] * 6
    assert stored.empty.lengths() == [77]

    config = {"model": model, "generation": {"steps": 3, "guidance_scale": 5.0, "seeds": [0]}, "data": {}}
    places = {"prompts": str(tmp_path / "prompts.jsonl"), "seeds": [0]}
    script("record_anchor", "--config", json.dumps(config | {"anchor": places}), "--output", anchor)
    assert load_file(anchor)["latents"].shape == (3, 2, 4, 8, 16)
    arguments = training_arguments(
        folder, cache, tmp_path / "run", steps=2, method="lora", parts=PARTS["both"], learning_rate=2.0e-2,
        prompt_dropout=0.5, sigma={"distribution": "grid"}, aux={"loss": "glyph_mask", "lambda": 1.0, "every": 1},
        anchor={"weight": 1.0, "batch_size": 2},
    )  # fmt: skip
    script("train_arm", *arguments, "--anchor", anchor)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["levels"] == [667, 334, 1]
    assert 0 < record["parameters_trained"] < record["parameters_total"]
    assert list(record["weights"]) == [f"weights/{LORA}"]

    for name, weights in {"base": [], "tuned": ["--weights", tmp_path / "run" / "weights"]}.items():
        script(
            "generate_images", "--config", json.dumps(config), "--prompts", tmp_path / "prompts.jsonl", "--no-text",
            "--model-name", name, "--output-dir", tmp_path / name, *weights,
        )  # fmt: skip
        assert [row["file"] for row in read_jsonl(tmp_path / name / "manifest.jsonl")] == ["p-0_s0.png", "p-1_s0.png"]
    files = [tmp_path / name / "p-0_s0.png" for name in ("base", "tuned")]
    assert Image.open(files[0]).size == (64, 32)
    assert files[0].read_bytes() != files[1].read_bytes()


def test_two_processes_equal_one_with_twice_the_batch(folder, data, tmp_path, monkeypatch):
    """Sharded by blocks(): FSDP2 must find every trained weight in one of them."""
    monkeypatch.chdir(ROOT)
    save_training_data(tmp_path / "train.safetensors", data)
    place = (folder, tmp_path / "train.safetensors")
    script("train_arm", *training_arguments(*place, tmp_path / "1", steps=3))
    arguments = training_arguments(*place, tmp_path / "2", steps=3, processes=2, parallel="shard")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*launcher, "scripts/train_arm.py", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = [tmp_path / run / "weights" / "unet" / "diffusion_pytorch_model.safetensors" for run in ("1", "2")]
    one, two = map(load_file, names)
    assert one.keys() == two.keys()
    # AdamW divides by the gradient's own size, so weights whose gradient is rounding noise may differ by a step.
    apart = torch.cat([(one[key] - two[key]).abs().flatten() for key in one])
    assert (apart < 2e-5).float().mean() > 0.99
    assert apart.max() < 6e-3
