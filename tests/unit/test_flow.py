"""Rectified flow: with the true velocity the clean image comes back at every noise level."""

import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from legible.config import Aux, SigmaSampling
from legible.models import flow
from legible.train.step import forward_pass

GRID = torch.tensor([1.0, 0.75, 0.3])
LEVELS = st.floats(0.0, 1.0, width=32)


def pair(seed: int, shape: tuple[int, ...] = (3, 4, 2, 5)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


@given(st.lists(LEVELS, min_size=3, max_size=3), st.integers(0, 2**31))
def test_the_true_velocity_gives_the_clean_image_at_every_sigma(sigmas, seed):
    clean, noise = pair(seed)
    sigma = torch.tensor(sigmas)
    noisy = flow.noised(clean, noise, sigma)
    found = flow.predicted_clean(noisy, flow.velocity(clean, noise), sigma)
    torch.testing.assert_close(found, clean, atol=2e-6, rtol=0)


@given(LEVELS, st.integers(0, 2**31))
def test_noising_is_that_of_the_scheduler(sigma, seed):
    clean, noise = pair(seed)
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    scheduler.sigmas, scheduler.timesteps = torch.tensor([sigma, 0.0]), torch.tensor([1000.0 * sigma])
    scheduler.set_begin_index(0)
    expected = scheduler.scale_noise(clean, scheduler.timesteps, noise)
    torch.testing.assert_close(flow.noised(clean, noise, torch.full((3,), sigma)), expected, atol=1e-6, rtol=0)


def test_one_euler_step_to_zero_along_the_true_velocity_arrives_at_the_clean_image():
    clean, noise = pair(0)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=[1.0])
    moved = scheduler.step(flow.velocity(clean, noise), scheduler.timesteps[0], noise, return_dict=False)[0]
    torch.testing.assert_close(moved, clean, atol=1e-6, rtol=0)


def test_the_process_is_these_functions_and_its_levels_are_sigma_itself():
    """That Z-Image's network returns the negative of the target is undone, and tested, with its `predict`."""
    (clean, noise), process, sigma = pair(1), flow.Flow(), torch.tensor([0.2, 0.7, 1.0])
    assert torch.equal(process.target(clean, noise, sigma), noise - clean)
    assert torch.equal(flow.velocity(clean, noise), noise - clean)
    noisy = process.noised(clean, noise, sigma)
    assert torch.equal(noisy, flow.noised(clean, noise, sigma))
    torch.testing.assert_close(process.predicted_clean(noisy, noise - clean, sigma), clean, atol=2e-6, rtol=0)
    assert torch.equal(process.levels(process.sigma(sigma)), sigma)
    assert process.levels(torch.tensor([0.0])).item() > 0  # where no noise is left, nothing can be predicted
    settings = SigmaSampling(distribution="logit_normal", mean=0.4, std=1.1)
    drawn = process.draw(settings, GRID, 5, torch.Generator().manual_seed(3))
    assert torch.equal(drawn, flow.draw_sigma("logit_normal", 0.4, 1.1, GRID, 5, torch.Generator().manual_seed(3)))


def test_the_loss_is_the_mean_square_per_sample():
    clean, noise = pair(2)
    prediction, sigma, seen = flow.velocity(clean, noise), torch.tensor([0.3, 0.5, 0.9]), []
    prediction[1] += 0.5
    prediction[2, 0, 0, 0] += 2.0
    model = SimpleNamespace(
        device=torch.device("cpu"), process=flow.Flow(), predict=lambda *given: seen.append(given) or prediction
    )
    stored = SimpleNamespace(latents=clean.flip(0))
    loss, _ = forward_pass(model, stored, torch.tensor([2, 1, 0]), None, Aux(), noise, sigma, "captions")
    torch.testing.assert_close(loss, torch.tensor([0.0, 0.25, 4.0 / 40]), atol=1e-6, rtol=0)
    ((noisy, levels, said),) = seen
    assert torch.equal(noisy, flow.noised(clean, noise, sigma))
    assert torch.equal(levels, sigma)
    assert said == "captions"


@pytest.mark.parametrize("distribution", ["logit_normal", "uniform", "grid"])
def test_sigmas_are_float32_in_range_and_repeatable(distribution):
    draws = [flow.draw_sigma(distribution, 0.4, 1.1, GRID, 4000, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws)
    assert draws[0].dtype == torch.float32
    assert draws[0].shape == (4000,)
    assert draws[0].min() > 0
    assert draws[0].max() <= 1


def test_sigma_distributions_have_their_moments():
    generator = torch.Generator().manual_seed(4)
    logit = torch.logit(flow.draw_sigma("logit_normal", 0.4, 1.1, GRID, 20000, generator))
    assert abs(logit.mean().item() - 0.4) < 0.03
    assert abs(logit.std().item() - 1.1) < 0.03
    uniform = flow.draw_sigma("uniform", 0.0, 1.0, GRID, 20000, generator)
    assert abs(uniform.mean().item() - 0.5) < 0.01
    assert abs(uniform.std().item() - math.sqrt(1 / 12)) < 0.01
    values, counts = flow.draw_sigma("grid", 0.0, 1.0, GRID, 3000, generator).unique(return_counts=True)
    assert values.tolist() == sorted(GRID.tolist())
    assert counts.min() > 850


@pytest.mark.parametrize("std", [40.0, 400.0])
def test_a_wide_logit_normal_never_reaches_zero(std):
    sigma = flow.draw_sigma("logit_normal", 0.0, std, GRID, 4000, torch.Generator().manual_seed(5))
    assert sigma.min() > 0
    assert sigma.max() <= 1
