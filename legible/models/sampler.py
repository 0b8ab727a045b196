"""A sampler one step at a time, with gradients: from noise to clean latents, as the family's own pipeline goes."""

from typing import Protocol

import torch
from torch import Tensor

from legible.models.conditioning import Conditioning

Shape = tuple[int, int, int]  # C, h, w of latents


class Sampler(Protocol):
    """The way from noise to a picture; it may remember earlier steps, so it is used once and in order."""

    levels: Tensor  # [S], at which the network is called

    def begin(self, noise: Tensor) -> Tensor:
        """Latents [B, C, h, w] to begin with, from standard normal noise."""

    def seen(self, latents: Tensor, place: int) -> Tensor:
        """What the network is shown of them at `levels[place]`."""

    def step(self, latents: Tensor, prediction: Tensor, place: int) -> Tensor:
        """Latents after the step from `levels[place]`; gradients reach both arguments."""


class Predicts(Protocol):
    """What these functions need of a family."""

    device: torch.device

    def sampler(self, steps: int, shape: Shape | None = None) -> Sampler: ...

    def predict(self, noisy: Tensor, levels: Tensor, conditioning: Conditioning) -> Tensor: ...


@torch.no_grad()
def trajectory(model: Predicts, conditioning: Conditioning, noise: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the sampler meets on its way from noise [B, C, h, w], without guidance.

    Returns:
        latents [S, B, C, h, w] as the network sees them (an Euler sampler's own of a diffusion with ε are larger), its
        predictions there, and the levels [S].
    """
    sampler, conditioning = model.sampler(steps, tuple(noise.shape[1:])), conditioning.to(model.device)
    latents, points, predictions = sampler.begin(noise.to(model.device)), [], []
    for place, level in enumerate(sampler.levels):
        seen = sampler.seen(latents, place)
        prediction = model.predict(seen, level.expand(len(seen)), conditioning)
        points.append(seen.float())
        predictions.append(prediction)
        latents = sampler.step(latents, prediction, place)
    return torch.stack(points), torch.stack(predictions), sampler.levels
