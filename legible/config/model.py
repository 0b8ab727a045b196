"""The model that is fine-tuned, and how it is sampled."""

from typing import Literal

from pydantic import Field, model_validator

from legible.config.section import BATCH, NonNegative, Positive, Section
from legible.config.training import Seeds

Family = Literal["zimage", "stable_diffusion", "sdxl", "sd3", "flux", "qwen_image"]


class Model(Section):
    """The model to fine-tune."""

    family: Family = Field("zimage", description="architecture; see legible/models/")
    path: str = Field("resources/nano/zimage", description="local folder in diffusers' format, or a hub id")
    revision: str | None = Field(None, description="commit of the hub id (ignored for a folder)")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="precision of weights and activations")
    device: Literal["auto", "cuda", "cpu"] = Field(
        "auto", description="auto = the GPU where there is one; cuda refuses to go on without"
    )
    max_sequence_length: Positive = Field(64, le=8192, description="longest caption, in tokens")
    distilled_guidance: NonNegative = Field(
        3.5, description="the guidance that FLUX.1 dev is told as a number, in training and sampling; others are not"
    )


Scheduler = Literal["ddim", "dpm", "euler", "pndm"]


class Generation(Section):
    """Sampling. Baseline and fine-tuned images use identical prompts, noise and settings."""

    steps: Positive = Field(8, le=1000, description="forward passes of the transformer")
    guidance_scale: NonNegative = Field(
        0.0, description="zimage: 0 = one forward pass a step (Turbo needs 0); others: 1 = one"
    )
    tuned_steps: Positive | None = Field(
        None,
        description="a tuned text encoder speaks in the last so many steps, before them the base's; null = all",
    )
    scheduler: Scheduler | None = Field(
        None,
        description="another scheduler than the model's own (stable_diffusion, sdxl); null = its own",
    )
    seeds: Seeds = Field((0, 1), description="image seeds per prompt")
    batch_size: Positive = Field(32, le=BATCH, description="images per forward pass")

    @model_validator(mode="after")
    def consistent(self) -> "Generation":
        if self.tuned_steps and self.tuned_steps > self.steps:
            raise ValueError(f"tuned_steps: {self.tuned_steps} is more than steps ({self.steps})")
        return self
