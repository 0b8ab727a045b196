"""`caption`: does the picture show what the caption says? R = cos(I(x), T(p)), TextCraftor's Eq. 8 (arXiv 2403.18978).

As a constraint T is the text encoder that is being tuned: what it says must stay what CLIP's image tower sees. It can
then raise its score without changing the picture; with the frozen tower it cannot.
"""

from torch import Tensor, nn

from legible.config import Reward
from legible.errors import UserError
from legible.losses.view import Critics
from legible.rewards.features import image_features, text_features
from legible.rewards.reward import RewardFunction


def build(critics: Critics, settings: Reward, tuned: nn.Module | None) -> RewardFunction:
    """Cosines [B], −1 … 1.

    Raises:
        UserError: the tuned text encoder is not of the kind of this CLIP's text tower, or none is tuned.
    """
    clip = critics["caption_clip"]
    tower = None
    if settings.clip_text == "tuned":
        own, other = clip.model.text_model, tuned
        shapes = [{name: p.shape for name, p in m.named_parameters()} if m is not None else None for m in (own, other)]
        if shapes[0] != shapes[1]:
            raise UserError(
                "reward.clip_text: tuned needs a trained text encoder of the kind of caption_clip's text tower; choose"
                " frozen, or add text_encoder to parts"
            )
        tower = tuned

    def reward(images: Tensor, prompts: list[str]) -> Tensor:
        return (image_features(clip.model, images) * text_features(clip.model, clip.tokenizer, prompts, tower)).sum(1)

    return reward
