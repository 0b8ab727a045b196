"""The training loop: resumable bit for bit, equal draws for all arms, and L_total = L_diffusion + λ · L_aux."""

import itertools
import json
import math
import re
from datetime import datetime
from pathlib import Path

import pytest
import torch
from training import Killed, equal, killed_at, metrics, on_pixels, region_loss, run, settings, small_data

from legible.config import Model
from legible.errors import UserError
from legible.io import read_jsonl
from legible.models import flow
from legible.models.family import open_model
from legible.seeds import stateless_generator
from legible.train import session, state
from legible.train.adapters import select_parameters
from legible.train.checkpoint import load_checkpoint
from legible.train.data import TrainingData
from legible.train.log import times
from legible.train.loop import train
from legible.train.session import Place, Task
from legible.train.step import micro_step

CLIP = {"loss": "clip_region", "lambda": 0.3, "every": 2}


@pytest.fixture(scope="module")
def data(folders) -> TrainingData:
    return small_data(folders.zimage)


VARIANTS = {
    "full": {"aux": CLIP},
    "ema": {"aux": CLIP, "ema": 0.9},
    "lora": {"aux": CLIP, "method": "lora", "lora": {"rank": 2, "alpha": 6.0}},
    "accumulated": {"aux": CLIP, "accumulation": 2, "batch_size": 2, "weight_decay": 0.1, "checkpoint_every": 3},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_interrupted_training_equals_an_unbroken_one_bit_for_bit(folders, data, tmp_path, variant):
    training, aux = settings(**VARIANTS[variant]), region_loss(folders.clip)
    whole = run(folders.zimage, data, training, tmp_path / "whole", aux)
    for first, second in ((2, 1), (4, 3), (6, 2)):  # the pass that does not come back, in the first and second attempt
        work = tmp_path / f"{first}-{second}"
        for count in (first, second):
            with pytest.MonkeyPatch.context() as patch:
                killed_at(patch, count)
                with pytest.raises(Killed):
                    run(folders.zimage, data, training, work, aux)
        assert equal(run(folders.zimage, data, training, work, aux), whole)
        assert metrics(work) == metrics(tmp_path / "whole")
    assert [row["step"] for row in metrics(tmp_path / "whole")] == list(range(6))


def test_a_kill_while_the_checkpoint_is_written_or_a_row_is_cut_short_loses_nothing(
    folders, data, tmp_path, monkeypatch
):
    training = settings()
    whole = run(folders.zimage, data, training, tmp_path / "whole")
    work = tmp_path / "work"

    def half_written(tensors, path):
        path.write_bytes(b"half a checkpoint")
        raise Killed

    with monkeypatch.context() as patch:
        killed_at(patch, 4)
        with pytest.raises(Killed):
            run(folders.zimage, data, training, work)
    with monkeypatch.context() as patch:
        patch.setattr(state, "save_file", half_written)
        with pytest.raises(Killed):
            run(folders.zimage, data, training, work)
    with open(work / "metrics.jsonl", "a") as handle:
        handle.write('{"step": 4, "loss_to')
    assert len(list(work.glob("checkpoint-*"))) == 2  # the half written one and the last good one
    assert load_checkpoint(work / "checkpoint.json", "key")["step"] == 2
    assert equal(run(folders.zimage, data, training, work), whole)
    assert metrics(work) == metrics(tmp_path / "whole")
    (shards,) = work.glob("checkpoint-*")
    assert {path.name for path in work.iterdir()} == {"checkpoint.json", shards.name, "metrics.jsonl"}


def test_a_clock_that_jumps_changes_neither_weights_nor_seconds(folders, data, tmp_path, monkeypatch):
    training, hour = settings(), 3600.0
    whole = run(folders.zimage, data, training, tmp_path / "whole")
    with monkeypatch.context() as patch:
        jumps = itertools.cycle((0.0, 9 * hour, -9 * hour))
        patch.setattr("time.time", lambda: 1.7e9 + next(jumps))
        assert equal(run(folders.zimage, data, training, tmp_path / "jumped"), whole)
    assert metrics(tmp_path / "jumped") == metrics(tmp_path / "whole")
    rows = [json.loads(line) for line in (tmp_path / "jumped" / "metrics.jsonl").read_text().splitlines()]
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert 0 < seconds[0] <= seconds[-1] < hour


def test_a_finished_training_is_not_repeated(folders, data, tmp_path, monkeypatch):
    first = run(folders.zimage, data, settings(ema=0.5), tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    killed_at(monkeypatch, 1)
    assert equal(run(folders.zimage, data, settings(ema=0.5), tmp_path), first)
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_training_repeats_itself_and_another_seed_does_not(folders, data, tmp_path):
    runs = [run(folders.zimage, data, settings(), tmp_path / str(i), seed=seed) for i, seed in enumerate((0, 0, 1))]
    assert equal(runs[0], runs[1])
    assert not any(torch.equal(runs[2][name], value) for name, value in runs[0].items() if value.ndim > 1)
    start = {n: p for n, p in open_model(Model(path=str(folders.zimage)), ("denoiser",)).transformer.named_parameters()}
    assert all(not torch.equal(start[name], value) for name, value in runs[0].items() if value.ndim > 1)


def spied_draws(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    draws, noised = [], flow.noised

    def recorded(clean, noise, sigma):
        draws.append((clean.clone(), noise.clone(), sigma.clone()))
        return noised(clean, noise, sigma)

    monkeypatch.setattr(flow, "noised", recorded)
    return draws


def test_arms_share_data_order_noise_and_sigma(folders, data, tmp_path, monkeypatch):
    arms = {"control": ({}, None), "clip": (CLIP, region_loss(folders.clip))}
    seen = {}
    for name, (aux, loss) in arms.items():
        with monkeypatch.context() as patch:
            seen[name] = spied_draws(patch)
            run(folders.zimage, data, settings(aux=aux), tmp_path / name, loss)
    assert len(seen["control"]) == 6
    for left, right in zip(seen["control"], seen["clip"], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
    assert not torch.equal(seen["control"][0][1], seen["control"][1][1])  # every step draws anew
    assert not torch.equal(seen["control"][0][1][0], seen["control"][0][1][1])  # and so does every sample
    rows = {name: metrics(tmp_path / name) for name in arms}
    # The first auxiliary step is step 1 and changes the weights after it: up to there both arms are one.
    for step in (0, 1):
        assert rows["control"][step]["loss_diffusion"] == rows["clip"][step]["loss_diffusion"]
    assert rows["control"][2]["loss_diffusion"] != rows["clip"][2]["loss_diffusion"]
    assert [row["sigma_mean"] for row in rows["control"]] == [row["sigma_mean"] for row in rows["clip"]]


def test_with_lambda_zero_the_auxiliary_loss_changes_no_bit(folders, data, tmp_path):
    plain = run(folders.zimage, data, settings(), tmp_path / "plain")
    zero = settings(aux=CLIP | {"lambda": 0.0})
    assert equal(run(folders.zimage, data, zero, tmp_path / "zero", region_loss(folders.clip)), plain)
    assert metrics(tmp_path / "zero") == metrics(tmp_path / "plain")


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_auxiliary_loss_comes_every_few_optimiser_steps(folders, data, tmp_path, accumulation):
    calls, loss = [], region_loss(folders.clip)

    def counted(view):
        calls.append(len(view.images))
        return loss(view)

    training = settings(steps=7, batch_size=2, accumulation=accumulation, aux=CLIP | {"every": 3})
    run(folders.zimage, data, training, tmp_path, counted)
    assert [row["step"] for row in metrics(tmp_path) if row["loss_aux"] is not None] == [2, 5]
    assert calls == [2] * (2 * accumulation)  # on such a step every forward pass takes part


def test_the_total_is_diffusion_plus_lambda_times_aux(folders, data, tmp_path):
    run(folders.zimage, data, settings(aux=CLIP | {"every": 1}), tmp_path, region_loss(folders.clip))
    for row in metrics(tmp_path):
        assert row["loss_aux"] > 0
        assert math.isclose(row["loss_total"], row["loss_diffusion"] + 0.3 * row["loss_aux"], rel_tol=1e-5)


def test_only_samples_in_the_sigma_window_take_part(folders, data, tmp_path, monkeypatch):
    draws, sizes = spied_draws(monkeypatch), []

    def constant(images, owners, boxes, texts):
        sizes.append(len(images))
        assert len(owners) == len(boxes) == len(texts)
        assert owners.max() < len(images)
        return images.flatten(1).mean(1)[owners] * 0 + 1.0

    training = settings(steps=8, aux=CLIP | {"every": 1, "sigma_window": [0.3, 0.6]})
    run(folders.zimage, data, training, tmp_path, on_pixels(constant))
    inside = [int(((sigma >= 0.3) & (sigma <= 0.6)).sum()) for _, _, sigma in draws]
    assert sizes == [count for count in inside if count]
    assert [row["loss_aux"] is None for row in metrics(tmp_path)] == [count == 0 for count in inside]


def test_regions_go_with_the_right_images(folders, data, tmp_path, monkeypatch):
    picked, given = [], []
    original = session.micro_step

    def step(model, stored, rows, *rest):
        picked.append(rows.tolist())
        return original(model, stored, rows, *rest)

    def recorded(images, owners, boxes, texts):
        given.append((owners.tolist(), boxes.tolist(), texts))
        return images.flatten(1).mean(1)[owners]

    monkeypatch.setattr(session, "micro_step", step)
    run(folders.zimage, data, settings(aux=CLIP | {"every": 1}), tmp_path, on_pixels(recorded))
    for rows, (owners, boxes, texts) in zip(picked, given, strict=True):
        expected = [
            (position, data.boxes[region].tolist(), data.texts[region])
            for position, sample in enumerate(rows)
            for region in range(len(data.texts))
            if data.owners[region] == sample
        ]
        assert list(zip(owners, boxes, texts, strict=True)) == expected


@pytest.mark.parametrize("aux", [{}, CLIP | {"every": 1}])
def test_accumulation_equals_a_larger_batch(folders, data, tmp_path, aux):
    loss = region_loss(folders.clip) if aux else None
    split = run(folders.zimage, data, settings(batch_size=2, accumulation=2, aux=aux), tmp_path / "split", loss)
    whole = run(folders.zimage, data, settings(batch_size=4, aux=aux), tmp_path / "whole", loss)
    for left, right in zip(metrics(tmp_path / "split"), metrics(tmp_path / "whole"), strict=True):
        assert (left.pop("loss_aux") is None) == (right.pop("loss_aux") is None) == (not aux)
        assert left.keys() == right.keys()
        for key, value in left.items():
            one, two = (entry if isinstance(entry, list) else [entry] for entry in (value, right[key]))
            assert [x is None for x in one] == [x is None for x in two]
            assert [x or 0 for x in one] == pytest.approx([x or 0 for x in two], rel=2e-3, abs=1e-6), key
    # AdamW divides by the gradient's own size, so weights whose gradient is rounding noise may differ by a step.
    differences = torch.cat([(split[name] - whole[name]).abs().flatten() for name in whole])
    assert (differences < 1e-5).float().mean() > 0.99
    assert differences.max() < 6e-3


def test_the_average_of_the_weights_by_hand(folders, data, tmp_path, monkeypatch):
    training = settings(steps=4, ema=0.8)
    model = open_model(Model(path=str(folders.zimage)), ("denoiser", "scheduler"))
    parameters = select_parameters(model, training, 0)
    history = [{name: p.detach().clone() for name, p in parameters.items()}]
    step = torch.optim.AdamW.step

    def recorded(self, *arguments, **named):
        step(self, *arguments, **named)
        history.append({name: p.detach().clone() for name, p in parameters.items()})

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    averaged = train(Task(model, parameters, data, training, model.level_grid(8)), Place(tmp_path, "key", "test"))
    assert len(history) == 5
    for name in parameters:
        expected = history[0][name]
        for values in history[1:]:
            expected = 0.8 * expected + 0.2 * values[name]
        torch.testing.assert_close(averaged[name], expected, atol=1e-6, rtol=1e-5)
    assert not equal(averaged, history[-1])


def test_gradients_are_clipped_to_the_norm(folders, data, tmp_path, monkeypatch):
    norms, step = [], torch.optim.AdamW.step

    def recorded(self, *arguments, **named):
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients])).item())
        return step(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    run(folders.zimage, data, settings(max_grad_norm=0.01), tmp_path / "tight")
    assert norms == pytest.approx([0.01] * 6, rel=1e-3)
    assert all(row["grad_norm"] > 0.01 for row in metrics(tmp_path / "tight"))  # what is logged is the norm before
    norms.clear()
    run(folders.zimage, data, settings(max_grad_norm=1000.0), tmp_path / "loose")
    assert norms == pytest.approx([row["grad_norm"] for row in metrics(tmp_path / "loose")], rel=1e-4)


def test_the_learning_rate_warms_up_and_stays(folders, data, tmp_path):
    run(folders.zimage, data, settings(warmup=4, learning_rate=2.0e-3), tmp_path / "warm")
    rates = [row["learning_rate"] for row in metrics(tmp_path / "warm")]
    assert rates == pytest.approx([5e-4, 1e-3, 1.5e-3, 2e-3, 2e-3, 2e-3])
    run(folders.zimage, data, settings(warmup=0), tmp_path / "cold")
    assert {row["learning_rate"] for row in metrics(tmp_path / "cold")} == {1e-3}


@pytest.mark.parametrize(("bad_step", "kept"), [(1, None), (3, 2), (5, 4)])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(folders, data, tmp_path, bad_step, kept):
    aux, steps = region_loss(folders.clip), itertools.count(0)

    def poisoned(view):
        factor = float("nan") if next(steps) == bad_step else 1.0
        return aux(view) * factor

    training = settings(aux=CLIP | {"every": 1})
    with pytest.raises(UserError, match=f"not finite at step {bad_step}") as caught:
        run(folders.zimage, data, training, tmp_path / "work", poisoned)
    assert "learning_rate" in str(caught.value)
    if kept is None:
        assert "no checkpoint was written yet" in str(caught.value)
    else:
        path = Path(re.search(r"last good one is (\S+)\)", str(caught.value))[1])
        saved = load_checkpoint(path, "key")
        assert saved["step"] == kept
        assert all(torch.isfinite(value).all() for value in saved["parameters"].values())
    assert [row["step"] for row in metrics(tmp_path / "work")] == list(range(bad_step))
    # Nothing already computed is lost: without the poison the run goes on and ends like an unbroken one.
    resumed = run(folders.zimage, data, training, tmp_path / "work", aux)
    assert equal(resumed, run(folders.zimage, data, training, tmp_path / "whole", aux))


def test_seconds_and_the_beginning_are_those_of_all_attempts(folders, data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        killed_at(patch, 6)  # of the first attempt step 4 is in its log, and not in its last checkpoint
        with pytest.raises(Killed):
            run(folders.zimage, data, settings(), tmp_path)
    first = read_jsonl(tmp_path / "metrics.jsonl")
    saved = load_checkpoint(tmp_path / "checkpoint.json", "key")
    assert first[3]["processor_seconds"] <= saved["processor_seconds"] + 1e-3  # rows are rounded
    run(folders.zimage, data, settings(), tmp_path)
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert rows[:4] == first[:4]
    counted = [row["processor_seconds"] for row in rows]
    assert counted == sorted(counted)
    assert counted[0] > 0
    assert counted[4] >= saved["processor_seconds"] - 1e-3  # goes on, and does not begin again
    began = datetime.fromisoformat(times(rows)["started"]).timestamp()
    assert began == pytest.approx(first[0]["time"] - first[0]["seconds"], abs=1)
    assert times(rows)["processor_seconds"] == counted[-1]


def test_a_gradient_that_is_not_finite_stops_too(folders, data, tmp_path):
    def infinite_slope(images, owners, boxes, texts):
        pixels = images.flatten(1).sum(1)[owners]
        return (pixels - pixels.detach()).sqrt()  # value 0, slope ∞

    with pytest.raises(UserError, match="not finite at step 0"):
        run(folders.zimage, data, settings(aux=CLIP | {"every": 1}), tmp_path, on_pixels(infinite_slope))
    assert not (tmp_path / "checkpoint.json").exists()


def test_another_runs_checkpoint_is_refused(folders, data, tmp_path):
    run(folders.zimage, data, settings(), tmp_path)
    with pytest.raises(UserError, match="belongs to another configuration"):
        run(folders.zimage, data, settings(learning_rate=1.0e-2), tmp_path, key="other")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_bfloat16_models_train_in_float32_weights(folders, data, tmp_path, method):
    training = settings(method=method, learning_rate=1.0e-5, warmup=0, aux=CLIP)
    weights = run(folders.zimage, data, training, tmp_path, region_loss(folders.clip), dtype="bfloat16")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    start = open_model(Model(path=str(folders.zimage), dtype="bfloat16"), ("denoiser",))
    before = {n: p.float() for n, p in select_parameters(start, training, 0).items()}
    # Six steps of 1e-5 would round away in bfloat16. (B matrices pass no gradient to A while they are zero.)
    moved = torch.cat([(weights[n] != before[n]).flatten() for n in weights if "lora_A" not in n])
    assert moved.float().mean() > 0.95


def test_bucketed_training_meets_fewer_mixed_passes_and_resumes(folders, data, tmp_path, monkeypatch):
    mixed = small_data(folders.zimage, long=(2, 3, 5, 7, 8, 11))
    assert sorted(set(mixed.padded_lengths())) == [32, 64]
    seen = {}
    original = session.micro_step
    for bucket in (False, True):
        picked = seen[bucket] = []

        def step(model, stored, rows, *rest, picked=picked):
            picked.append(len({stored.padded_lengths()[row] for row in rows.tolist()}))
            return original(model, stored, rows, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(session, "micro_step", step)
            whole = run(folders.zimage, mixed, settings(bucket=bucket, batch_size=3), tmp_path / str(bucket))
    assert max(seen[False]) == 2
    assert max(seen[True]) == 1  # six of each length: no rest
    with pytest.MonkeyPatch.context() as patch:
        killed_at(patch, 4)
        with pytest.raises(Killed):
            run(folders.zimage, mixed, settings(bucket=True, batch_size=3), tmp_path / "killed")
    assert equal(run(folders.zimage, mixed, settings(bucket=True, batch_size=3), tmp_path / "killed"), whole)


def saved_bytes(model, data, training, aux) -> tuple[int, dict[str, torch.Tensor]]:
    """What one micro-step keeps for its backward pass, without the weights, and the gradients that it gives."""
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for m in (model.transformer, model.vae) for p in m.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    parameters = select_parameters(model, training, 0)
    generators, grid = [stateless_generator(0, sample) for sample in range(4)], model.level_grid(8)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = micro_step(model, data, torch.arange(4), None, training, grid, aux, generators, [False] * 4)
    (losses.diffusion + losses.aux).backward()
    return sum(kept.values()), {name: parameter.grad for name, parameter in parameters.items()}


def test_gradient_checkpointing_saves_memory_and_changes_no_gradient(folders, data):
    found = {}
    for parts in ((), ("denoiser",), ("decoder",), ("denoiser", "decoder")):
        training = settings(aux=CLIP | {"every": 1}, gradient_checkpointing=parts)
        model = open_model(Model(path=str(folders.zimage)), ("denoiser", "scheduler", "autoencoder"))
        model.save_memory(training.gradient_checkpointing)
        found[parts] = saved_bytes(model, data, training, region_loss(folders.clip))
    plain, gradients = found.pop(())
    for kept, same in found.values():
        assert kept < plain
        assert equal(same, gradients)
    both = found[("denoiser", "decoder")][0]
    assert both < min(found[("denoiser",)][0], found[("decoder",)][0])
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())
