"""`self_reading`, a placebo: the reader shall be surer of what it reads, whatever that is.

L_aux = −log p(reading | crop of the decoded x̂0) / length of the reading, with the reading what the same reader decodes
greedily from the same crop, without gradient. It makes letters more legible to the reader of `ctc` and never says which
ones they should be (entropy minimisation by pseudo-labels; Lee 2013).
"""

from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from legible.config import Aux
from legible.losses.regions import crop_regions, to_grey
from legible.losses.view import AuxLoss, Critics
from legible.models.reader import OpenedReader


def build(critics: Critics, aux: Aux, texts: tuple[str, ...]) -> AuxLoss:
    """The loss of a view, per sample."""
    reader = critics["reader"]
    return lambda view: view.per_sample(self_reading_loss(reader, view.images, view.owners, view.boxes, aux.margin))


def greedy(scores: Tensor) -> list[list[int]]:
    """What R crops read: the best class of each column, repetitions and blanks (class 0) left out.

    Args:
        scores: [T, R, classes].
    """
    return [[best for best, _ in groupby(column) if best] for column in scores.argmax(2).T.tolist()]


def self_reading_loss(reader: OpenedReader, images: Tensor, owners: Tensor, boxes: Tensor, margin: float) -> Tensor:
    """Negative log-likelihood per character (≥ 0, natural logarithm) of each region's own reading, [R].

    A region in which nothing is read does not count: 0, without gradient.

    Args:
        images: decoded x̂0 [B, 3, H, W], about −1 … 1, not clamped.
        owners: [R], the image of each region.
        boxes: [R, 4] in pixels.
        margin: pixels added around a region.

    Gradients reach `images` and no parameter of the reader.
    """
    crops = crop_regions(images, owners, boxes, reader.size, margin)
    scores = reader.network(to_grey(crops), None).log_softmax(2).transpose(0, 1)
    readings = greedy(scores.detach())
    lengths = torch.tensor([len(reading) for reading in readings])
    flat = torch.tensor([index for reading in readings for index in reading], dtype=torch.long)
    columns = torch.full((len(readings),), len(scores))
    loss = F.ctc_loss(scores, flat.to(images.device), columns, lengths, reduction="none")
    lengths = lengths.to(loss)
    # Nothing read is no target: towards it the picture would become blank.
    return torch.where(lengths > 0, loss, 0.0) / lengths.clamp(min=1)
