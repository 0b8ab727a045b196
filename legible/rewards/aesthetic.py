"""`aesthetic`: the aesthetic predictor v2, nominally 1 … 10 and unbounded; the prompt does not count.

R = MLP(f / ‖f‖), f the picture's CLIP features.
"""

from torch import Tensor, nn

from legible.config import Reward
from legible.losses.view import Critics
from legible.rewards.features import image_features
from legible.rewards.reward import RewardFunction


def build(critics: Critics, settings: Reward, tuned: nn.Module | None) -> RewardFunction:
    """Scores [B]."""
    opened = critics["aesthetic"]

    def reward(images: Tensor, prompts: list[str]) -> Tensor:
        return opened.head(image_features(opened.clip, images).to(opened.head[0].weight.dtype))[:, 0]

    return reward
