"""Variance-preserving diffusion: x_t = α·x0 + σ·ε with α² + σ² = 1; the network predicts ε, or v = α·ε − σ·x0.

Levels are timesteps 0 … T − 1. Training draws whole ones; an Euler sampler may also ask between them.
Sources: Ho et al. 2020 (arXiv 2006.11239); v: Salimans and Ho 2022 (arXiv 2202.00512).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from legible.config import SigmaSampling
from legible.models.flow import expand


@dataclass(frozen=True)
class VariancePreserving:
    """Diffusion over T timesteps as a process."""

    alphas_cumprod: Tensor  # ᾱ = α² [T], float32, falling
    prediction: Literal["epsilon", "v_prediction"]

    def draw(self, settings: SigmaSampling, grid: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """`count` timesteps.

        uniform draws as diffusers' trainers do; logit_normal gives ⌊T · sigmoid(mean + std·n)⌋; grid the sampler's own.
        """
        total = len(self.alphas_cumprod)
        if settings.distribution == "uniform":
            return torch.randint(0, total, (count,), generator=generator)
        if settings.distribution == "logit_normal":
            place = torch.sigmoid(torch.randn(count, generator=generator) * settings.std + settings.mean)
            return (total * place).long().clamp(max=total - 1)
        return grid[torch.randint(len(grid), (count,), generator=generator)]

    def scales(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """α and σ [B] at timesteps; between whole ones σ / α is interpolated, as diffusers' Euler sampler does."""
        table = self.alphas_cumprod.to(levels.device)
        if not levels.is_floating_point():
            return table[levels].sqrt(), (1 - table[levels]).sqrt()
        ratio = ((1 - table) / table).sqrt()
        below = levels.floor().long()
        above = (below + 1).clamp(max=len(table) - 1)
        between = ratio[below].lerp(ratio[above], levels - below)
        alpha = (1 + between.square()).rsqrt()
        return alpha, between * alpha

    def sigma(self, levels: Tensor) -> Tensor:
        """The share of noise σ / (α + σ) [B]."""
        alpha, sigma = self.scales(levels)
        return sigma / (alpha + sigma)

    def levels(self, sigma: Tensor) -> Tensor:
        """The timesteps [B] whose share of noise is nearest."""
        table = self.sigma(torch.arange(len(self.alphas_cumprod), device=sigma.device))
        return (table - sigma[:, None]).abs().argmin(1)

    def noised(self, clean: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """x_t [B, C, h, w]."""
        alpha, sigma = self.scales(levels)
        return expand(alpha, clean) * clean + expand(sigma, clean) * noise

    def target(self, clean: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """ε, or v [B, C, h, w]."""
        if self.prediction == "epsilon":
            return noise
        alpha, sigma = self.scales(levels)
        return expand(alpha, clean) * noise - expand(sigma, clean) * clean

    def predicted_clean(self, noisy: Tensor, prediction: Tensor, levels: Tensor) -> Tensor:
        """x̂0 [B, C, h, w]."""
        alpha, sigma = (expand(scale, noisy) for scale in self.scales(levels))
        if self.prediction == "epsilon":
            return (noisy - sigma * prediction) / alpha
        return alpha * noisy - sigma * prediction
