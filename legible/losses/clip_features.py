"""What a CLIP makes of text regions and of strings, shared by the losses that look with it."""

import torch
from torch import Tensor

from legible.losses.regions import crop_regions
from legible.models.clip import OpenedClip


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
