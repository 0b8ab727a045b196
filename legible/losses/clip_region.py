"""`clip_region` (the study's loss): CLIP consistency of a text region with the string that should stand there.

L_aux = 1 − cos(CLIP_image(crop of the decoded x̂0), CLIP_text(target string)).
"""

from torch import Tensor

from legible.config import Aux
from legible.losses.clip_features import filled, region_features, text_features
from legible.losses.view import AuxLoss, Critics
from legible.models.clip import OpenedClip


def build(critics: Critics, aux: Aux, texts: tuple[str, ...]) -> AuxLoss:
    """The loss of a view, per sample."""
    clip = critics["clip"]
    return lambda view: view.per_sample(
        clip_region_loss(clip, view.images, view.owners, view.boxes, view.texts, aux.margin, clip.template)
    )


def clip_region_loss(
    clip: OpenedClip,
    images: Tensor,
    owners: Tensor,
    boxes: Tensor,
    texts: list[str],
    margin: float,
    template: str = "{}",
) -> Tensor:
    """Cosine distance (0 … 2) per region, [R]; gradients reach `images` and no parameter of the CLIP.

    Args:
        images: decoded x̂0 [B, 3, H, W], about −1 … 1, not clamped (a clamp kills gradients on saturated strokes).
        owners: [R], the image of each region.
        boxes: [R, 4] in pixels.
        texts: R target strings.
        margin: pixels added around a region.
        template: what the CLIP is told, with the target string in place of {}.
    """
    strings = text_features(clip, filled(template, texts), images.device)
    return 1.0 - (region_features(clip, images, owners, boxes, margin) * strings).sum(-1)
