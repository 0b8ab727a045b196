"""The rewards by name, and how an arm is trained by them.

A new reward is one entry in `REWARDS` and its module.
"""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, field_validator, model_validator

from legible.config.losses import LOSSES, Loss
from legible.config.section import NonNegative, Positive, PositiveFloat, Section

REWARDS = {
    "reading": Loss("legible.rewards.reading", ("reader",)),
    "caption": Loss("legible.rewards.caption", ("caption_clip",)),
}
HEARD = LOSSES | REWARDS  # all that an arm can listen to


def critics_of(names: Iterable[str]) -> list[str]:
    """The critics that these losses and rewards look with, sorted."""
    return sorted({critic for name in names for critic in HEARD[name].opens})


class CaptionClip(Section):
    """The CLIP of whole pictures and captions, in transformers' format: of the `caption` reward."""

    path: str = Field("resources/nano/caption_clip", description="local folder of a CLIPModel, or a hub id")
    revision: str | None = Field(None, description="commit of the hub id (ignored for a folder)")


class Reward(Section):
    """Fine-tuning by rewards of the pictures instead of by diffusion's own loss: L = −Σ γ·R (arXiv 2403.18978)."""

    weights: dict[str, PositiveFloat] = Field({}, description="reward → γ; empty = ordinary training")
    method: Literal["prompt", "direct"] = Field(
        "prompt", description="prompt = pictures sampled from noise; direct = one prediction from a noisy real picture"
    )
    steps: Positive = Field(8, description="T, steps of the sampler (prompt)")
    last: Positive = Field(2, description="K, the last steps, through which the gradient flows (prompt)")
    guidance_scale: NonNegative = Field(0.0, description="as in generation: 0 (Z-Image), up to 1 (others) = off")
    clip_text: Literal["tuned", "frozen"] = Field(
        "tuned", description="the `caption` reward's text tower: the encoder that is trained, or CLIP's own"
    )
    extra_text: NonNegative = Field(1.0, description="the `reading` reward's penalty for characters too many")
    targets: Literal["own", "shuffled"] = Field("own", description="shuffled = placebo: rewarded for another prompt")

    @field_validator("weights")
    @classmethod
    def known(cls, weights: dict[str, float]) -> dict[str, float]:
        for name in weights:
            if name not in REWARDS:
                raise ValueError(f"'{name}' is no reward; allowed are {', '.join(REWARDS)}")
        return weights

    @model_validator(mode="after")
    def consistent(self) -> "Reward":
        if self.last > self.steps:
            raise ValueError(f"last: {self.last} is more than steps ({self.steps})")
        return self
