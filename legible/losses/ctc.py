"""`ctc`: can a frozen reader read the target string in the text region?

L_aux = −log p(target | crop of the decoded x̂0) / length of the target, with p by connectionist temporal classification
(Graves et al. 2006) over the reader's columns.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from legible.config import Aux
from legible.errors import UserError
from legible.losses.regions import crop_regions, to_grey
from legible.losses.view import AuxLoss, Critics
from legible.models.reader import OpenedReader


def build(critics: Critics, aux: Aux, texts: tuple[str, ...]) -> AuxLoss:
    """The loss of a view, per sample.

    Raises:
        UserError: the reader cannot judge one of `texts`; said before training.
    """
    reader = critics["reader"]
    encode_targets(reader, texts)
    return lambda view: view.per_sample(
        ctc_region_loss(reader, view.images, view.owners, view.boxes, view.texts, aux.margin)
    )


def encode_targets(reader: OpenedReader, texts: list[str] | tuple[str, ...]) -> list[list[int]]:
    """Class indices of each target; a space is dropped where the reader knows none.

    Raises:
        UserError: the reader lacks a character, or the target needs more columns than a crop has (one per character,
            and a blank between equal neighbours).
    """
    encoded = []
    for text in texts:
        kept = "".join(text.split()) if " " not in reader.characters else text
        unknown = [character for character in kept if character not in reader.characters]
        if unknown:
            raise UserError(f"target {text!r}: the reader of the ctc loss does not know the character {unknown[0]!r}")
        needed = len(kept) + sum(a == b for a, b in pairwise(kept))
        if not kept or needed > reader.columns:
            raise UserError(
                f"target {text!r}: needs {needed} columns, but the ctc loss's reader has {reader.columns} (and at least"
                " one character is needed); raise reader.aspect or shorten data.length"
            )
        encoded.append([reader.characters.index(character) + 1 for character in kept])
    return encoded


def ctc_region_loss(
    reader: OpenedReader, images: Tensor, owners: Tensor, boxes: Tensor, texts: list[str], margin: float
) -> Tensor:
    """Negative log-likelihood per character (≥ 0, natural logarithm) of each region's target, [R].

    Args:
        images: decoded x̂0 [B, 3, H, W], about −1 … 1, not clamped.
        owners: [R], the image of each region.
        boxes: [R, 4] in pixels.
        texts: R target strings.
        margin: pixels added around a region.

    Gradients reach `images` and no parameter of the reader.
    """
    crops = crop_regions(images, owners, boxes, reader.size, margin)
    scores = reader.network(to_grey(crops), None).log_softmax(2).transpose(0, 1)
    targets = encode_targets(reader, texts)
    lengths = torch.tensor([len(target) for target in targets])
    flat = torch.tensor([index for target in targets for index in target])
    columns = torch.full((len(targets),), len(scores))
    loss = F.ctc_loss(scores, flat.to(images.device), columns, lengths, reduction="none")
    return loss / lengths.to(loss)
