"""Auxiliary losses in the training loop: sums, gates, placebo, regions, and λ as it is balanced."""

import math
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training import Killed, equal, killed_at, metrics, on_pixels, region_loss, run, settings, small_data

from legible.config import Aux, Clip, Model, critics_of
from legible.errors import UserError
from legible.losses.auxiliary import open_aux_loss, open_critics, sample_weights, signal_weight
from legible.models.family import open_model
from legible.seeds import stateless_generator
from legible.train.adapters import select_parameters
from legible.train.balance import Balance, scheduled
from legible.train.data import TrainingData, other_samples
from legible.train.log import share_at_bound
from legible.train.step import SIGMA_EDGES, by_sigma, forward_pass, norms_and_cosine

CLIP = {"loss": "clip_region", "lambda": 0.3, "every": 1}


@pytest.fixture(scope="module")
def data(folders) -> TrainingData:
    return small_data(folders.zimage)


def aux_of(**keys) -> Aux:
    return Aux.model_validate({"loss": "ctc", "lambda": 1.0} | keys)


def view_of(model, data: TrainingData, aux: Aux, goals=None, level: float = 0.5):
    """All samples at one noise level: (diffusion loss [N], what auxiliary losses see of them)."""
    picked = torch.arange(len(data.latents))
    noise = torch.randn(data.latents.shape, generator=stateless_generator(1))
    levels = torch.full((len(picked),), level)
    diffusion, view = forward_pass(model, data, picked, goals, aux, noise, levels, data.conditioning)
    return diffusion, view(picked)


@given(st.floats(0, 1))
def test_the_signal_weight_falls_from_one_to_zero(sigma):
    level = torch.tensor([sigma], dtype=torch.float64)
    assert math.isclose(signal_weight(level).item(), (1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2))
    assert math.isclose(signal_weight(level).item() + signal_weight(1 - level).item(), 1.0)


def test_the_window_is_hard_and_the_weight_soft():
    sigma = torch.tensor([0.1, 0.3, 0.5, 0.9])
    assert sample_weights(aux_of(sigma_window=[0.3, 0.6]), sigma).tolist() == [0, 1, 1, 0]
    both = sample_weights(aux_of(sigma_window=[0.3, 0.6], sigma_weight="signal"), sigma)
    assert both.tolist() == pytest.approx([0, 0.49 / 0.58, 0.5, 0], abs=1e-6)  # the notes' .84 at σ = .3


def critics_for(losses: list[str], **sections):
    return open_critics(critics_of(losses), sections, Path("unused"), torch.device("cpu"))


def test_a_weighted_sum_is_the_sum_of_its_losses(folders, data, zimage):
    critics = critics_for(["clip_region"], clip=Clip(path=str(folders.clip)))
    one, other = (open_aux_loss(aux_of(loss=name), critics, data.texts) for name in ("clip_region", "glyph_mask"))
    total = open_aux_loss(aux_of(loss={"clip_region": 0.5, "glyph_mask": 2.0}), critics, data.texts)
    _, view = view_of(zimage, data, aux_of())
    torch.testing.assert_close(total(view), 0.5 * one(view) + 2.0 * other(view))
    assert open_aux_loss(Aux(), {}, data.texts) is None
    with pytest.raises(UserError, match="needs a trained segmenter"):
        critics_for(["char_segmentation"], segmenter=None)


