"""Fonts, the synthetic dataset and the prompts."""

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from legible.config.allowed import of_use
from legible.config.model import Scheduler
from legible.config.scripts import known
from legible.config.section import SIDE, Name, Natural, NonNegative, Pair, Positive, PositiveFloat, Section, Text
from legible.config.training import different

SAMPLES = 10_000_000
FontNames = Annotated[tuple[Text, ...], AfterValidator(different)]


class Fonts(Section):
    """Where fonts come from and which of them are drawn with."""

    bundled: bool = Field(True, description="use the fonts that matplotlib bundles (no installation needed)")
    system: bool = Field(False, description="also search the system's font folders")
    folders: FontNames = Field((), description="further folders to search")
    characters: str = Field(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", description="characters that a font must really have", min_length=1
    )
    train: FontNames = Field((), description='fonts to draw with, as "family style"; empty = every usable one')
    held_out: FontNames = Field((), description="fonts kept for the test split, never trained on")

    @field_validator("characters")
    @classmethod
    def some_ink(cls, characters: str) -> str:
        if not characters.strip():
            raise ValueError("it is blank; at least one character with ink is needed")
        return characters


class Kinds(Section):
    """Relative frequency of each kind of string; 0 leaves a kind out."""

    word: NonNegative = 0.4
    rare: NonNegative = 0.2
    nonword: NonNegative = 0.3
    digits: NonNegative = 0.1

    @model_validator(mode="after")
    def some_kind(self) -> "Kinds":
        total = self.word + self.rare + self.nonword + self.digits
        if total <= 0:
            raise ValueError("at least one kind needs a weight above 0")
        if math.isinf(total):
            raise ValueError("the sum of the weights must be a finite number; lower them")
        return self


class Data(Section):
    """The synthetic dataset: signs with words on them."""

    seed: Natural = Field(0, description="every sample has its own seed, derived from this one and its index")
    script: Name = Field(
        "latin", description="whose capitals are written; those of resources/scripts.yaml that have some"
    )
    train: Positive = Field(1536, le=SAMPLES, description="samples in the train split")
    test: Natural = Field(128, le=SAMPLES, description="samples in the test split: held-out words and held-out fonts")
    height: Positive = Field(32, le=SIDE, description="pixels")
    width: Positive = Field(64, le=SIDE, description="pixels")
    length: Pair = Field((2, 6), description="shortest and longest line, in characters")
    lines: Pair = Field((1, 1), description="fewest and most lines on one sign")
    kinds: Kinds = Kinds()
    font_size: Pair = Field((12, 20), description="smallest and largest font size, in pixels")
    margin: Natural = Field(
        2, le=SIDE, description="pixels that stay free on every side; text that does not fit is rejected"
    )
    jitter: Natural = Field(0, le=SIDE, description="largest shift from the centre, in pixels")
    contrast: PositiveFloat = Field(4.5, le=21, description="smallest WCAG contrast ratio of text and background")

    @field_validator("script")
    @classmethod
    def written(cls, script: str) -> str:
        allowed = [name for name, entry in known().scripts.items() if entry.capitals]
        if script not in allowed:
            raise ValueError(f"plain signs are written in {', '.join(allowed)}; other scripts need a section render")
        return script

    @model_validator(mode="after")
    def ordered(self) -> "Data":
        for key in ("length", "lines", "font_size"):
            low, high = getattr(self, key)
            if low > high:
                raise ValueError(f"{key}: the first number must not exceed the second, got [{low}, {high}]")
        of_use(self.font_size[1], self, "font_size")
        return self


class PromptSet(Section):
    """A file of prompts with the words that must be readable, one JSON object a line: id, prompt, targets.

    Or a split of the dataset that nothing is trained on: its captions, in its held-out fonts, with its held-out words.
    """

    path: str | None = None
    split: Literal["test"] | None = Field(
        None, description="instead of a file: captions, words and fonts of the dataset's test split"
    )
    limit: Positive | None = Field(None, description="use only the first so many prompts")
    steps: Positive | None = Field(None, description="forward passes; null = those of `generation`, as in what follows")
    guidance_scale: NonNegative | None = None
    tuned_steps: Positive | None = None
    scheduler: Scheduler | None = None

    @model_validator(mode="after")
    def one_source(self) -> "PromptSet":
        if (self.path is None) == (self.split is None):
            raise ValueError("a prompt set needs either a path or split: test")
        return self
