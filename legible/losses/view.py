"""What an auxiliary loss sees of one forward pass; pixels are decoded only if a loss asks for them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from legible.losses.regions import latent_windows, soft_limit

Critics = dict[str, Any]  # opened models by the names that a loss says it opens (config/losses.py)
AuxLoss = Callable[["View"], Tensor]  # → loss per sample [B]


@dataclass
class View:
    """B samples with R text regions; the gradient flows through `prediction` and `predicted` only.

    With `crop`, each region is a window of latents of its own and is decoded by itself: `images`, `owners` and `boxes`
    then speak of R windows instead of B images. A window holds the region and its margin, not all that a crop of the
    reader's shape would show above and below it: there the window's border is repeated, which saves most of the work.
    """

    prediction: Tensor  # [B, C, h, w], the network's: a velocity or ε
    target: Tensor  # [B, C, h, w], what it should be
    predicted: Tensor  # [B, C, h, w], x̂0
    clean: Tensor  # [B, C, h, w], latents of a picture that shows the wanted text
    samples: Tensor  # [R], the sample of each region
    regions: Tensor  # [R, 4], x0 y0 x1 y1 in pixels
    rows: Tensor  # [R], the number of each region in the training data
    texts: list[str]  # R target strings
    masks: Tensor  # [B, h, w], glyph coverage 0 … 1
    characters: Tensor  # [B, 2h, 2w], character classes, 0 = background
    decode: Callable[[Tensor], Tensor]  # latents → pixels in about −1 … 1
    factor: int  # pixels a latent cell
    crop: bool
    soft_range: bool
    margin: float  # pixels that are added around a region

    @cached_property
    def windows(self) -> tuple[Tensor, Tensor, Tensor]:
        """(predicted and clean latents behind one another [R, 2C, h', w'], owners [R], boxes [R, 4]) to be decoded."""
        both = torch.cat([self.predicted, self.clean], dim=1)
        if not self.crop:
            return both, self.samples, self.regions
        cut, boxes = latent_windows(both, self.samples, self.regions, self.factor, self.margin)
        return cut, torch.arange(len(cut), device=cut.device), boxes

    @property
    def owners(self) -> Tensor:
        """The image (or window) of each region, [R]."""
        return self.windows[1]

    @property
    def boxes(self) -> Tensor:
        """Regions in pixels of their image (or window), [R, 4]."""
        return self.windows[2]

    @cached_property
    def images(self) -> Tensor:
        """Decoded x̂0 [B, 3, H, W], about −1 … 1, with gradient."""
        return self.pixels(self.windows[0].chunk(2, dim=1)[0])

    @cached_property
    def clean_images(self) -> Tensor:
        """The picture with the wanted text after the same decoder [B, 3, H, W], without gradient."""
        with torch.no_grad():
            return self.pixels(self.windows[0].chunk(2, dim=1)[1])

    def pixels(self, latents: Tensor) -> Tensor:
        images = self.decode(latents)
        return soft_limit(images) if self.soft_range else images

    def per_sample(self, losses: Tensor) -> Tensor:
        """Losses of regions [R] summed up per sample, [B]."""
        return losses.new_zeros(len(self.predicted)).index_add(0, self.samples, losses)
