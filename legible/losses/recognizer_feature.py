"""`recognizer_feature`: does a text region look to a frozen reader as the clean picture's region does?

The idea of AnyText's text perceptual loss (Tuo et al. 2023, arXiv 2311.03054): compare not what is read but the
features that it is read from, before the last fully connected layer.
"""

import torch
from torch import Tensor, nn

from legible.config import Aux
from legible.errors import UserError
from legible.losses.regions import crop_regions, to_grey
from legible.losses.view import AuxLoss, Critics
from legible.models.reader import OpenedReader

EPSILON = 1e-8  # of the clean features' mean square, which is about 1; a reader of a blank crop may feel nothing at all


def build(critics: Critics, aux: Aux, texts: tuple[str, ...]) -> AuxLoss:
    """The loss of a view, per sample."""
    reader = critics["reader"]
    return lambda view: view.per_sample(
        recognizer_feature_loss(reader, view.images, view.clean_images, view.owners, view.boxes, aux.margin)
    )


def last_linear(network: nn.Module) -> nn.Linear:
    """The layer that the network defines last of its fully connected ones: EasyOCR's and ours end in `prediction`.

    Raises:
        UserError: the network has none.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise UserError(f"the reader of the feature loss ({type(network).__name__}) has no fully connected layer")
    return layers[-1]


def reader_features(reader: OpenedReader, images: Tensor, owners: Tensor, boxes: Tensor, margin: float) -> Tensor:
    """What the reader's last fully connected layer is given for each region, [R, T, D]."""
    caught: list[Tensor] = []
    # A hook that stayed would keep the last batch's graph, and with it all of the decoder's activations.
    hook = last_linear(reader.network).register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    try:
        reader.network(to_grey(crop_regions(images, owners, boxes, reader.size, margin)), None)
    finally:
        hook.remove()
    return caught[-1]


def recognizer_feature_loss(
    reader: OpenedReader, images: Tensor, clean_images: Tensor, owners: Tensor, boxes: Tensor, margin: float
) -> Tensor:
    """Relative squared distance of the reader's features from those of the clean picture, per region, [R].

    Mean squared difference by mean square of the clean features: ≥ 0 and without a unit, 0 for equal pictures and about
    1 (at most a few) for unrelated ones.

    Args:
        images: decoded x̂0 [B, 3, H, W], about −1 … 1, not clamped.
        clean_images: decoded x0, the same shape and range.
        owners: [R], the image of each region.
        boxes: [R, 4] in pixels.
        margin: pixels added around a region.

    Gradients reach `images`, and neither `clean_images` nor a parameter of the reader.

    Raises:
        UserError: the reader has no fully connected layer.
    """
    with torch.no_grad():
        wanted = reader_features(reader, clean_images, owners, boxes, margin).flatten(1)
    found = reader_features(reader, images, owners, boxes, margin).flatten(1)
    return (found - wanted).square().mean(1) / (wanted.square().mean(1) + EPSILON)
