"""Arms timed in turn: by whole cycles of their steps, in rotating order, and nothing is kept."""

import json
import sys
from pathlib import Path

import pytest

from legible.config import Timing, Training
from legible.errors import UserError
from legible.train.balance import Balance
from legible.train.log import times
from legible.train.timing import cycle, seconds_of, time_arms, timed

CTC = {"loss": "ctc", "lambda": 1.0}
# Stands for the training: writes where it is told to, and notes its turn and its folders.
TRAINER = """
import json, sys
from pathlib import Path
words = dict(zip(sys.argv[2::2], sys.argv[3::2]))
with open(sys.argv[1], "a") as notes:
    notes.write(json.dumps(words) + "\\n")
folder = Path(words["--output-dir"])
folder.mkdir(parents=True)
rows = [{"step": k, "seconds": 9 + k, "processor_seconds": 5 + k * float(words["--pace"])} for k in range(4)]
(folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
"""


@pytest.mark.parametrize(
    ("aux", "steps"),
    [
        ({}, 6),  # of the control every step is alike
        (CTC | {"every": 1, "measure_every": 0}, 6),
        (CTC | {"every": 1, "measure_every": 4}, 8),
        (CTC | {"every": 8, "measure_every": 0}, 8),
        (CTC | {"every": 2, "measure_every": 9}, 8),  # measured at every fourth of its steps
    ],
)
def test_whole_cycles_are_timed(aux, steps):
    training = Training.model_validate({"steps": 64, "snapshots": [8], "checkpoint_every": 2, "aux": aux})
    short = timed(training, Timing(steps=6))
    assert short.steps == steps + 1
    assert short == training.model_copy(update={"steps": steps + 1, "snapshots": (), "checkpoint_every": steps + 1})
    if training.aux.weights and training.aux.measure_every and training.aux.every == 1:
        measured = [Balance(training.aux, 64).measures(step) for step in range(1, 33)]
        turns = {sum(measured[start : start + cycle(training)]) for start in range(0, 32, cycle(training))}
        assert turns == {1}


def test_the_first_step_does_not_count():
    rows = [{"seconds": s, "processor_seconds": p} for s, p in ((10.0, 30.0), (11.0, 31.5), (13.0, 33.5))]
    assert seconds_of(rows) == {"steps": 2, "processor_seconds": 3.5, "wall_seconds": 3.0}


def test_arms_take_turns_and_leave_nothing(tmp_path):
    notes = tmp_path / "notes.jsonl"
    commands = {
        arm: [sys.executable, "-c", TRAINER, str(notes), "--arm", arm, "--pace", str(pace)]
        for arm, pace in {"diffusion_only": 1.5, "ctc": 4.0, "clip_region": 2.0}.items()
    }
    rows = time_arms(commands, 0, 2, "cpu")
    assert [(row["round"], row["arm"]) for row in rows] == [
        *((0, arm) for arm in ("diffusion_only", "ctc", "clip_region")),
        *((1, arm) for arm in ("ctc", "clip_region", "diffusion_only")),
    ]
    assert rows[0] == {
        **{"arm": "diffusion_only", "round": 0, "steps": 3, "processor_seconds": 4.5, "wall_seconds": 3},
        "device": "cpu",
    }
    said = [json.loads(line) for line in notes.read_text().splitlines()]
    folders = {row["--output-dir"] for row in said} | {row["--checkpoints"] for row in said}
    assert len(folders) == 12
    assert not any(Path(folder).parent.exists() for folder in folders)
    failing = {"ctc": [sys.executable, "-c", "import sys; sys.exit('error: no such cache')"]}
    with pytest.raises(UserError, match=r"^ctc-seed4: it could not be timed \(error: no such cache\)$"):
        time_arms(failing, 4, 1, "cpu")


def test_a_run_began_when_the_first_attempt_of_its_log_did():
    rows = [{"time": 1772359205.5, "seconds": 5.5, "processor_seconds": 9.0}]
    rows += [{"time": 1772400000.0, "seconds": 8.0, "processor_seconds": 14.0}]  # of a later attempt
    expected = {"started": "2026-03-01T10:00:00+00:00", "wall_seconds": 8.0, "processor_seconds": 14.0}
    assert times(rows) == expected
