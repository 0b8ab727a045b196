"""What models are called: `base`, a ceiling, a run `{arm}-seed{n}`, or a snapshot of a run, `{arm}-seed{n}-step{k}`."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from legible.errors import UserError

BASE, CONTROL, CEILINGS = "base", "diffusion_only", ("ceiling_render", "ceiling_vae")
SCALE = "base_other_seed"  # in tables of drift: the base's images from its own of the same prompt, other noise
PLACEBOS = {  # how the name of a placebo arm ends (the configuration sees to it) → what it is taught
    "_shuffled": "shuffled targets",
    "_permuted": "permuted letters",
    "_placebo": "no text",
}
PATTERN = re.compile(r"([a-z][a-z0-9_]*)-seed(\d+)(?:-step(\d+))?")


@dataclass(frozen=True)
class Run:
    """An arm trained with a seed; with `step`, its snapshot after so many optimiser steps. str() is its name."""

    arm: str
    seed: int
    step: int | None = None

    def __str__(self) -> str:
        return f"{self.arm}-seed{self.seed}" + ("" if self.step is None else f"-step{self.step}")

    @property
    def finished(self) -> "Run":
        """The run at its end."""
        return replace(self, step=None)

    @property
    def folder(self) -> Path:
        """Where the run lies below results/{experiment}."""
        return Path("runs", self.arm, f"seed{self.seed}")

    @property
    def weights(self) -> Path:
        """Where its weights, or those of the snapshot, lie below `folder`."""
        return Path("weights") if self.step is None else Path("snapshots", f"step{self.step}")


def run_of(model: str) -> Run:
    """The run or snapshot that a model's name says; a UserError for any other name."""
    if not (match := PATTERN.fullmatch(model)):
        allowed = f"{BASE}, {', '.join(CEILINGS)}, {{arm}}-seed{{n}} and {{arm}}-seed{{n}}-step{{k}}"
        raise UserError(f"model '{model}': allowed are {allowed}")
    return Run(match[1], int(match[2]), None if match[3] is None else int(match[3]))


def arm_and_seed(model: str) -> tuple[str, int | None]:
    """Arm and training seed of a model; the base model and the ceilings are arms of their own, without a seed.

    Raises:
        UserError: the name is none of a model.
    """
    if model in (BASE, *CEILINGS):
        return model, None
    run = run_of(model)
    return run.arm, run.seed
