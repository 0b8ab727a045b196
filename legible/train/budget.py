"""How long an attempt at a training may take: a cluster ends its jobs, and what is not written by then is lost.

SIGTERM is no help there: it reaches the job's leader only (snakemake/snakemake#3241), and half a minute later all is
killed. Nothing in here decides what a training computes: it decides when a checkpoint is written.
"""

import math
import os
import sys
import threading
import time
from collections import deque

from legible.errors import OutOfTime, UserError

EVERY = 600.0  # seconds: a checkpoint is written that often, however long a step takes
SHARE = 20  # … unless to write it takes more than this part of the time (a full fine-tuning of 6B: 25 GB)
SPARE = 0.05  # of the time that is left at the start: to write the first checkpoint, whose time nobody knows
SPARE_BOUNDS = (5.0, 600.0)  # seconds
LAST = 2.0  # seconds before the end, in which a step that does not end is given up
MARGIN = 1.5  # a step may take so many times as long as the longest of the last ones
RECENT = 32  # steps: those with an auxiliary loss, and those that measure, are among them


class Clock:
    """The time that an attempt has, and what its steps and checkpoints take of it."""

    def __init__(self, ends: float = math.inf) -> None:
        """`ends`: when the job is ended, on `time.monotonic()`."""
        self.ends, self.saved = ends, time.monotonic()
        self.spare = min(max(SPARE * (ends - self.saved), SPARE_BOUNDS[0]), SPARE_BOUNDS[1])
        self.last, self.wrote = self.saved, 0.0
        self.steps: deque[float] = deque(maxlen=RECENT)
        self.timer: threading.Timer | None = None
        self.gained = False  # whether there is a checkpoint to go on from

    @classmethod
    def until(cls, text: str) -> "Clock":
        """From a time in seconds since 1970; empty: nobody ends it."""
        return cls(time.monotonic() + float(text) - time.time()) if text else cls()

    def start(self, label: str, done: int) -> None:
        """The steps begin. From now on it is watched that they end in time.

        Args:
            label: as errors call the run.
            done: steps of earlier attempts.

        Raises:
            UserError: the time is over before the first step; `OutOfTime` where earlier attempts came further.
        """
        self.gained, self.last = done > 0, time.monotonic()
        self.saved = self.last
        if math.isinf(self.ends):
            return
        left = self.ends - self.last - LAST
        if left <= 0 and self.gained:
            raise OutOfTime(f"{label}: the job's time was over before it had started; {done} steps are done")
        if left <= 0:
            raise UserError(too_short(label, "starting alone took it all"))
        self.timer = threading.Timer(left, self.give_up, [label])
        self.timer.daemon = True
        self.timer.start()

    def give_up(self, label: str) -> None:
        """Say what would be killed without a word: a step that is not done when the time is over."""
        if self.gained:
            print(f"stopped: {label}: the time is over amid a step; what was written goes on", file=sys.stderr)
        else:  # another attempt would not come any further
            print(f"error: {too_short(label, 'no step was done and written')}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(OutOfTime.status if self.gained else 2)

    def finish(self) -> None:
        """No further step is to come."""
        if self.timer:
            self.timer.cancel()

    def step_done(self) -> None:
        """A step has just ended."""
        now = time.monotonic()
        self.steps.append(now - self.last)
        self.last = now

    def checkpoint_done(self) -> None:
        """A checkpoint has just been written, after the step."""
        self.saved = time.monotonic()
        self.wrote, self.last, self.gained = self.saved - self.last, self.saved, True

    @property
    def short(self) -> bool:
        """Whether one more step and its checkpoint may be too much."""
        needed = MARGIN * max(self.steps, default=0.0) + max(2 * self.wrote, self.spare)
        return time.monotonic() + needed > self.ends

    @property
    def due(self) -> bool:
        """Whether a checkpoint is due by the time that has passed since the last one."""
        return time.monotonic() - self.saved > max(EVERY, SHARE * self.wrote)


def too_short(label: str, why: str) -> str:
    """The sentence for a time limit that no training fits into."""
    return (
        f"{label}: the job's time limit is too short ({why}); give it more minutes with --set-resources"
        " train_arm:runtime=… or in the profile"
    )
