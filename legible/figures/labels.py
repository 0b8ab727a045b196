"""What arms, engines and numbers are called in figures and on pages, and which arms are compared."""

from collections.abc import Sequence

import pandas as pd

from legible.config import GLYPH_JUDGE, JUDGES
from legible.errors import UserError
from legible.names import BASE, CEILINGS, CONTROL, PLACEBOS, SCALE

METRIC_OF_DRIFT = "dssim"  # of drift.csv, that figures show
ARM_LABELS = {
    BASE: "base (not fine-tuned)",
    CONTROL: f"{CONTROL} (control, λ = 0)",
    CEILINGS[0]: "our own renders",
    CEILINGS[1]: "our renders after the VAE",
    SCALE: "base, other noise (the scale)",
}


def engine_label(engine: str) -> str:
    """How people write an engine's name."""
    if engine == GLYPH_JUDGE:
        return "glyph judge"
    return JUDGES[engine].label if engine in JUDGES else engine


def is_placebo(arm: str) -> bool:
    """Whether an arm was trained towards anything but its samples' texts: what it gains is not what the loss says.

    Its name tells: the configuration refuses placebos with other names, and other arms with such names.
    """
    return arm.endswith(tuple(PLACEBOS))


def placebo_kind(arm: str) -> str:
    """What a placebo was taught instead."""
    return next(kind for ending, kind in PLACEBOS.items() if arm.endswith(ending))


def arm_label(arm: str) -> str:
    """An arm as figures and tables call it."""
    return ARM_LABELS.get(arm, f"{arm} (placebo)" if is_placebo(arm) else arm)


def auxiliary_arms(arms: Sequence[str]) -> list[str]:
    """The arms that are compared with the control, in order."""
    return [arm for arm in arms if arm != CONTROL]


def with_control_first(arms: Sequence[str]) -> list[str]:
    """The control, then the other arms in the order given.

    Raises:
        UserError: the control is not among them.
    """
    if CONTROL not in arms:
        raise UserError(f"arms: {CONTROL} is missing; every claim is measured against it")
    return [CONTROL, *auxiliary_arms(arms)]


def signed(value: float) -> str:
    """A difference with its sign, three decimals; a dash where there is none."""
    return "–" if pd.isna(value) else f"{value:+.3f}".replace("-", "−")
