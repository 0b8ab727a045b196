"""The rewards by name, and how an arm is trained by them.

A new reward is one entry in `REWARDS` and its module.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from legible.config.allowed import file_name, matching
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
HASH = "^[0-9a-f]{64}$"
Sha256 = Annotated[
    str,
    AfterValidator(matching(HASH[1:-1], "a SHA-256 has 64 digits from 0 to 9 and a to f, as sha256sum prints it")),
    Field(json_schema_extra={"pattern": HASH}),
]
FileName = Annotated[str, AfterValidator(file_name)]
HEARD = LOSSES | REWARDS  # all that an arm can listen to
# Methods that use the rewards' values only, no gradient through them → the module, which has `reference(task)` and
# `method_pass(task, base, state, batch)`; see legible/train/policy.py.
SAMPLED = {
    "grpo": "legible.train.grpo",
    "nft": "legible.train.nft",
    "dpo": "legible.train.dpo",
    "best_of_n": "legible.train.best_of_n",
}


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
    head: FileName = Field("sac+logos+ava1-l14-linearMSE.pth", description="the layers' file: .pth or .safetensors")
    sha256: Sha256 | None = Field(None, description="of that file; null = not checked (run.json has it in any case)")


class PickScore(CaptionClip):
    """PickScore: a CLIP trained on people's choices between pictures."""


class Hps(Section):
    """Human Preference Score v2 or v2.1: an open_clip CLIP (Apache-2.0). The two versions' scores do not compare."""

    path: str = Field(description="local folder with the weights' file in it")
    weights: FileName = Field("HPS_v2_compressed.pt", description="the weights' file: .pt or .safetensors")
    model: str = Field("ViT-H-14", description="open_clip's name of the architecture; local = path's own configuration")
    sha256: Sha256 | None = Field(None, description="of that file; null = not checked (run.json has it in any case)")


class ImageReward(Section):
    """ImageReward: a BLIP trained on people's rankings of pictures (Apache-2.0)."""

    path: str = Field(description="local folder with the weights' file, med_config.json and BERT's tokenizer in it")
    weights: FileName = Field("ImageReward.pt", description="the weights' file: .pt or .safetensors")
    sha256: Sha256 | None = Field(None, description="of that file; null = not checked (run.json has it in any case)")


METHODS_OF = {  # keys that some methods have and others would not listen to
    "last": ("prompt", "direct"),
    "group": tuple(SAMPLED),
    "levels": ("nft", "dpo", "best_of_n"),
    "grpo": ("grpo",),
    "nft": ("nft",),
    "dpo": ("dpo",),
}


class Grpo(Section):
    """Flow-GRPO (arXiv 2505.05470): policy gradient on the steps of a sampler that adds noise. Flows only."""

    noise: PositiveFloat = Field(0.7, description="a in σ_t = a·√(t / (1 − t)), the noise that its sampler adds")
    train_steps: Positive | None = Field(
        None, description="so many of the T − 1 noisy steps are trained on, drawn for each prompt; null = all"
    )
    updates: Positive = Field(1, le=1000, description="optimiser steps that learn from the same pictures")
    clip_range: PositiveFloat = Field(
        1.0e-4, description="the ratio of probabilities counts in 1 ± this; it is 1 where updates is 1"
    )
    kl: NonNegative = Field(0.04, description="weight of the divergence from the base; 0 = off")


class Nft(Section):
    """DiffusionNFT (arXiv 2509.16117): towards what was rewarded and away from what was not, on noised pictures."""

    beta: PositiveFloat = Field(1.0, description="β, how far v⁺ and v⁻ lie from the old policy; smaller = larger steps")
    old_decay: Annotated[float, Field(ge=0, lt=1, strict=True)] = Field(
        0.9, description="of the averaged weights that sample (the old policy); 0 = the weights as they are"
    )


class Dpo(Section):
    """Diffusion-DPO (arXiv 2311.12908): the better of two pictures of the base against the worse."""

    beta: PositiveFloat = Field(2000.0, description="β, how strongly the base is held to; larger = closer")


class Reward(Section):
    """Fine-tuning by rewards of the pictures instead of by diffusion's own loss on the data; see docs/RACE.md."""

    weights: dict[str, PositiveFloat] = Field({}, description="reward → γ; empty = ordinary training")
    method: Literal["prompt", "direct", "grpo", "nft", "dpo", "best_of_n"] = Field(
        "prompt",
        description="L = −Σ γ·R of pictures sampled from noise (prompt) or of one prediction from a noisy real picture "
        "(direct); by the rewards' values alone: grpo, nft, dpo, best_of_n",
    )
    steps: Positive = Field(8, le=1000, description="T, steps of the sampler (all methods but direct)")
    last: Positive = Field(2, description="K, the last steps, through which the gradient flows (prompt)")
    guidance_scale: NonNegative = Field(0.0, description="as in generation: 0 (Z-Image), up to 1 (others) = off")
    clip_text: Literal["tuned", "frozen"] = Field(
        "tuned", description="the `caption` reward's text tower: the encoder that is trained, or CLIP's own"
    )
    extra_text: NonNegative = Field(1.0, description="the `reading` reward's penalty for characters too many")
    targets: Literal["own", "shuffled"] = Field("own", description="shuffled = placebo: rewarded for another prompt")
    group: Annotated[int, Field(ge=2, le=1024, strict=True)] = Field(
        8, description="G, pictures a prompt, which are compared with one another (grpo, nft, dpo, best_of_n)"
    )
    levels: Positive = Field(
        1, le=1000, description="noise levels at which a picture that counts is trained on (nft, dpo, best_of_n)"
    )
    grpo: Grpo = Grpo()
    nft: Nft = Nft()
    dpo: Dpo = Dpo()

    @field_validator("weights")
    @classmethod
    def known(cls, weights: dict[str, float]) -> dict[str, float]:
        for name in weights:
            if name not in REWARDS:
                raise ValueError(f"'{name}' is no reward; allowed are {', '.join(REWARDS)}")
        return weights

    @model_validator(mode="after")
    def consistent(self) -> "Reward":
        if self.method in METHODS_OF["last"] and self.last > self.steps:
            raise ValueError(f"last: {self.last} is more than steps ({self.steps})")
        for key, methods in METHODS_OF.items():
            if self.method not in methods and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(
                    f"{key}: it belongs to method {' or '.join(methods)}, not to {self.method}; leave it out"
                )
        if self.method == "grpo" and (self.grpo.train_steps or 1) > self.steps - 1:
            raise ValueError(
                f"grpo.train_steps: {self.grpo.train_steps or 'all'}, but of {self.steps} steps {self.steps - 1} are "
                "noisy; lower it or raise steps"
            )
        return self

    @property
    def sampled(self) -> bool:
        """Whether it trains by the rewards' values, without a gradient through them."""
        return bool(self.weights) and self.method in SAMPLED

    @property
    def points(self) -> int:
        """How often one prompt's caption goes through the denoiser with a gradient, in one forward pass."""
        noisy = self.group * (self.grpo.train_steps or self.steps - 1)
        return {"grpo": noisy, "nft": self.group * self.levels, "dpo": 2 * self.levels, "best_of_n": self.levels}.get(
            self.method, 1
        )
