"""Latents as tokens: FLUX.1 and Qwen-Image see 2 × 2 cells of the latents as one token of four times the channels."""

from torch import Tensor

PATCH = 2


def packed(latents: Tensor) -> Tensor:
    """[B, C, h, w] as [B, h·w / 4, 4·C]; as FluxPipeline._pack_latents does it."""
    patches = latents.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))  # [B, C, h/2, 2, w/2, 2]
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """Undo `packed`: [B, C, height, width]."""
    patches = tokens.unflatten(1, (height // PATCH, width // PATCH)).unflatten(3, (-1, PATCH, PATCH))
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
