"""`random_target`, a placebo: every text region shall look like a smooth random pattern of its own.

L_aux = mean squared difference of the crop of the decoded x̂0 and the pattern. A target as steady as a text, but without
any letter: what it gains is the gain of a strong gradient, wherever it leads. With `balance: gradient_norm` its
gradient is as long as that of a loss with the same `target_ratio`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from legible.config import Aux
from legible.losses.regions import crop_regions
from legible.losses.view import AuxLoss, Critics
from legible.seeds import Stream, stateless_generator

SIZE = (32, 64)  # pixels to which a region is enlarged
CELLS = (4, 8)  # knots of the pattern: no detail is finer than about 8 of these pixels


def build(critics: Critics, aux: Aux, texts: tuple[str, ...]) -> AuxLoss:
    """The loss of a view, per sample."""
    return lambda view: view.per_sample(random_target_loss(view.images, view.owners, view.boxes, view.rows, aux.margin))


def pattern(row: int) -> Tensor:
    """The pattern of the region with this number in the training data, [3, 32, 64]: −1 … 1, one of which it reaches.

    Low-pass noise: normal knots, bicubic between them. It is the same for every training seed, as texts are.
    """
    knots = torch.randn((1, 3, *CELLS), generator=stateless_generator(Stream.RANDOM_TARGET, row))
    smooth = F.interpolate(knots, SIZE, mode="bicubic", align_corners=False)[0]
    return smooth / smooth.abs().amax()


def random_target_loss(images: Tensor, owners: Tensor, boxes: Tensor, rows: Tensor, margin: float) -> Tensor:
    """Mean squared difference (≥ 0) of each region and its pattern, [R].

    Args:
        images: decoded x̂0 [B, 3, H, W], about −1 … 1, not clamped; the only argument that gets a gradient.
        owners: [R], the image of each region.
        boxes: [R, 4] in pixels.
        rows: [R], the number of each region in the training data.
        margin: pixels added around a region.
    """
    wanted = torch.stack([pattern(row) for row in rows.tolist()]).to(images)
    return (crop_regions(images, owners, boxes, SIZE, margin) - wanted).square().flatten(1).mean(1)