def test_a_placebo_is_taught_another_samples_text_at_its_own_place(data, zimage):
    goals = other_samples(12, seed=3)
    assert sorted(goals.tolist()) == list(range(12))
    assert (goals != torch.arange(12)).all()
    assert goals.tolist() != other_samples(12, seed=4).tolist()
    _, own = view_of(zimage, data, aux_of())
    _, placebo = view_of(zimage, data, aux_of(), goals)
    assert torch.equal(own.regions, placebo.regions)
    assert torch.equal(own.predicted, placebo.predicted)
    assert torch.equal(placebo.masks, own.masks[goals])
    assert torch.equal(placebo.characters, own.characters[goals])
    assert torch.equal(placebo.clean, own.clean[goals])
    for sample in range(12):
        wanted = [text for text, owner in zip(data.texts, data.owners.tolist(), strict=True) if owner == goals[sample]]
        given_texts = [t for t, s in zip(placebo.texts, placebo.samples.tolist(), strict=True) if s == sample]
        assert given_texts == [wanted[i % len(wanted)] for i in range(len(given_texts))]


def test_the_placebo_changes_the_loss_and_nothing_else_of_the_run(folders, data, tmp_path):
    loss = region_loss(folders.clip)
    plain = run(folders.zimage, data, settings(aux=CLIP), tmp_path / "own", loss)
    placebo = run(folders.zimage, data, settings(aux=CLIP | {"targets": "shuffled"}), tmp_path / "placebo", loss)
    assert not equal(plain, placebo)
    first, second = (metrics(tmp_path / name)[0] for name in ("own", "placebo"))
    assert first["loss_diffusion"] == second["loss_diffusion"]
    assert first["loss_aux"] != second["loss_aux"]


def test_decoding_only_the_regions_shows_the_losses_the_same_place(folders, zimage):
    """With a decoder that looks at nothing but its own cell, the middle of a region is the same pixel in both."""
    data = small_data(folders.zimage, size=(96, 160))  # so large that a window is a small part of it
    select_parameters(zimage, settings(), 0)
    seen = {}
    for region in ("image", "crop"):
        _, view = view_of(zimage, data, aux_of(region=region))
        view.decode = lambda latents: latents[:, :3].repeat_interleave(4, 2).repeat_interleave(4, 3)
        middle = ((view.boxes[:, :2] + view.boxes[:, 2:]) / 2).long()
        seen[region] = [
            images[view.owners, :, middle[:, 1], middle[:, 0]] for images in (view.images, view.clean_images)
        ]
        assert not view.clean_images.requires_grad
        assert view.per_sample(torch.ones(len(view.owners))).tolist() == [2.0 if i % 3 == 0 else 1.0 for i in range(12)]
    assert view.images.shape[0] == len(data.texts)
    assert view.images.shape[-2] * view.images.shape[-1] < 96 * 160 / 4
    assert ((view.boxes[:, :2] >= 0) & (view.boxes[:, 2:] <= torch.tensor(view.images.shape[:-3:-1]))).all()
    for whole, cut in zip(seen["image"], seen["crop"], strict=True):
        assert torch.equal(whole, cut)
    (gradient,) = torch.autograd.grad(view.images.sum(), view.predicted)
    assert (gradient[:, :3] != 0).any()


def test_the_soft_range_limits_the_pixels_and_keeps_the_gradient(data, zimage):
    select_parameters(zimage, settings(), 0)
    _, view = view_of(zimage, data, aux_of(soft_range=True))
    view.decode = lambda latents: 3.0 * latents[:, :3]
    assert view.images.abs().max() <= 1
    (gradient,) = torch.autograd.grad(view.images.sum(), view.predicted)
    assert (gradient[:, :3] != 0).float().mean() > 0.9


def test_auxiliary_steps_can_draw_sigma_from_the_window(folders, data, tmp_path):
    training = settings(steps=6, aux=CLIP | {"every": 2, "sigma_window": [0.4, 0.45], "sigma_sampling": "window"})
    run(folders.zimage, data, training, tmp_path / "window", region_loss(folders.clip))
    run(folders.zimage, data, settings(steps=6), tmp_path / "control")
    rows, control = metrics(tmp_path / "window"), metrics(tmp_path / "control")
    for step, (row, other) in enumerate(zip(rows, control, strict=True)):
        if step % 2:
            assert 0.4 <= row["sigma_mean"] <= 0.45
            assert row["sigma_aux"][1] is not None
        else:
            assert row["sigma_mean"] == other["sigma_mean"]


