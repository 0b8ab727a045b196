"""Loss and gradient of a training step against those of diffusers' example trainer on the same inputs.

The reference below is written from the facts of huggingface/diffusers:
examples/dreambooth/train_dreambooth_lora_z_image.py, with diffusers' own helpers: σ from the scheduler's table of 1000
(shifted) values, the time (1000 − t) / 1000, the output negated, the target ε − x0, the loss weighted by
`compute_loss_weighting_for_sd3`.
"""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
from training import settings, small_data

from legible.config import Model
from legible.models import flow
from legible.models.family import open_model
from legible.models.zimage.model import CAPTION, ZImage
from legible.train.adapters import select_parameters
from legible.train.data import TrainingData
from legible.train.step import micro_step

METHODS = {"full": {}, "lora": {"method": "lora", "lora": {"rank": 2, "alpha": 6.0}}}


@pytest.fixture(scope="module")
def data(folders) -> TrainingData:
    return small_data(folders.zimage)


def table_sigmas(scheduler: FlowMatchEulerDiscreteScheduler, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(σ, time that the network receives) of `count` draws as the example trainer makes them."""
    torch.manual_seed(3)
    u = compute_density_for_timestep_sampling("logit_normal", count, logit_mean=0.0, logit_std=1.0)
    places = (u * scheduler.config.num_train_timesteps).long()
    timesteps = scheduler.timesteps[places]
    return scheduler.sigmas[places], (1000 - timesteps) / 1000


def reference_loss(
    model: ZImage, latents: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor, time: torch.Tensor, captions: list
) -> torch.Tensor:
    sigmas = sigma.view(-1, 1, 1, 1)
    noisy = (1.0 - sigmas) * latents + sigmas * noise
    inputs = list(noisy.to(model.transformer.dtype).unsqueeze(2).unbind(dim=0))
    output = model.transformer(inputs, time, captions, return_dict=False)[0]
    prediction = -torch.stack(output, dim=0).squeeze(2)
    weighting = compute_loss_weighting_for_sd3("none", sigmas=sigmas)
    error = weighting.float() * (prediction.float() - (noise - latents).float()) ** 2
    return error.reshape(len(latents), -1).mean(1).mean()


def gradients(loss: torch.Tensor, parameters: dict[str, torch.nn.Parameter]) -> torch.Tensor:
    found = torch.autograd.grad(loss, list(parameters.values()))
    return torch.cat([gradient.flatten() for gradient in found])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 4])
def test_loss_and_gradient_equal_those_of_the_example_trainer(folders, data, monkeypatch, method, count):
    training = settings(batch_size=count, **METHODS[method])
    model = open_model(Model(path=str(folders.zimage)), ("denoiser", "scheduler"))
    parameters = select_parameters(model, training, 0)
    with torch.no_grad():  # B is zero at the start: A would have no gradient
        for name, parameter in parameters.items():
            if ".lora_B." in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    sigma, time = table_sigmas(model.scheduler, count)
    monkeypatch.setattr(flow, "draw_sigma", lambda *arguments: next(draws))
    draws = iter(sigma.split(1))
    noises = []
    original = flow.noised
    monkeypatch.setattr(flow, "noised", lambda clean, noise, at: noises.append(noise) or original(clean, noise, at))

    picked = torch.arange(count)
    generators = [torch.Generator().manual_seed(50 + i) for i in range(count)]
    ours = micro_step(model, data, picked, None, training, model.level_grid(8), None, generators, [False] * count)
    captions = data.conditioning.tensors[CAPTION][:count]
    theirs = reference_loss(model, data.latents[picked], noises[0], sigma, time, captions)

    torch.testing.assert_close(ours.diffusion, theirs, rtol=1e-6, atol=0)
    left, right = gradients(ours.diffusion, parameters), gradients(theirs, parameters)
    assert left.norm() > 1e-3
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6 * right.abs().max().item())


def test_the_table_of_the_trainer_is_the_flow_that_we_draw_from(zimage):
    """The table's σ and time belong together as ours do: the network receives 1 − σ."""
    sigma, time = table_sigmas(zimage.scheduler, 200)
    torch.testing.assert_close(time, 1 - sigma, atol=1e-6, rtol=0)
    assert sigma.min() > 0
    assert sigma.max() <= 1


def test_the_trainers_cast_of_sigma_to_bfloat16_would_lose_many_levels(zimage):
    """Why σ and time stay in float32 here: in bfloat16, 1000 different times become 678, and as many σ 355."""
    levels = zimage.scheduler.sigmas[:1000]
    assert len(levels.unique()) == 1000
    assert len((1 - levels).bfloat16().unique()) == 678
    assert len(levels.bfloat16().unique()) == 355
    calls = []
    forward = zimage.transformer.forward
    zimage.transformer.bfloat16().forward = lambda x, t, *rest, **named: (
        calls.append(t) or forward(x, t, *rest, **named)
    )
    zimage.predict(torch.zeros(1, 12, 8, 16), torch.tensor([0.7013]), zimage.encode_prompts(["black"]))
    assert calls[0].dtype == torch.float32
    assert calls[0].item() == pytest.approx(0.2987, abs=1e-6)
