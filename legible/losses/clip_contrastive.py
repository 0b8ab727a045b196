"""`clip_contrastive`: the CLIP tells the target string from strings one edit away."""

import torch
import torch.nn.functional as F
from torch import Tensor

from legible.config import Aux
from legible.losses.clip_features import filled, region_features, text_features
from legible.losses.distractors import one_edit_distractors
from legible.losses.view import AuxLoss, Critics
from legible.models.clip import OpenedClip


def build(critics: Critics, aux: Aux, texts: tuple[str, ...]) -> AuxLoss:
    """The loss of a view, per sample; the distractors of each of `texts` are drawn once."""
    clip = critics["clip"]
    alphabet = "".join(sorted(set("".join("".join(texts).split()))))
    others = {text: one_edit_distractors(text, alphabet, clip.distractors) for text in set(texts)}
    return lambda view: view.per_sample(
        clip_contrastive_loss(
            clip,
            view.images,
            view.owners,
            view.boxes,
            view.texts,
            [others[text] for text in view.texts],
            aux.margin,
            clip.template,
        )
    )


def clip_contrastive_loss(
    clip: OpenedClip,
    images: Tensor,
    owners: Tensor,
    boxes: Tensor,
    texts: list[str],
    distractors: list[list[str]],
    margin: float,
    template: str = "{}",
) -> Tensor:
    """Cross-entropy (≥ 0, natural logarithm) of the target string among its K distractors, per region, [R].

    The logits are those of the CLIP's own training (Radford et al. 2021): cosine times its learnt, here frozen, scale.
    A CLIP that cannot tell the strings apart gives log(1 + K) and no useful gradient, where the cosine distance would
    still pull every picture towards whatever all strings have in common.

    Args:
        images: decoded x̂0 [B, 3, H, W], about −1 … 1, not clamped.
        owners: [R], the image of each region.
        boxes: [R, 4] in pixels.
        texts: R target strings.
        distractors: for each region K ≥ 1 other strings; see `one_edit_distractors`.
        margin: pixels added around a region.
        template: what the CLIP is told, with a string in place of {}.

    Gradients reach `images` and no parameter of the CLIP.
    """
    choices = [[text, *others] for text, others in zip(texts, distractors, strict=True)]
    strings = text_features(clip, filled(template, [choice for row in choices for choice in row]), images.device)
    features = region_features(clip, images, owners, boxes, margin)
    cosines = (features[:, None] * strings.view(len(choices), -1, strings.shape[-1])).sum(-1)
    right = torch.zeros(len(choices), dtype=torch.long, device=images.device)
    return F.cross_entropy(clip.model.logit_scale.detach().exp() * cosines, right, reduction="none")
