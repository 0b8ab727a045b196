"""Standard trackers, fed with the rows of metrics.jsonl while a run trains or afterwards; opened by name.

Nothing is read from them: what the project says comes from metrics.jsonl.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from legible.errors import UserError
from legible.train.log import VALIDATION

UNTRACKED = ("step", "time")
Tell = Callable[[dict], None]


def values_of(row: dict) -> tuple[int, dict[str, float]]:
    """(optimiser steps done, name → number) of a row of metrics.jsonl; what is no finite number is left out.

    Names within names are joined by "/", as `validation/cer`, numbers of a list by their place.
    """
    found: dict[str, float] = {}

    def add(name: str, value: Any) -> None:
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, entry in inner:
            add(f"{name}/{key}", entry)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[name] = float(value)

    for name, value in row.items():
        if name not in UNTRACKED:
            add(name, value)
    return row["step"] + (VALIDATION not in row), found


@contextmanager
def tensorboard(folder: Path, run: str) -> Iterator[Tell]:
    """TensorBoard's event files in `folder`/tensorboard; a run that goes on hides what it does again."""
    writer = module_of("tensorboard", "torch.utils.tensorboard").SummaryWriter
    opened: list[Any] = []

    def tell(row: dict) -> None:
        step, values = values_of(row)
        if not opened:
            opened.append(writer(str(folder / "tensorboard"), purge_step=step))
        for name, value in values.items():
            opened[0].add_scalar(name, value, step, walltime=row.get("time"))

    try:
        yield tell
    finally:
        for each in opened:
            each.close()


@contextmanager
def wandb(folder: Path, run: str) -> Iterator[Tell]:
    """A run of Weights & Biases, offline, in `folder`/wandb; `wandb sync` sends it, this does not."""
    package = module_of("wandb", "wandb")
    opened: list[Any] = []

    def tell(row: dict) -> None:
        step, values = values_of(row)
        if not opened:
            folder.mkdir(parents=True, exist_ok=True)
            opened.append(package.init(project="legible", name=run, dir=str(folder), mode="offline"))
        opened[0].log(values, step=step)

    try:
        yield tell
    finally:
        for each in opened:
            each.finish()


TRACKERS = {"tensorboard": tensorboard, "wandb": wandb}


def module_of(tracker: str, name: str) -> Any:
    """The module that writes for a tracker.

    Raises:
        UserError: its package is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"trackers: {tracker} is not installed; `pip install {tracker}`, or leave it out") from error


@contextmanager
def tracking(names: tuple[str, ...], folder: Path, run: str) -> Iterator[tuple[Tell, ...]]:
    """Functions that are told every row, one for each tracker; nothing is written before the first row.

    Args:
        folder: of the run.
        run: its name.

    Raises:
        UserError: a tracker's package is not installed.
    """
    with ExitStack() as stack:
        yield tuple(stack.enter_context(TRACKERS[name](folder, run)) for name in names)
