"""`glyph_mask`: the diffusion loss on the glyphs alone, the cheap control: nothing is decoded."""

import torch
from torch import Tensor

from legible.config import Aux
from legible.losses.view import AuxLoss, Critics


def build(critics: Critics, aux: Aux, texts: tuple[str, ...]) -> AuxLoss:
    """The loss of a view, per sample."""
    return lambda view: glyph_mask_loss(view.prediction, view.target, view.masks)


def glyph_mask_loss(prediction: Tensor, target: Tensor, masks: Tensor) -> Tensor:
    """Squared error of the prediction, averaged over the latent cells with the glyph coverage as weight, [B] (≥ 0).

    Σ(m·e) / Σm with e the mean over channels; a sample without ink gives 0.

    Args:
        prediction: [B, C, h, w]; the only argument that gets a gradient.
        target: what the network should predict (ε − x0 in a flow), [B, C, h, w].
        masks: glyph coverage 0 … 1 of the latent cells, [B, h, w]; see `latent_masks`.
    """
    weights = masks.detach().to(prediction.device, torch.promote_types(prediction.dtype, torch.float32))
    errors = (prediction.to(weights) - target.detach().to(weights)).square().mean(1)
    ink = weights.flatten(1).sum(1)
    # An empty mask would be 0 / 0, whose gradient is not a number even where the result is replaced afterwards.
    return (weights * errors).flatten(1).sum(1) / torch.where(ink > 0, ink, 1.0)
