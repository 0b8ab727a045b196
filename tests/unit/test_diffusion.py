"""Variance-preserving diffusion against diffusers' schedulers: noise, targets and x̂0 at every timestep."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, PNDMScheduler

from legible.config import SigmaSampling
from legible.models.diffusion import VariancePreserving

SETTINGS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}  # Stable Diffusion's
STEPS = torch.arange(1000)
KINDS = ("epsilon", "v_prediction")


def process_of(prediction: str = "epsilon", **more) -> VariancePreserving:
    return VariancePreserving(DDIMScheduler(**SETTINGS, **more).alphas_cumprod, prediction)


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """A clean and a noise sample for each timestep."""
    generator = torch.Generator().manual_seed(4)
    return torch.randn((1000, 2, 2, 3), generator=generator), torch.randn((1000, 2, 2, 3), generator=generator)


@pytest.mark.parametrize("kind", [DDIMScheduler, PNDMScheduler, DDPMScheduler])
def test_noising_is_the_schedulers_bit_for_bit(pair, kind):
    assert torch.equal(process_of().noised(*pair, STEPS), kind(**SETTINGS).add_noise(*pair, STEPS))


def test_noising_is_the_euler_schedulers_as_the_network_sees_it(pair):
    scheduler = EulerDiscreteScheduler(**SETTINGS, timestep_spacing="linspace")
    scheduler.set_timesteps(7)
    clean, noise = (part[:7] for part in pair)
    grid = scheduler.timesteps
    assert (grid % 1 > 0).any()  # some lie between two whole timesteps
    wide = scheduler.add_noise(clean, noise, grid)
    seen = wide / (1 + scheduler.sigmas[:-1].square()).sqrt()[:, None, None, None]
    process = VariancePreserving(scheduler.alphas_cumprod, "epsilon")
    torch.testing.assert_close(process.noised(clean, noise, grid), seen, atol=1e-6, rtol=1e-6)


def test_between_whole_timesteps_noise_goes_on_as_at_them():
    process = process_of()
    whole, between = process.sigma(STEPS), process.sigma(STEPS[:-1] + 0.5)
    assert (between > whole[:-1]).all()
    assert (between < whole[1:]).all()
    torch.testing.assert_close(process.sigma(STEPS.float()), whole, atol=1e-6, rtol=1e-6)


def test_the_velocity_is_the_schedulers_bit_for_bit(pair):
    found = process_of("v_prediction").target(*pair, STEPS)
    assert torch.equal(found, DDIMScheduler(**SETTINGS).get_velocity(*pair, STEPS))
    assert torch.equal(process_of().target(*pair, STEPS), pair[1])


@pytest.mark.parametrize("prediction", KINDS)
def test_the_true_target_gives_the_clean_image_at_every_timestep(pair, prediction):
    process = process_of(prediction)
    noisy, target = process.noised(*pair, STEPS), process.target(*pair, STEPS)
    torch.testing.assert_close(process.predicted_clean(noisy, target, STEPS), pair[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("prediction", KINDS)
def test_x0_is_the_one_that_the_sampler_goes_by(pair, prediction):
    scheduler = DDIMScheduler(**SETTINGS, clip_sample=False, prediction_type=prediction)
    scheduler.set_timesteps(10)
    noisy, answer = pair
    for step in scheduler.timesteps:
        expected = scheduler.step(answer, step, noisy).pred_original_sample
        found = process_of(prediction).predicted_clean(noisy, answer, step.expand(len(noisy)))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_last_timestep_of_pure_noise_can_be_predicted_as_a_velocity(pair):
    process = process_of("v_prediction", rescale_betas_zero_snr=True)
    noisy, target = process.noised(*pair, STEPS), process.target(*pair, STEPS)
    assert process.sigma(STEPS)[-1] == 1
    assert torch.equal(noisy[-1], pair[1][-1])
    torch.testing.assert_close(process.predicted_clean(noisy, target, STEPS), pair[0], atol=2e-5, rtol=0)


def test_the_share_of_noise_rises_and_finds_its_timestep_again():
    process = process_of()
    sigma = process.sigma(STEPS)
    assert (sigma.diff() > 0).all()
    assert sigma.min() > 0.02
    assert sigma.max() < 0.94
    assert torch.equal(process.levels(sigma), STEPS)
    assert process.levels(torch.tensor([0.0, 1.0])).tolist() == [0, 999]


def test_uniform_draws_are_those_of_the_example_trainers():
    generators = [torch.Generator().manual_seed(8) for _ in range(2)]
    drawn = process_of().draw(SigmaSampling(distribution="uniform"), STEPS[:1], 64, generators[0])
    assert torch.equal(drawn, torch.randint(0, 1000, (64,), generator=generators[1]))


def test_logit_normal_and_grid_draws():
    process, generator = process_of(), torch.Generator().manual_seed(8)
    drawn = process.draw(SigmaSampling(), STEPS[:1], 20_000, generator)
    expected = torch.distributions.Normal(0.0, 1.0).cdf(torch.logit(torch.tensor([0.25, 0.5, 0.75])))
    found = torch.stack([(drawn < part).float().mean() for part in (250, 500, 750)])
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)
    late = process.draw(SigmaSampling(mean=50.0), STEPS[:1], 8, generator)  # where the sigmoid rounds to 1
    assert late.tolist() == [999] * 8
    grid = torch.tensor([831, 499, 1])
    drawn = process.draw(SigmaSampling(distribution="grid"), grid, 300, generator)
    assert set(drawn.tolist()) == set(grid.tolist())
