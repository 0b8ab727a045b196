"""The velocity anchor: trajectories are the sampler's own, and holding on to them keeps the base model's pictures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training import Killed, equal, killed_at, metrics, region_loss, run, same_conditioning, settings, small_data

from legible.config import AnchorTerm, Model, validate
from legible.errors import UserError
from legible.io import write_jsonl
from legible.models.family import open_model
from legible.models.sampler import trajectory
from legible.seeds import stateless_generator
from legible.tensors import save_tensors
from legible.train.adapters import select_parameters
from legible.train.anchor import (
    TENSORS,
    Trajectories,
    anchor_loss,
    load_trajectories,
    open_reference,
    save_trajectories,
)

ROOT = Path(__file__).resolve().parents[2]
CAPTIONS = ["a sign on dark blue", "a plain red board on white", "a label on green"]
CLIP = {"loss": "clip_region", "lambda": 30.0, "every": 1}


def paths_of(model, steps: int = 4) -> Trajectories:
    captions = model.encode_prompts(CAPTIONS)
    noise = torch.randn((3, 12, 8, 16), generator=stateless_generator(0))
    return Trajectories(*trajectory(model, captions, noise, steps), captions)


def test_the_trajectory_is_the_samplers_own(zimage):
    captions = zimage.encode_prompts(CAPTIONS)
    noise = torch.randn((3, 12, 8, 16), generator=stateless_generator(0))
    points, velocities, grid = trajectory(zimage, captions, noise, 4)
    assert torch.equal(grid, zimage.level_grid(4))
    assert torch.equal(points[0], noise)
    end = points[-1] - grid[-1] * velocities[-1]
    with torch.no_grad():
        pixels = ((zimage.decode(end) / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1)
    sampled = zimage.sample(captions, noise, 4, 0.0).float()
    assert (pixels - sampled).abs().max() <= 1  # uint8 rounding


def test_the_base_itself_is_not_pulled_and_a_changed_model_is(zimage):
    paths = paths_of(zimage)
    assert anchor_loss(zimage, paths, AnchorTerm(weight=1.0, batch_size=6), 0, 0).item() < 1e-9
    with torch.no_grad():
        for parameter in zimage.transformer.layers.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=stateless_generator(1)))
    losses = [anchor_loss(zimage, paths, AnchorTerm(weight=1.0, batch_size=6), 0, step).item() for step in (0, 0, 1)]
    assert losses[0] > 1e-6
    assert losses[0] == losses[1] != losses[2]  # a step draws its own points, always the same


def test_trajectories_come_back_as_they_were_and_a_damaged_file_is_named(zimage, tmp_path):
    paths, file = paths_of(zimage), tmp_path / "anchor.safetensors"
    save_trajectories(file, paths)
    found = load_trajectories(file)
    assert all(torch.equal(getattr(found, name), getattr(paths, name)) for name in TENSORS)
    assert same_conditioning(found.conditioning, paths.conditioning)
    whole = file.read_bytes()
    file.write_bytes(whole[:-50])
    with pytest.raises(UserError, match=r"anchor\.safetensors: the recording of the base's trajectories is missing or"):
        load_trajectories(file)
    save_tensors(file, {name: getattr(paths, name) for name in TENSORS})
    with pytest.raises(UserError, match=r"anchor\.safetensors: no readable trajectories of the base .*conditioning"):
        load_trajectories(file)


def test_the_anchor_holds_the_base_and_resumes_bit_for_bit(folders, zimage, tmp_path, monkeypatch):
    data, paths, loss = small_data(folders.zimage), paths_of(zimage), region_loss(folders.clip)
    free = settings(steps=8, aux=CLIP)
    held = settings(steps=8, aux=CLIP, anchor={"weight": 100.0, "batch_size": 12})
    runs = {
        "free": run(folders.zimage, data, free, tmp_path / "free", loss),
        "held": run(folders.zimage, data, held, tmp_path / "held", loss, paths=paths),
    }
    rows = metrics(tmp_path / "held")
    assert all(row["loss_anchor"] is not None for row in rows)
    assert all(row["loss_anchor"] is None for row in metrics(tmp_path / "free"))
    for row in rows:
        total = row["loss_diffusion"] + 30.0 * row["loss_aux"] + 100.0 * row["loss_anchor"]
        assert row["loss_total"] == pytest.approx(total, rel=1e-5)
    drift = {}
    for name, weights in runs.items():
        with torch.no_grad():
            for key, parameter in zimage.transformer.named_parameters():
                if key in weights:
                    parameter.copy_(weights[key])
        drift[name] = sum(anchor_loss(zimage, paths, AnchorTerm(batch_size=12), 9, step).item() for step in range(4))
    assert drift["held"] < 0.7 * drift["free"]
    with monkeypatch.context() as patch:
        killed_at(patch, 6)
        with pytest.raises(Killed):
            run(folders.zimage, data, held, tmp_path / "cut", loss, paths=paths)
    assert equal(run(folders.zimage, data, held, tmp_path / "cut", loss, paths=paths), runs["held"])


LIVE = {"weight": 100.0, "reference": "adapter_off", "batch_size": 6}


@pytest.fixture
def adapted(zimage, folders):
    """The tiny model with adapters that have been moved, training's data and what the anchor compares with."""
    training = settings(method="lora", anchor=LIVE)
    parameters = select_parameters(zimage, training, 0)
    data = small_data(folders.zimage)
    reference = open_reference(training, None, data, zimage.level_grid(4))
    return zimage, training, parameters, reference


