"""`imagereward`: ImageReward, about 0 on average with a deviation of 1 (Xu et al. 2023, arXiv 2304.05977).

R = (MLP(h) − mean) / deviation, h the first token of the prompt, read by a BLIP that looks at the picture.
"""

import torch
from torch import Tensor, nn

from legible.config import Reward
from legible.losses.view import Critics
from legible.rewards.features import normalized, resized
from legible.rewards.reward import RewardFunction

TOKENS = 35
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072


def build(critics: Critics, settings: Reward, tuned: nn.Module | None) -> RewardFunction:
    """Scores [B]."""
    opened = critics["imagereward"]

    def reward(images: Tensor, prompts: list[str]) -> Tensor:
        pixels = normalized(middle(images, opened.vision.config.image_size))
        looked_at = opened.vision(pixel_values=pixels.to(opened.vision.dtype)).last_hidden_state
        tokens = opened.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        ).to(images.device)
        answer = opened.text(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=looked_at,
            encoder_attention_mask=torch.ones(looked_at.shape[:2], dtype=torch.long, device=images.device),
        ).last_hidden_state[:, 0]
        return (opened.head(answer)[:, 0] - MEAN) / DEVIATION

    return reward


def middle(images: Tensor, side: int) -> Tensor:
    """The square in the middle of images [B, 3, H, W], whose shorter side becomes `side`, as its own transform does."""
    scale = side / min(images.shape[-2:])
    height, width = (round(length * scale) for length in images.shape[-2:])
    top, left = (height - side) // 2, (width - side) // 2
    return resized(images, (height, width))[..., top : top + side, left : left + side]
