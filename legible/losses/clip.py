"""CLIP consistency of a text region with the string that should stand there.

`clip_region` (the study's loss): L_aux = 1 − cos(CLIP_image(crop of the decoded x̂0), CLIP_text(target string)).
`clip_contrastive`: the target string against strings one edit away.
"""

from collections.abc import Callable
from dataclasses import dataclass

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from legible.config import Clip
from legible.errors import UserError
from legible.losses.regions import crop_regions
from legible.models.hub import clip_folder


def first_line(error: Exception) -> str:
    """What an exception says, on one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@dataclass(frozen=True)
class OpenedClip:
    """A frozen CLIP with what its images need: input size (h, w), mean and standard deviation [1, 3, 1, 1]."""

    model: nn.Module
    tokenize: Callable[[list[str]], Tensor]
    size: tuple[int, int]
    mean: Tensor
    std: Tensor


def open_clip_model(clip: Clip, device: torch.device) -> OpenedClip:
    """Open the configured CLIP, frozen, from a local folder or a pinned hub revision (safetensors, no remote code).

    Raises:
        UserError: the folder is incomplete or its weights are damaged, or the hub does not give it.
    """
    folder = clip_folder(clip)
    name = f"local-dir:{folder}"
    try:
        if not (folder / "open_clip_model.safetensors").is_file():
            raise FileNotFoundError("open_clip_model.safetensors is missing")
        model = open_clip.create_model(name, weights_only=True)
        tokenize = open_clip.get_tokenizer(name)
    except Exception as error:
        raise UserError(f"{clip.path}: this CLIP cannot be loaded ({first_line(error)})") from error
    settings = open_clip.get_model_preprocess_cfg(model)
    size = model.visual.image_size
    return OpenedClip(
        model=model.to(device).eval().requires_grad_(False),
        tokenize=tokenize,
        size=(size, size) if isinstance(size, int) else tuple(size),
        mean=torch.tensor(settings["mean"], device=device).view(1, 3, 1, 1),
        std=torch.tensor(settings["std"], device=device).view(1, 3, 1, 1),
    )


def filled(template: str, texts: list[str]) -> list[str]:
    """The template with each text in place of {}; a text may itself hold braces, on which str.format would fail."""
    return [template.replace("{}", text) for text in texts]


def region_features(clip: OpenedClip, images: Tensor, owners: Tensor, boxes: Tensor, margin: float) -> Tensor:
    """The CLIP's unit vectors [R, D] of the regions, cropped from images [B, 3, H, W]; with gradients."""
    crops = crop_regions((images + 1) / 2, owners, boxes, clip.size, margin)
    return clip.model.encode_image((crops - clip.mean) / clip.std, normalize=True)


@torch.no_grad()
def text_features(clip: OpenedClip, texts: list[str], device: torch.device) -> Tensor:
    """The CLIP's unit vectors [len(texts), D]; a string that occurs several times is encoded once."""
    distinct = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    encoded = clip.model.encode_text(clip.tokenize(list(distinct)).to(device), normalize=True)
    return encoded[torch.tensor([distinct[text] for text in texts], device=device)]


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