def test_losses_are_logged_by_noise_level():
    sigma, losses = torch.tensor([0.1, 0.2, 0.6, 0.95]), torch.tensor([1.0, 3.0, 5.0, float("nan")])
    assert by_sigma(sigma, losses) == [2.0, None, 5.0, None, None]
    assert len(SIGMA_EDGES) == 6


def test_gradients_taken_apart_add_up(folders, data, tmp_path):
    """The measured step must be the unmeasured one: same update, and norms and cosine as computed by hand."""
    loss = region_loss(folders.clip)
    runs = {}
    for name, every in (("measured", 1), ("plain", 0)):
        training = settings(steps=3, accumulation=2, aux=CLIP | {"measure_every": every})
        runs[name] = run(folders.zimage, data, training, tmp_path / name, loss)
    measured, plain = metrics(tmp_path / "measured"), metrics(tmp_path / "plain")
    assert all(row["grad_cosine"] is None for row in plain)
    for row, other in zip(measured, plain, strict=True):
        assert math.isclose(row["grad_norm"], other["grad_norm"], rel_tol=1e-3)
        d, a, cosine = row["grad_norm_diffusion"], row["grad_norm_aux"], row["grad_cosine"]
        assert math.isclose(row["grad_norm"] ** 2, d**2 + (0.3 * a) ** 2 + 2 * 0.3 * d * a * cosine, rel_tol=1e-3)
    differences = torch.cat([(runs["measured"][n] - runs["plain"][n]).abs().flatten() for n in runs["plain"]])
    assert (differences < 1e-4).float().mean() > 0.99


TOKENS: weakref.WeakSet = weakref.WeakSet()  # alive as long as the graphs that a `Node` is part of


class Node(torch.autograd.Function):
    """The identity."""

    @staticmethod
    def forward(ctx, values):
        ctx.token = torch.nn.Identity()
        TOKENS.add(ctx.token)
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_no_graph_outlives_its_forward_pass(folders, data, tmp_path):
    """Measuring both gradients keeps a graph over the first of two backward passes: of 8 decoders at once, 23 GiB."""
    alive, loss = [], region_loss(folders.clip)

    def watched(view):
        alive.append(len(TOKENS))
        return loss(view) + 0 * Node.apply(view.images).sum()

    training = settings(batch_size=1, accumulation=4, steps=2, aux=CLIP | {"every": 1, "measure_every": 1})
    run(folders.zimage, data, training, tmp_path, watched)
    assert alive == [0] * 8


def test_norms_and_cosine_by_hand():
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))]
    parameters[0].grad = torch.tensor([3.0, 4.0])
    assert norms_and_cosine(parameters, [torch.tensor([0.0, 2.0]), torch.tensor([0.0])]) == pytest.approx((5, 2, 0.8))
    assert norms_and_cosine(parameters, [None, None]) == (5.0, 0.0, 0.0)


def test_the_glyph_mask_loss_never_decodes(folders, data, zimage):
    loss = open_aux_loss(aux_of(loss="glyph_mask"), {}, data.texts)
    _, view = view_of(zimage, data, aux_of())
    view.decode = None
    assert loss(view).shape == (12,)


@pytest.mark.parametrize("balance", ["linear", "cosine"])
def test_schedules_run_from_lambda_to_lambda_end(balance):
    aux = aux_of(balance=balance, lambda_end=0.2)
    values = [scheduled(aux, step, 11) for step in range(11)]
    assert values[0] == pytest.approx(1.0)
    assert values[5] == pytest.approx(0.6)
    assert values[10] == pytest.approx(0.2)
    assert values == sorted(values, reverse=True)
    assert (values[1] == pytest.approx(0.92)) == (balance == "linear")
    assert scheduled(aux, 0, 1) == 1.0


