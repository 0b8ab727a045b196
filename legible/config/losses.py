"""The auxiliary losses by name, and the models that they look with (critics).

A new loss is one entry in `LOSSES` and its module.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from legible.config.section import BATCH, STEPS, Natural, Positive, PositiveFloat, Section


@dataclass(frozen=True)
class Critic:
    """A frozen model that losses look with: the module that opens it, and the packages that decide what it answers."""

    module: str
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loss:
    """What the workflow knows of a loss (or a reward) without importing it.

    `wants`: `text` = the target string alone, whose letters can be put in another order; `picture` = the clean picture
    or its masks, which show the letters as they are; `nothing` = no part of the sign: such a loss is a placebo.
    """

    module: str  # has `build(critics, aux, texts)`; see legible/losses/auxiliary.py, and rewards/reward.py
    opens: tuple[str, ...] = ()  # critics, by name
    decodes: bool = True  # whether it looks at pixels: then the autoencoder's decoder is opened
    wants: Literal["text", "picture", "nothing"] = "text"  # what of the sign it holds a prediction to


CRITICS = {
    "clip": Critic("legible.models.clip", ("open_clip_torch",)),
    "reader": Critic("legible.models.reader", ("easyocr",)),
    "segmenter": Critic("legible.models.segmenter"),
    "caption_clip": Critic("legible.models.caption_clip", ("transformers",)),
    "aesthetic": Critic("legible.models.aesthetic", ("transformers",)),
    "pickscore": Critic("legible.models.caption_clip", ("transformers",)),
    "hps": Critic("legible.models.hps", ("open_clip_torch",)),
    "imagereward": Critic("legible.models.imagereward", ("transformers",)),
}
LOSSES = {
    "clip_region": Loss("legible.losses.clip_region", ("clip",)),
    "clip_contrastive": Loss("legible.losses.clip_contrastive", ("clip",)),
    "recognizer_feature": Loss("legible.losses.recognizer_feature", ("reader",), wants="picture"),
    "ctc": Loss("legible.losses.ctc", ("reader",)),
    "glyph_mask": Loss("legible.losses.glyph_mask", decodes=False, wants="picture"),
    "char_segmentation": Loss("legible.losses.char_segmentation", ("segmenter",), decodes=False, wants="picture"),
    "self_reading": Loss("legible.losses.self_reading", ("reader",), wants="nothing"),
    "random_target": Loss("legible.losses.random_target", wants="nothing"),
}


class Clip(Section):
    """The open_clip model of the `clip_region` loss."""

    path: str = Field("resources/nano/clip", description="local folder (open_clip_config.json + weights), or a hub id")
    revision: str | None = Field(None, description="commit of the hub id (ignored for a folder)")
    template: str = Field("{}", description="what the target string stands in, for CLIPs that learned from captions")
    distractors: Positive = Field(
        9, le=1000, description="strings one edit away that clip_contrastive tells the target from"
    )

    @field_validator("template")
    @classmethod
    def has_a_place(cls, template: str) -> str:
        if template.count("{}") != 1:
            raise ValueError("exactly one {} is needed, the place of the target string")
        return template


class Reader(Section):
    """The recogniser of the `ctc` loss, in EasyOCR's format. It must not be the only judge."""

    network: str = Field("resources/nano/recognizer_conv", description="folder of a user network, or `standard`")
    models: str | None = Field(None, description="folder of EasyOCR's downloaded networks (for `standard`)")
    aspect: PositiveFloat = Field(2.0, le=100, description="width / height of the crops that it reads")


class Segmenter(Section):
    """The latent segmenter of the `char_segmentation` loss, trained on the dataset's own glyph masks."""

    width: Positive = Field(64, le=4096, description="channels")
    steps: Positive = Field(1200, le=STEPS)
    batch_size: Positive = Field(16, le=BATCH)
    learning_rate: PositiveFloat = 3.0e-3
    seed: Natural = 0
