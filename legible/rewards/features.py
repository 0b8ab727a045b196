"""What CLIPs see and say: pictures and captions as unit features."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel, PreTrainedTokenizerBase

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # openai/CLIP's


def clip_pixels(images: Tensor, side: int) -> Tensor:
    """Images [B, 3, H, W] in −1 … 1 as CLIP takes them: [B, 3, side, side], bicubic, by its mean and deviation.

    Antialiased as Pillow does it, on which these networks were trained; not clamped, which would kill gradients. What
    is not square is squeezed, where transformers' own processor would cut its sides off.
    """
    return normalized(resized(images, (side, side)))


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [B, 3, H, W] at another size (height, width)."""
    return F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)


def normalized(images: Tensor) -> Tensor:
    """Images [B, 3, H, W] in −1 … 1 by CLIP's mean and deviation."""
    mean, deviation = (images.new_tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    return ((images + 1) / 2 - mean) / deviation


def image_features(model: CLIPModel, images: Tensor) -> Tensor:
    """Unit features [B, D] of images [B, 3, H, W] in about −1 … 1."""
    pixels = clip_pixels(images, model.config.vision_config.image_size)
    pooled = model.vision_model(pixel_values=pixels.to(model.dtype)).pooler_output
    return F.normalize(model.visual_projection(pooled), dim=-1)


def token_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], length: int) -> Tensor:
    """Token numbers [B, length] of prompts, padded and cut off at `length`, which Stable Diffusion does too."""
    return tokenizer(
        list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids


def text_features(
    model: CLIPModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], tower: nn.Module | None = None
) -> Tensor:
    """Unit features [B, D] of prompts.

    Args:
        tower: another text tower before CLIP's own projection: the one that is being tuned.
    """
    tower = model.text_model if tower is None else tower
    ids = token_ids(tokenizer, prompts, model.config.text_config.max_position_embeddings)
    pooled = tower(input_ids=ids.to(model.device)).pooler_output
    return F.normalize(model.text_projection(pooled), dim=-1)
