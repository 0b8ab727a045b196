"""`char_segmentation`: does a small network find each character where it should stand, in the latent itself?

Character-aware segmentation of the predicted x̂0 after TextDiffuser (Chen et al. 2023, arXiv 2305.10855), without
decoding it; see legible/models/segmenter.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from legible.config import Aux
from legible.losses.view import AuxLoss, Critics
from legible.models.segmenter import OpenedSegmenter


def build(critics: Critics, aux: Aux, texts: tuple[str, ...]) -> AuxLoss:
    """The loss of a view, per sample."""
    segmenter = critics["segmenter"]
    return lambda view: char_segmentation_loss(segmenter, view.predicted, view.characters)


def char_segmentation_loss(opened: OpenedSegmenter, predicted_latents: Tensor, characters: Tensor) -> Tensor:
    """Cross-entropy (≥ 0, natural logarithm) of the right class per cell, [B].

    The mean over the ink cells and that over the background cells count equally, however little ink there is; a sample
    that lacks one of them has the other alone.

    Args:
        predicted_latents: x̂0 [B, C, h, w], scaled; the only argument that gets a gradient.
        characters: classes of the cells [B, 2h, 2w], uint8 or long; see `character_map`.
    """
    characters = characters.to(predicted_latents.device).long()
    surprise = F.cross_entropy(opened.network(predicted_latents), characters, reduction="none").flatten(1)
    kinds = torch.stack([characters.flatten(1) > 0, characters.flatten(1) == 0])  # [2, B, cells]
    counts = kinds.sum(2)
    means = (surprise * kinds).sum(2) / counts.clamp(min=1)
    return means.sum(0) / (counts > 0).sum(0)
