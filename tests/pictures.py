"""Pictures, regions, drawn signs and random tensors that the tests of the losses share."""

import torch
from torch import Tensor, nn

from legible.config import Data, Fonts
from legible.render.fonts import find_fonts, select_fonts
from legible.render.sign import Sign, draw_sign

OWNERS = torch.tensor([0, 1, 1])
BOXES = torch.tensor([[10.0, 8.0, 50.0, 24.0], [0.0, 0.0, 64.0, 32.0], [40.0, 20.0, 63.0, 31.0]])
TEXTS = ["OPEN", "4711", "X"]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def images_of(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand((2, 3, 32, 64), generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


def classes_of(*shape: int, highest: int, seed: int = 0) -> Tensor:
    return torch.randint(0, highest + 1, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def untouched(network: nn.Module) -> bool:
    return all(p.grad is None and not p.requires_grad for p in network.parameters())


def draw_signs(texts: list[str] | tuple[str, ...]) -> list[Sign]:
    font = select_fonts(find_fonts(Fonts()), ("DejaVu Sans Bold",))[0]
    signs = [draw_sign((text,), font, 13, "white", "black", Data()) for text in texts]
    assert None not in signs
    return signs
