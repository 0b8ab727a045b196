"""Training curves as JSON lines: appended as training goes, cut back to the checkpoint when it resumes."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from legible.config import Aux
from legible.io import write_jsonl


def share_at_bound(rows: list[dict], aux: Aux) -> dict[str, float]:
    """{lambda_at_bound: share of the steps with an auxiliary loss whose λ was held at one of `lambda_bounds`, 0 … 1}.

    There the balance asked for is not kept. Empty where λ is not balanced, or the loss never counted.

    Args:
        rows: of a finished run's steps.
    """
    rows = [row for row in rows if row["lambda"] is not None]
    if aux.balance not in ("gradient_norm", "uncertainty") or not rows:
        return {}
    return {"lambda_at_bound": sum(row["lambda"] in aux.lambda_bounds for row in rows) / len(rows)}


VALIDATION = "validation"  # key of the rows that say how an evaluation came out; their `step` counts steps done


class RunLog:
    """An append-only file of one JSON object a step, each with its wall-clock `time` in seconds."""

    def __init__(self, path: Path, writes: bool = True, told: Iterable[Callable[[dict], None]] = ()) -> None:
        self.path, self.writes = path, writes  # of several processes one writes
        self.told = tuple(told)  # are given every row, too
        path.parent.mkdir(parents=True, exist_ok=True)

    def rewind(self, step: int) -> int:
        """Drop what was logged from `step` on (it will be repeated) and return `step`.

        An evaluation after `step` steps came before the checkpoint that says so, and stays.
        """
        if self.writes and self.path.exists():
            # A kill can cut the last line short. The rest is replaced as a whole: a kill right here loses nothing.
            complete = self.path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
            rows = map(json.loads, complete)
            write_jsonl(self.path, [row for row in rows if row["step"] < step + (VALIDATION in row and step > 0)])
        return step

    def write(self, **values: Any) -> None:
        """Append one row."""
        if not self.writes:
            return
        row = values | {"time": round(time.time(), 3)}
        with open(self.path, "a") as handle:
            handle.write(json.dumps(row, sort_keys=True) + "\n")
        for tell in self.told:
            tell(row)


def steps_of(rows: Iterable[dict]) -> list[dict]:
    """The rows of optimiser steps, without those of evaluations."""
    return [row for row in rows if VALIDATION not in row]


def evaluations_of(rows: Iterable[dict]) -> list[dict]:
    """The rows of evaluations: `step` (steps done), seconds of training till then, and `validation`."""
    return [row for row in rows if VALIDATION in row]


def times(rows: Sequence[Mapping]) -> dict[str, str | float]:
    """What run.json says of time: when training `started` (UTC, ISO 8601), its `wall_seconds`, `processor_seconds`.

    An attempt goes on from the checkpoint of the one before and keeps its rows, so the first row is the first attempt's
    (of those that left a checkpoint: what another one did is not in the weights).
    """
    began = datetime.fromtimestamp(rows[0]["time"] - rows[0]["seconds"], UTC)
    spent = {"wall_seconds": rows[-1]["seconds"], "processor_seconds": rows[-1]["processor_seconds"]}
    return {"started": began.isoformat(timespec="seconds")} | spent
