"""`clip_region`: CLIP consistency of a text region with the string that should stand there (the study's loss).

L_aux = 1 − cos(CLIP_image(crop of the decoded x̂0), CLIP_text(target string)), per region.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

from legible.config import Clip
from legible.errors import UserError
from legible.losses.regions import crop_regions


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
        UserError: the folder is incomplete or its weights are damaged.
    """
    folder = Path(clip.path)
    name = f"local-dir:{folder}" if folder.is_dir() else f"hf-hub:{clip.path}"
    try:
        if folder.is_dir() and not (folder / "open_clip_model.safetensors").is_file():
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


def clip_region_loss(
    clip: OpenedClip, images: Tensor, owners: Tensor, boxes: Tensor, texts: list[str], margin: float
) -> Tensor:
    """Cosine distance (0 … 2) per region, [R]; gradients reach `images` and no parameter of the CLIP.

    Args:
        images: decoded x̂0 [B, 3, H, W], about −1 … 1, not clamped (a clamp kills gradients on saturated strokes).
        owners: [R], the image of each region.
        boxes: [R, 4] in pixels.
        texts: R target strings.
        margin: pixels added around a region.
    """
    crops = crop_regions((images + 1) / 2, owners, boxes, clip.size, margin)
    features = clip.model.encode_image((crops - clip.mean) / clip.std, normalize=True)
    with torch.no_grad():
        strings = clip.model.encode_text(clip.tokenize(texts).to(images.device), normalize=True)
    return 1.0 - (features * strings).sum(-1)
