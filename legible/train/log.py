"""Training curves as JSON lines: appended as training goes, cut back to the checkpoint when it resumes."""

import json
import time
from pathlib import Path

from legible.io import read_jsonl, write_jsonl


class RunLog:
    """An append-only file of one JSON object a step, each with its wall-clock `time` in seconds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def rewind(self, step: int) -> int:
        """Drop what was logged from `step` on (it will be repeated) and return `step`."""
        if self.path.exists():
            complete = self.path.read_text().rpartition("\n")[0]
            self.path.write_text(complete + "\n" if complete else "")
            write_jsonl(self.path, [row for row in read_jsonl(self.path) if row["step"] < step])
        return step

    def write(self, **values: float | int | str | None) -> None:
        """Append one row."""
        with open(self.path, "a") as handle:
            handle.write(json.dumps(values | {"time": round(time.time(), 3)}) + "\n")
