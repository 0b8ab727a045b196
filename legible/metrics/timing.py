"""What a step of each arm takes, from timing.csv: processor seconds, or seconds on the GPU, measured alone."""

from pathlib import Path

import pandas as pd

from legible.errors import UserError

COLUMNS = ("arm", "round", "steps", "processor_seconds", "wall_seconds", "device")
SHARED = "wall seconds, other work beside"  # as trainings log them
ALONE = {"cpu": "processor seconds, measured alone", "cuda": "wall seconds, measured alone"}


def read_timing(path: Path) -> pd.DataFrame:
    """timing.csv.

    Raises:
        UserError: no such file, or not a table of `COLUMNS` of one device.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path}: no table of seconds; measure the arms again (rule time_arms)") from error
    if missing := [column for column in COLUMNS if column not in table]:
        raise UserError(f"{path}: the column {missing[0]} is missing; measure the arms again (rule time_arms)")
    if set(table["device"]) not in ({name} for name in ALONE):
        raise UserError(f"{path}: rows of one device, {' or '.join(ALONE)}, are needed; measure the arms again")
    return table


def clock_of(timing: pd.DataFrame) -> str:
    """What the seconds of `pace_of` are."""
    return ALONE[str(timing["device"].iloc[0])]


def per_step(timing: pd.DataFrame) -> pd.Series:
    """Seconds per step of every row: of the processor, or of the wall clock where a GPU does the work."""
    column = "processor_seconds" if clock_of(timing) == ALONE["cpu"] else "wall_seconds"
    return timing[column] / timing["steps"]


def pace_of(timing: pd.DataFrame) -> dict[str, float]:
    """Arm → median over its rounds of the seconds per step."""
    return per_step(timing).groupby(timing["arm"]).median().to_dict()
