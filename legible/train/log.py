"""Training curves as JSON lines: appended as training goes, cut back to the checkpoint when it resumes."""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from legible.io import write_jsonl


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


def times(rows: Sequence[Mapping]) -> dict[str, str | float]:
    """What run.json says of time: when training `started` (UTC, ISO 8601), its `wall_seconds`, `processor_seconds`.

    An attempt goes on from the checkpoint of the one before and keeps its rows, so the first row is the first attempt's
    (of those that left a checkpoint: what another one did is not in the weights).
    """
    began = datetime.fromtimestamp(rows[0]["time"] - rows[0]["seconds"], UTC)
    spent = {"wall_seconds": rows[-1]["seconds"], "processor_seconds": rows[-1]["processor_seconds"]}
    return {"started": began.isoformat(timespec="seconds")} | spent
