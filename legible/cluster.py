"""What a cluster needs to be told, and what it leaves behind: time, memory, signals, logs of attempts that ended.

Only the workflow uses this. Nothing in here decides a byte of any result.
"""

import json
import math
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil

from legible.errors import UserError
from legible.io import write_json
from legible.train.budget import MARGIN, SPARE_BOUNDS

TAIL = 2**16  # bytes of a log in which its last words are looked for
# What rules/common.smk has a job say that was killed, and what torchrun says of a process of its own.
RAN_OUT = re.compile(r"memory ran out(?:; (\d+) MB were asked for)?|exitcode\s*: -9")
# Errors that may be gone at the next attempt, on another node or later.
PASSING = ("fails or has vanished", "the hub does not give", "nor in the cache", "cannot be fetched", "disk is full")
STARTING = 20.0  # seconds until the first step, without the weights: SLURM, Snakemake twice, Python, torch
ROUND = 180  # seconds between looks at the queue, at most (the executor plugin's)
LOADING = 500.0  # MB of weights a second, from a busy network file system


def job_began() -> int:
    """When this job of a cluster began, in seconds since 1970; inherited by what it starts."""
    return int(os.environ.setdefault("LEGIBLE_BEGAN", str(int(psutil.Process().create_time()))))


def last_words(log: Path) -> str:
    """The last line with which a program said why it ended, `error: …` or `stopped: …`; empty without one."""
    try:
        with open(log, "rb") as handle:
            handle.seek(max(0, log.stat().st_size - TAIL))
            text = handle.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    said = [line for line in text.splitlines() if line.startswith(("error: ", "stopped: ")) or "exitcode" in line]
    killed = [line for line in said if RAN_OUT.search(line)]
    told = [line for line in said if line.startswith(("error: ", "stopped: "))]
    return (killed or told or [""])[-1]


def memory_to_ask(planned: int, attempt: int, log: Path, ledger: Path) -> int:
    """MB to ask for: what is planned, and half of it more than that with which the job ran out of memory before.

    A training that its time limit has stopped asks for as much as before: it may need many attempts.

    Args:
        attempt: 1 for the first one.
        log: of the job; its last words say how the last attempt ended.
        ledger: JSON, log → MB; it outlives the log, which the next attempt begins anew.
    """
    known = json.loads(ledger.read_text(encoding="utf-8")) if ledger.is_file() else {}
    asked = max(planned, known.get(str(log), 0))
    said = last_words(log)
    if found := RAN_OUT.search(said):
        more = int(found[1] or asked) * 3 // 2
        if more > asked:
            write_json(ledger, known | {str(log): more})
        return max(asked, more)
    # Killed with all that stood around it, as SLURM does where memory is limited for the job as a whole.
    return asked if said or attempt == 1 else max(asked, planned * (1 + attempt) // 2)


def hopeless(log: Path, fixed: bool) -> bool:
    """Whether another attempt would end as the last one did.

    Args:
        log: of the job.
        fixed: whether the user has fixed its memory (`--set-resources`), so that the next attempt gets no more.
    """
    said = last_words(log)
    if RAN_OUT.search(said):
        return fixed
    return said.startswith("error: ") and not any(words in said for words in PASSING)


def slow_step(logs: Iterable[Path]) -> float:
    """Seconds of a slow step in the logs of trainings (metrics.jsonl): one in twenty is slower; 0 where none tells.

    The slowest one may have waited for a machine that slept.
    """
    taken = []
    for log in logs:
        seconds = [0.0]
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):  # a row may be cut short
                seconds.append(float(json.loads(line)["seconds"]))
        taken += [after - before for before, after in pairwise(seconds)]
    return sorted(taken)[int(0.95 * len(taken))] if taken else 0.0


def check_time(minutes: int, mem_mb: int, arm: str, logs: Iterable[Path]) -> None:
    """Refuse a time limit in which a training would not do a single step, attempt after attempt.

    Args:
        minutes: the limit, `runtime`.
        mem_mb: what is planned for the training.
        logs: of earlier trainings of the arm, which know how long a step takes.

    Raises:
        UserError: it is too short.
    """
    starting, step = STARTING + mem_mb / LOADING, slow_step(logs)
    needed = math.ceil((starting + MARGIN * step + 2 * SPARE_BOUNDS[0]) / 60)
    if minutes < needed:
        last = f" and a step took {step:.0f} s the last time" if step else ""
        raise UserError(
            f"train_arm: a time limit of {minutes} min is too short for the arm {arm}: starting takes about"
            f" {starting:.0f} s{last}; at least {needed} are needed (--set-resources train_arm:runtime={needed})"
        )


def check_accounts(status_command: str | None) -> None:
    """Refuse to wait for what never comes: news of a job that nobody remembers.

    Raises:
        UserError: `sacct` is asked on a cluster without accounting, or `squeue` on one that forgets jobs at once.
    """
    try:
        asked = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return
    shown = dict(re.findall(r"^(\w+)\s*=\s*(\S*)", asked.stdout, flags=re.MULTILINE))
    accounts = shown.get("AccountingStorageType", "") not in ("", "accounting_storage/none", "(null)")
    forgets = int(shown.get("MinJobAge", "300"))
    if status_command == "sacct" and not accounts:
        raise UserError(
            "slurm-status-command: sacct, but this cluster keeps no accounts, and Snakemake would wait for ever; set it"
            " to squeue (profiles/slurm/profile.yaml does)"
        )
    if status_command == "squeue" and forgets < ROUND:
        way = "set it to sacct" if accounts else "it needs MinJobAge=300 or accounting"
        raise UserError(
            f"slurm-status-command: squeue, but this cluster forgets a job {forgets} s after its end (MinJobAge), and"
            f" Snakemake looks every {ROUND} s only: it would wait for ever; {way}"
        )


def forward_sigterm() -> None:
    """Hand the cluster's first SIGTERM on to the programs of this job's Snakemake, which does not do so itself.

    (snakemake/snakemake#3241.) A training then writes a checkpoint in the half minute before SLURM kills it. Python's
    own handlers stay as they are: the signal is heard through the file descriptor that they wake up.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def listen() -> None:
        while signal.SIGTERM not in os.read(reading, 16):
            pass
        for program in programs(psutil.Process()):
            with suppress(psutil.Error):
                program.terminate()

    threading.Thread(target=listen, daemon=True).start()


def programs(parent: psutil.Process) -> list[psutil.Process]:
    """The Python programs below a process, without those that they started: these are theirs to end."""
    found = []
    for child in parent.children():
        with suppress(psutil.Error):
            found += [child] if child.name().startswith("python") else programs(child)
    return found
