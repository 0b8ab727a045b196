"""Rectified flow in Z-Image's conventions.

x_σ = (1 − σ)·x0 + σ·ε; the velocity is v = ε − x0; the network's raw output is −v
(huggingface/diffusers: pipelines/z_image/pipeline_z_image.py negates it before the scheduler step).
σ stays float32: bfloat16 keeps only two thirds of 1,000 noise levels apart.
"""

import torch
from torch import Tensor


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


def raw_target(clean: Tensor, noise: Tensor) -> Tensor:
    """What the network itself is to output: −v = x0 − ε."""
    return clean - noise


def predicted_clean(noisy: Tensor, velocity_prediction: Tensor, sigma: Tensor) -> Tensor:
    """x̂0 = x_σ − σ·v; with the true velocity this is x0 at every σ."""
    return noisy - expand(sigma, noisy) * velocity_prediction


def flow_loss(velocity_prediction: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the velocity per sample, [B]."""
    return (velocity_prediction.float() - velocity(clean, noise).float()).square().flatten(1).mean(1)


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
