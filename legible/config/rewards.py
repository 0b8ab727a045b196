"""The rewards by name, and how an arm is trained by them.

A new reward is one entry in `REWARDS` and its module.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from legible.config.losses import LOSSES, Loss
from legible.config.section import NonNegative, Positive, PositiveFloat, Section

REWARDS = {
    "reading": Loss("legible.rewards.reading", ("reader",)),
    "caption": Loss("legible.rewards.caption", ("caption_clip",)),
    "aesthetic": Loss("legible.rewards.aesthetic", ("aesthetic",)),
    "pickscore": Loss("legible.rewards.pickscore", ("pickscore",)),
    "hps": Loss("legible.rewards.hps", ("hps",)),
    "imagereward": Loss("legible.rewards.imagereward", ("imagereward",)),
}
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
HEARD = LOSSES | REWARDS  # all that an arm can listen to


def critics_of(names: Iterable[str]) -> list[str]:
    """The critics that these losses and rewards look with, sorted."""
    return sorted({critic for name in names for critic in HEARD[name].opens})


class CaptionClip(Section):
    """The CLIP of whole pictures and captions, in transformers' format: of the `caption` reward."""

    path: str = Field(description="local folder of a CLIPModel and its tokenizer, or a hub id")
    revision: str | None = Field(None, description="commit of the hub id (ignored for a folder)")


class Aesthetic(Section):
    """The aesthetic predictor v2: five linear layers on the features of a CLIP (Apache-2.0; nominally 1 … 10)."""

    path: str = Field(description="local folder of its CLIPModel (CLIP-L/14), with the layers' file in it")
    head: str = Field("sac+logos+ava1-l14-linearMSE.pth", description="the layers' file: .pth or .safetensors")
    sha256: Sha256 | None = Field(None, description="of that file; null = not checked (run.json has it in any case)")


class PickScore(CaptionClip):
    """PickScore: a CLIP trained on people's choices between pictures."""


class Hps(Section):
    """Human Preference Score v2 or v2.1: an open_clip CLIP (Apache-2.0). The two versions' scores do not compare."""

    path: str = Field(description="local folder with the weights' file in it")
    weights: str = Field("HPS_v2_compressed.pt", description="the weights' file: .pt or .safetensors")
    model: str = Field("ViT-H-14", description="open_clip's name of the architecture; local = path's own configuration")
    sha256: Sha256 | None = Field(None, description="of that file; null = not checked (run.json has it in any case)")


class ImageReward(Section):
    """ImageReward: a BLIP trained on people's rankings of pictures (Apache-2.0)."""

    path: str = Field(description="local folder with the weights' file, med_config.json and BERT's tokenizer in it")
    weights: str = Field("ImageReward.pt", description="the weights' file: .pt or .safetensors")
    sha256: Sha256 | None = Field(None, description="of that file; null = not checked (run.json has it in any case)")


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
