"""An arm's reward: the weighted sum of those that its configuration names, their critics opened once.

A reward is a module that the registry (config/rewards.py) names. It has `build(critics, settings, tuned)`, which
returns a function (images [B, 3, H, W] in about −1 … 1, B prompts) → scores [B], higher is better, each decided by its
own picture and prompt alone, with a gradient for the pixels. `critics` holds what the reward says it opens, `tuned` is
the text encoder that is trained, where one is.
"""

from collections.abc import Callable
from importlib import import_module

from torch import Tensor, nn

from legible.config import REWARDS, Reward
from legible.losses.view import Critics

RewardFunction = Callable[[Tensor, list[str]], Tensor]


def build_rewards(settings: Reward, critics: Critics, tuned: nn.Module | None) -> dict[str, RewardFunction]:
    """The rewards that `settings` weighs, by name.

    Raises:
        UserError: a critic does not fit.
    """
    return {name: import_module(REWARDS[name].module).build(critics, settings, tuned) for name in settings.weights}


def score(rewards: dict[str, RewardFunction], images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
    """Scores [B] of every reward."""
    return {name: reward(images, prompts) for name, reward in rewards.items()}
