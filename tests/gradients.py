"""Gradients of losses on pictures against finite differences, in double precision."""

from collections.abc import Callable

import torch


def assert_gradient(
    loss: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, step: float, tolerance: float
) -> None:
    """Compare derivatives of `loss` at `images` (float64) in 8 random directions; `tolerance` is relative."""
    images = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(images), images)
    generator = torch.Generator().manual_seed(9)
    for _ in range(8):
        direction = torch.randn(images.shape, generator=generator, dtype=torch.float64)
        ahead, behind = (loss(images + sign * step * direction) for sign in (1, -1))
        difference = (ahead - behind).item() / (2 * step)
        slope = (gradient * direction).sum().item()
        assert abs(slope) > 1e-5
        assert abs(difference - slope) < tolerance * max(1e-2, abs(slope))
