"""Where a UNet looks for each word of a caption: its cross-attention, token by token (TextCraftor's Figure 11)."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from legible.models.conditioning import Conditioning
from legible.models.stable_diffusion.model import StableDiffusion

CROSS = ".attn2"  # how diffusers names the layers that look at captions


@torch.no_grad()
def token_maps(model: StableDiffusion, noisy: Tensor, levels: Tensor, conditioning: Conditioning) -> Tensor:
    """The share of each cell's attention that goes to each token, [B, tokens, h, w], 1 in sum over the tokens.

    The mean over heads and over all cross-attention layers; coarser layers are enlarged to the latents' cells.

    Args:
        noisy: latents [B, C, h, w] of `levels` [B], as `StableDiffusion.predict` takes them.
    """
    shares: list[Tensor] = []
    hooks = []
    for name, layer in model.unet.named_modules():
        if name.endswith(CROSS):
            hooks += hooked(layer, shares, noisy.shape[-2:])
    try:
        model.predict(noisy, levels, conditioning)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(shares).mean(0)


def hooked(layer: nn.Module, shares: list[Tensor], size: tuple[int, int]) -> list:
    """Have a layer's queries and keys leave their attention in `shares`; what the layer answers stays the same."""
    seen: dict[str, Tensor] = {}

    def kept(name: str) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            seen[name] = layer.head_to_batch_dim(output)

        return hook

    def answered(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        scores = layer.get_attention_scores(seen["query"], seen["key"])  # [B · heads, cells, tokens]
        own = scores.unflatten(0, (-1, layer.heads)).mean(1).transpose(1, 2).float()
        coarser = math.isqrt(size[0] * size[1] // own.shape[-1])
        maps = own.unflatten(2, (size[0] // coarser, size[1] // coarser))
        shares.append(F.interpolate(maps, size, mode="nearest"))

    return [
        layer.to_q.register_forward_hook(kept("query")),
        layer.to_k.register_forward_hook(kept("key")),
        layer.register_forward_hook(answered),
    ]


def overlap(maps: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union [N] of each map's strongest pixels, as many as its box has, with the box.

    Args:
        maps: [N, H, W], in the picture's pixels.
        boxes: [N, 4], x0 y0 x1 y1 in pixels, half-open, each with at least one pixel.
    """
    _, height, width = maps.shape
    x, y = torch.arange(width), torch.arange(height)
    columns = (x >= boxes[:, 0:1]) & (x < boxes[:, 2:3])
    lines = (y >= boxes[:, 1:2]) & (y < boxes[:, 3:4])
    inside = (lines[:, :, None] & columns[:, None]).flatten(1)
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))
    chosen = rank < inside.sum(1, keepdim=True)
    return (chosen & inside).sum(1) / (chosen | inside).sum(1)
