"""Spelling watched while training: which prompts, how often, who reads, and which weights are kept for it."""

from typing import Literal

from pydantic import Field

from legible.config.section import Positive, Section
from legible.config.training import Seeds


class Validation(Section):
    """Pictures drawn and read while an arm trains, from prompts of their own."""

    prompts: str = Field(
        "resources/prompts/validation.jsonl", description="no target of a scored prompt set may be among theirs"
    )
    limit: Positive | None = Field(None, description="use only the first so many prompts")
    every: Positive = Field(
        16, description="optimiser steps from one evaluation to the next; also before all, and last"
    )
    judge: str = Field("rapidocr", description="an engine of `ocr`; not the network that a loss or reward reads with")
    weights: Literal["averaged", "current"] = Field(
        "averaged", description="which weights draw: averaged ones where training.ema is on, or those of the step"
    )
    seeds: Seeds = Field((0,), description="image seeds per prompt")
    keep: Literal["last", "best"] = Field(
        "last", description="which weights become the run's: the last, or those of the evaluation with the lowest CER"
    )
    patience: Positive | None = Field(
        None, description="evaluations without a new best after which training stops; null = never"
    )

    @property
    def chooses(self) -> bool:
        """Whether it decides how many steps the run's weights have trained for."""
        return self.keep == "best" or self.patience is not None