def test_gradient_norms_are_balanced_to_the_ratio_within_bounds():
    balance = Balance(aux_of(balance="gradient_norm", target_ratio=2.0, smoothing=0.5, lambda_bounds=[0.1, 50.0]), 10)
    assert balance.at(0) == 1.0
    assert all(balance.measures(step) for step in range(7, 10))
    balance.observe_norms(3.0, 1.0)
    assert balance.at(1) == pytest.approx(6.0)  # the first measurement counts in full
    balance.observe_norms(1.0, 3.0)
    assert balance.at(2) == pytest.approx(2.0 * 2.0 / 2.0)
    balance.observe_norms(1.0, 0.0)  # an auxiliary loss without gradient says nothing about λ
    assert balance.at(3) == pytest.approx(2.0)
    balance.observe_norms(1e9, 1e-9)
    assert balance.at(4) == 50.0
    resumed = Balance(balance.aux, 10, dict(balance.state))
    assert resumed.at(5) == balance.at(5)


def test_a_lambda_held_at_a_bound_is_counted():
    rows = [{"lambda": value} for value in (0.1, 0.5, None, 50.0, 49.9)]
    bounds = {"lambda_bounds": [0.1, 50.0]}
    assert share_at_bound(rows, aux_of(balance="gradient_norm", **bounds)) == {"lambda_at_bound": 0.5}
    assert share_at_bound(rows, aux_of(balance="constant", **bounds)) == {}
    assert share_at_bound([{"lambda": None}], aux_of(balance="uncertainty", **bounds)) == {}


def test_uncertainty_weighting_ends_at_the_ratio_of_the_losses():
    balance = Balance(aux_of(balance="uncertainty"), 10)
    assert balance.at(0) == 1.0
    for _ in range(3000):
        balance.observe_losses(0.1, 0.4)
    assert balance.at(0) == pytest.approx(0.25, rel=1e-3)  # e^s = loss at the optimum of e^(−s)·loss + s


@pytest.mark.parametrize("balance", ["gradient_norm", "uncertainty", "cosine"])
def test_balanced_training_resumes_bit_for_bit(folders, data, tmp_path, monkeypatch, balance):
    loss = region_loss(folders.clip)
    training = settings(aux=CLIP | {"balance": balance, "lambda_end": 0.1}, snapshots=[3])
    whole = run(folders.zimage, data, training, tmp_path / "whole", loss)
    with monkeypatch.context() as patch:
        killed_at(patch, 6)
        with pytest.raises(Killed):
            run(folders.zimage, data, training, tmp_path / "cut", loss)
    assert equal(run(folders.zimage, data, training, tmp_path / "cut", loss), whole)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    lambdas = [row["lambda"] for row in metrics(tmp_path / "whole")]
    assert len(set(lambdas)) > 3
    names = [(tmp_path / name / "snapshot-3.safetensors").read_bytes() for name in ("whole", "cut")]
    assert names[0] == names[1]


def test_a_snapshot_holds_the_weights_of_its_step(folders, data, tmp_path):
    from safetensors.torch import load_file

    run(folders.zimage, data, settings(steps=6, snapshots=[4]), tmp_path / "long")
    short = run(folders.zimage, data, settings(steps=4), tmp_path / "short")
    assert equal(load_file(tmp_path / "long" / "snapshot-4.safetensors"), short)


def test_an_auxiliary_loss_reaches_the_transformer_and_nothing_that_is_frozen(folders, data):
    model = open_model(Model(path=str(folders.zimage)), ("denoiser", "scheduler", "autoencoder"))
    select_parameters(model, settings(), 0)
    loss = on_pixels(lambda images, owners, boxes, texts: images.flatten(1).mean(1)[owners])
    _, view = view_of(model, data, aux_of())
    loss(view).sum().backward()
    assert all(parameter.grad is None for parameter in model.vae.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.transformer.layers.parameters())
