"""Seconds of an optimiser step, arm after arm in turn, by the training program itself; nothing of it is kept."""

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from legible.config import Timing, Training
from legible.errors import UserError
from legible.io import read_jsonl
from legible.names import Run
from legible.progress import progress


def cycle(training: Training) -> int:
    """After how many steps all kinds of steps have come in their turn: with the auxiliary loss, and with measuring.

    Of `grpo`: those that draw pictures, and those that learn from them again.
    """
    if not training.aux.weights:
        return training.reward.grpo.updates
    every, measured = training.aux.every, training.aux.measure_every
    return every * max(1, measured // every)


def timed(training: Training, timing: Timing) -> Training:
    """The training as it is timed: a first step that does not count, then whole cycles; without what is kept."""
    turn = cycle(training)
    steps = 1 + turn * -(-timing.steps // turn)
    return training.model_copy(update={"steps": steps, "snapshots": (), "checkpoint_every": steps})


def seconds_of(rows: Sequence[Mapping]) -> dict[str, float]:
    """From the rows of metrics.jsonl: `steps` that count, their `processor_seconds` and `wall_seconds`.

    The first step warms up caches and kernels. Every row is written after the step's numbers came from the device, so
    that the difference of two rows holds whole steps on a GPU, too.
    """
    first, last = rows[0], rows[-1]
    return {
        "steps": len(rows) - 1,
        "processor_seconds": round(last["processor_seconds"] - first["processor_seconds"], 3),
        "wall_seconds": round(last["seconds"] - first["seconds"], 3),
    }


def time_arms(commands: Mapping[str, Sequence[str]], seed: int, rounds: int, device: str) -> list[dict]:
    """The rows of timing.csv (`legible.metrics.timing.COLUMNS`): every arm once a round, each round one arm further on.

    Args:
        commands: arm → the words that train it, without `--checkpoints` and `--output-dir`.
        seed: the training seed that they name.
        rounds: how many.
        device: where they train, "cpu" or "cuda".

    Raises:
        UserError: a training failed; what it said last is in the sentence.
    """
    arms, rows = list(commands), []
    turns = [(turn, arms[(turn + place) % len(arms)]) for turn in range(rounds) for place in range(len(arms))]
    for turn, arm in progress(turns, "time the arms", unit="training"):
        with tempfile.TemporaryDirectory(prefix="timing-") as folder:
            output = Path(folder, "output")
            places = ["--checkpoints", str(Path(folder, "checkpoints")), "--output-dir", str(output)]
            done = subprocess.run([*commands[arm], *places], capture_output=True, text=True, check=False)
            if done.returncode:
                said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
                raise UserError(f"{Run(arm, seed)}: it could not be timed ({said})")
            rows.append({"arm": arm, "round": turn} | seconds_of(read_jsonl(output / "metrics.jsonl")))
    return [row | {"device": device} for row in rows]
