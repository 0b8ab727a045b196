"""`hps`: cos(picture, prompt) of Human Preference Score v2, about .2 … .3 (Wu et al. 2023, arXiv 2306.09341).

A picture that is not square is padded with black to one, as the published transform does.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from legible.config import Reward
from legible.losses.view import Critics
from legible.rewards.features import normalized, resized
from legible.rewards.reward import RewardFunction


def build(critics: Critics, settings: Reward, tuned: nn.Module | None) -> RewardFunction:
    """Scores [B]."""
    opened = critics["hps"]

    def reward(images: Tensor, prompts: list[str]) -> Tensor:
        seen = normalized(in_a_square(images, opened.side))
        said = opened.model.encode_text(opened.tokenize(prompts).to(images.device), normalize=True)
        return (opened.model.encode_image(seen, normalize=True) * said).sum(1)

    return reward


def in_a_square(images: Tensor, side: int) -> Tensor:
    """Images [B, 3, H, W] in −1 … 1 as large as fits into the middle of a square, black around."""
    height, width = images.shape[-2:]
    scale = side / max(height, width)
    size = round(height * scale), round(width * scale)
    missing = side - size[0], side - size[1]
    (above, left), (rows, columns) = (count // 2 for count in missing), missing
    return F.pad(resized(images, size), (left, columns - left, above, rows - above), value=-1.0)
