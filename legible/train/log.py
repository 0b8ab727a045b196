"""Training curves as JSON lines: appended as training goes, cut back to the checkpoint when it resumes."""

import json
import time
from pathlib import Path

from legible.config import Aux
from legible.io import read_jsonl, write_jsonl


def share_at_bound(path: Path, aux: Aux) -> dict[str, float]:
    """{lambda_at_bound: share of the steps with an auxiliary loss whose λ was held at one of `lambda_bounds`, 0 … 1}.

    There the balance asked for is not kept. Empty where λ is not balanced, or the loss never counted.

    Args:
        path: metrics.jsonl of a finished run.
    """
    rows = [row for row in read_jsonl(path) if row["lambda"] is not None]
    if aux.balance not in ("gradient_norm", "uncertainty") or not rows:
        return {}
    return {"lambda_at_bound": sum(row["lambda"] in aux.lambda_bounds for row in rows) / len(rows)}


class RunLog:
    """An append-only file of one JSON object a step, each with its wall-clock `time` in seconds."""

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path, self.writes = path, writes  # of several processes one writes
        path.parent.mkdir(parents=True, exist_ok=True)

    def rewind(self, step: int) -> int:
        """Drop what was logged from `step` on (it will be repeated) and return `step`."""
        if self.writes and self.path.exists():
            # A kill can cut the last line short. The rest is replaced as a whole: a kill right here loses nothing.
            complete = self.path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
            write_jsonl(self.path, [row for row in map(json.loads, complete) if row["step"] < step])
        return step

    def write(self, **values: float | int | str | None) -> None:
        """Append one row."""
        if not self.writes:
            return
        with open(self.path, "a") as handle:
            handle.write(json.dumps(values | {"time": round(time.time(), 3)}, sort_keys=True) + "\n")
