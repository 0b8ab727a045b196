"""`pickscore`: exp(logit_scale) · cos(picture, prompt), about 18 … 23 (Kirstain et al. 2023, arXiv 2305.01569).

Of each picture and its own prompt; TextCraftor's published code averages over all pairs of a batch instead.
"""

from torch import Tensor, nn

from legible.config import Reward
from legible.losses.view import Critics
from legible.rewards.features import image_features, text_features
from legible.rewards.reward import RewardFunction


def build(critics: Critics, settings: Reward, tuned: nn.Module | None) -> RewardFunction:
    """Scores [B]."""
    opened = critics["pickscore"]

    def reward(images: Tensor, prompts: list[str]) -> Tensor:
        cosine = (image_features(opened.model, images) * text_features(opened.model, opened.tokenizer, prompts)).sum(1)
        return opened.model.logit_scale.exp() * cosine

    return reward