def moved(parameters: dict[str, torch.nn.Parameter]) -> None:
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=stateless_generator(1)))


def test_with_the_adapter_off_the_base_itself_answers(adapted, folders):
    model, training, parameters, reference = adapted
    # B is zero at the start; a pass without gradient may take other kernels, which round otherwise.
    assert anchor_loss(model, reference, training.anchor, 0, 0).item() < 1e-10
    moved(parameters)
    points = reference.points(model, 6, stateless_generator(3))
    base = open_model(Model(path=str(folders.zimage)), ("denoiser",))
    with torch.no_grad():
        assert torch.equal(points.predictions, base.predict(points.latents, points.levels, points.conditioning))
        here = model.predict(points.latents, points.levels, points.conditioning)
    assert (here - points.predictions).abs().max() > 1e-3  # and the adapters are on again
    losses = [anchor_loss(model, reference, training.anchor, 0, step).item() for step in (0, 0, 1)]
    assert losses[0] > 1e-6
    assert losses[0] == losses[1] != losses[2]


def test_the_live_anchors_gradient_reaches_the_adapters_only(adapted):
    model, training, parameters, reference = adapted
    moved(parameters)
    loss = anchor_loss(model, reference, training.anchor, 0, 0)
    assert {name for name, p in model.transformer.named_parameters() if p.requires_grad} == set(parameters)
    loss.backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in parameters.values())
    others = {name: p.grad for name, p in model.transformer.named_parameters() if name not in parameters}
    assert set(others.values()) == {None}
    before = {name: parameter.grad.clone() for name, parameter in parameters.items()}
    model.transformer.enable_gradient_checkpointing()  # its second forward pass comes after the base's answer
    for parameter in parameters.values():
        parameter.grad = None
    anchor_loss(model, reference, training.anchor, 0, 0).backward()
    assert equal({name: parameter.grad for name, parameter in parameters.items()}, before)


def test_the_live_anchor_holds_the_base_resumes_and_without_weight_changes_nothing(folders, tmp_path, monkeypatch):
    data = small_data(folders.zimage)
    grid = open_model(Model(path=str(folders.zimage)), ("scheduler",)).level_grid(8)
    found, last = {}, {}
    for name, anchor in {"free": {}, "off": LIVE | {"weight": 0.0}, "held": LIVE}.items():
        training = settings(steps=8, method="lora", learning_rate=1.0e-2, anchor=anchor)
        reference = open_reference(training, None, data, grid)
        found[name] = run(folders.zimage, data, training, tmp_path / name, paths=reference)
        last[name] = metrics(tmp_path / name)
    assert equal(found["off"], found["free"])
    assert last["off"] == last["free"]
    assert last["held"][0]["loss_anchor"] < 1e-10
    assert last["held"][-1]["loss_anchor"] > 1e-8
    moves = {name: sum(p.square().sum() for n, p in w.items() if "lora_B" in n) for name, w in found.items()}
    assert moves["held"] < 0.8 * moves["free"]
    with monkeypatch.context() as patch:
        killed_at(patch, 6)
        with pytest.raises(Killed):
            run(folders.zimage, data, training, tmp_path / "cut", paths=reference)
    assert equal(run(folders.zimage, data, training, tmp_path / "cut", paths=reference), found["held"])


def test_what_the_anchor_needs_is_said(adapted):
    reference = adapted[-1]
    recorded = settings(anchor={"weight": 1.0})
    with pytest.raises(UserError, match=r"needs --anchor, the base's trajectories"):
        open_reference(recorded, None, reference.data, reference.grid)
    assert open_reference(settings(), None, reference.data, reference.grid) is None
    arms = {"diffusion_only": {}, "held": {"anchor": {"reference": "adapter_off"}}}
    with pytest.raises(UserError, match=r"arms\.held\.anchor\.reference: adapter_off needs method lora"):
        validate({"arms": arms}, "x")


def test_recording_refuses_prompts_on_which_drift_is_measured(folders, tmp_path):
    rows = [{"id": f"p-{i}", "prompt": prompt, "targets": []} for i, prompt in enumerate(CAPTIONS)]
    for name, part in {"anchor": rows[:2], "same": rows[1:], "other": rows[2:]}.items():
        write_jsonl(tmp_path / f"{name}.jsonl", part)
    config = {
        "model": {"path": str(folders.zimage)},
        "generation": {"steps": 2},
        "data": {},
        "anchor": {"prompts": str(tmp_path / "anchor.jsonl")},
    }
    arguments = ["--config", json.dumps(config), "--output", str(tmp_path / "anchor.safetensors"), "--not-these"]
    refused = record(*arguments, str(tmp_path / "same.jsonl"))
    assert refused.returncode != 0
    assert "is also in" in refused.stderr
    assert record(*arguments, str(tmp_path / "other.jsonl")).returncode == 0
    assert load_file(tmp_path / "anchor.safetensors")["latents"].shape == (2, 4, 12, 8, 16)


def record(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "scripts/record_anchor.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
