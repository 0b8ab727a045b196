"""Rectified flow: x_σ = (1 − σ)·x0 + σ·ε, and the network predicts the velocity v = ε − x0.

σ stays float32: bfloat16 keeps only two thirds of 1,000 noise levels apart.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from legible.config import SigmaSampling


def expand(sigma: Tensor, like: Tensor) -> Tensor:
    """σ [B] as [B, 1, …] so that it multiplies `like` [B, …]."""
    return sigma.view(-1, *([1] * (like.ndim - 1)))


def noised(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x_σ = (1 − σ)·x0 + σ·ε for clean, noise [B, C, h, w] and σ [B] in 0 … 1."""
    level = expand(sigma, clean)
    return (1.0 - level) * clean + level * noise


def velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """v = ε − x0, the direction in which the noise grows."""
    return noise - clean


def predicted_clean(noisy: Tensor, velocity_prediction: Tensor, sigma: Tensor) -> Tensor:
    """x̂0 = x_σ − σ·v; with the true velocity this is x0 at every σ."""
    return noisy - expand(sigma, noisy) * velocity_prediction


def draw_sigma(
    distribution: str, mean: float, std: float, grid: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """`count` noise levels, float32 in (0, 1].

    Args:
        distribution: logit_normal (σ = sigmoid(mean + std·n)), uniform, or grid (the sampler's own levels).
        grid: the sampler's σ values without the final 0, [S].
    """
    if distribution == "logit_normal":
        # The sigmoid of a far outlier rounds to 0, where no noise is left to be predicted.
        return torch.sigmoid(torch.randn(count, generator=generator) * std + mean).clamp(min=1e-6)
    if distribution == "uniform":
        return 1.0 - torch.rand(count, generator=generator)
    return grid.float()[torch.randint(len(grid), (count,), generator=generator)]


@dataclass(frozen=True)
class Flow:
    """Rectified flow as a process; its levels are σ itself.

    With a `shift` s, drawn levels become s·σ / (1 + (s − 1)·σ), more of them at high noise, as diffusers' example
    trainer of Stable Diffusion 3 draws them; those of the sampler's grid are shifted already.
    """

    shift: float = 1.0

    def draw(self, settings: SigmaSampling, grid: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """`count` levels; see `draw_sigma`."""
        sigma = draw_sigma(settings.distribution, settings.mean, settings.std, grid, count, generator)
        return sigma if settings.distribution == "grid" else self.shift * sigma / (1 + (self.shift - 1) * sigma)

    def sigma(self, levels: Tensor) -> Tensor:
        """The share of noise: the level."""
        return levels

    def levels(self, sigma: Tensor) -> Tensor:
        """The level of a share of noise; never 0, where no noise is left to be predicted."""
        return sigma.clamp(min=1e-6)

    def noised(self, clean: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """x_σ [B, C, h, w]."""
        return noised(clean, noise, levels)

    def target(self, clean: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """The velocity [B, C, h, w]."""
        return velocity(clean, noise)

    def predicted_clean(self, noisy: Tensor, prediction: Tensor, levels: Tensor) -> Tensor:
        """x̂0 [B, C, h, w]."""
        return predicted_clean(noisy, prediction, levels)


@dataclass(frozen=True)
class EulerSteps:
    """Euler's method along the velocity, from σ to the next one, and from the last to 0."""

    levels: Tensor  # [S], falling

    def begin(self, noise: Tensor) -> Tensor:
        """The noise itself: x_1 = ε."""
        return noise.float()

    def seen(self, latents: Tensor, place: int) -> Tensor:
        """The latents as they are."""
        return latents

    def step(self, latents: Tensor, prediction: Tensor, place: int) -> Tensor:
        """x + (σ' − σ)·v."""
        after = self.levels[place + 1] if place + 1 < len(self.levels) else self.levels.new_zeros(())
        return latents + (after - self.levels[place]) * prediction
