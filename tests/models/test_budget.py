"""The time that an attempt has: what is done is written before it is over, and what could not be done is said."""

import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training import equal, metrics, run, settings, small_data

from legible.errors import OutOfTime, UserError
from legible.train import budget
from legible.train.budget import EVERY, Clock

ROOT = Path(__file__).resolve().parents[2]


class Ticks:
    """A clock of our own in the place of the machine's: every step takes `step` seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: float) -> None:
        self.now, self.step = 1000.0, step
        monkeypatch.setattr(budget.time, "monotonic", lambda: self.now)
        original = Clock.step_done

        def step_done(clock: Clock) -> None:
            self.now += self.step
            original(clock)

        monkeypatch.setattr(Clock, "step_done", step_done)


@pytest.fixture(scope="module")
def data(folders):
    return small_data(folders.zimage)


def test_training_in_attempts_with_a_time_limit_equals_an_unbroken_one_bit_for_bit(
    folders, data, tmp_path, monkeypatch
):
    """No checkpoint is due by steps: without the limit's own, every attempt would begin at step 0."""
    training = settings(steps=7, checkpoint_every=1000, ema=0.9)
    whole = run(folders.zimage, data, training, tmp_path / "whole")
    work, ticks, done = tmp_path / "work", Ticks(monkeypatch, step=20.0), []
    for _ in range(2):
        clock = Clock(ticks.now + 90)  # 3 steps of 20 s; after them one more, half as long again, would be too much
        with pytest.raises(OutOfTime, match=r"the job's time is nearly over; test: after step . of 7"):
            run(folders.zimage, data, training, work, clock=clock)
        assert ticks.now < clock.ends
        done.append(len(metrics(work)))
    assert done == [3, 6]
    assert equal(run(folders.zimage, data, training, work, clock=Clock(ticks.now + 90)), whole)
    assert metrics(work) == metrics(tmp_path / "whole")


def test_checkpoints_come_by_time_too(folders, data, tmp_path, monkeypatch):
    """Steps that take minutes: `checkpoint_every` counts steps only, and a node may be lost at any time."""
    saved = []
    original = Clock.checkpoint_done
    monkeypatch.setattr(Clock, "checkpoint_done", lambda clock: (original(clock), saved.append(len(clock.steps))))
    Ticks(monkeypatch, step=EVERY / 1.9)
    run(folders.zimage, data, settings(steps=7, checkpoint_every=1000), tmp_path)
    assert saved == [2, 4, 6, 7]


def test_without_a_limit_nothing_is_ever_short():
    clock = Clock.until("")
    clock.start("a run", 0)
    clock.step_done()
    assert math.isinf(clock.ends)
    assert not clock.short
    assert clock.timer is None


def test_the_end_is_told_in_seconds_since_1970():
    clock = Clock.until(str(time.time() + 1000))
    assert clock.ends == pytest.approx(time.monotonic() + 1000, abs=1)
    assert clock.spare == pytest.approx(50, abs=1)


def test_writing_takes_no_more_than_a_twentieth_of_the_time(monkeypatch):
    ticks = Ticks(monkeypatch, step=1.0)
    clock = Clock()
    clock.start("a run", 0)
    clock.step_done()
    ticks.now += 100  # seconds to write a checkpoint
    clock.checkpoint_done()
    assert clock.wrote == 100
    for passed, due in ((1999, False), (2, True)):
        ticks.now += passed
        assert clock.due is due


def test_a_start_that_takes_all_the_time_is_said():
    with pytest.raises(UserError, match=r"ctc seed 0: the job's time limit is too short .*train_arm:runtime=…"):
        Clock(time.monotonic() + 1).start("ctc seed 0", 0)
    with pytest.raises(OutOfTime, match="ctc seed 0: the job's time was over before it had started; 3 steps are done"):
        Clock(time.monotonic() + 1).start("ctc seed 0", 3)


@pytest.mark.parametrize(
    ("written", "status", "said"),
    [
        (
            "0); ",
            2,
            "error: ctc seed 0: the job's time limit is too short (no step was done and written); give it more",
        ),
        ("0); clock.step_done(); clock.checkpoint_done(); ", 75, "stopped: ctc seed 0: the time is over amid a step;"),
        ("7); ", 75, "stopped: ctc seed 0: the time is over amid a step;"),  # an earlier attempt has done seven
    ],
)
def test_a_step_that_outlives_the_time_ends_with_a_sentence(written, status, said):
    """Killed by the cluster it would say nothing, and the next attempt would do the same."""
    code = "import time; from legible.train.budget import LAST, Clock; clock = Clock(time.monotonic() + LAST + 0.3); "
    code += f"clock.start('ctc seed 0', {written}time.sleep(30)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=25)
    assert done.returncode == status
    assert done.stderr.startswith(said)


def test_out_of_time_has_an_exit_status_of_its_own(tmp_path):
    code = (
        "from legible.errors import OutOfTime, run_cli\ndef main():\n    raise OutOfTime('nearly over')\nrun_cli(main)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (75, "stopped: nearly over\n")
