"""Each job its own GPU, where several share a machine with several: by lock files, which end with whoever holds them.

    python -m legible.cards scripts/train_arm.py …      # runs it with CUDA_VISIBLE_DEVICES set

Snakemake counts GPUs (`--resources gpu=4`) and hands out none: every job would take the first one. On a cluster the
scheduler has chosen already.
"""

import fcntl
import os
import sys
import tempfile
import time
from pathlib import Path

POLL = 2.0  # seconds between looks for a card, where other programs have taken all
SCHEDULERS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "LEGIBLE_BEGAN")


def visible_cards(devices: Path = Path("/dev")) -> list[str]:
    """The names of the GPUs that may be used, as CUDA_VISIBLE_DEVICES has them; none where a scheduler has chosen."""
    if any(name in os.environ for name in SCHEDULERS):
        return []
    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return [name.strip() for name in named.split(",") if name.strip()]
    numbers = sorted(int(path.name[6:]) for path in devices.glob("nvidia[0-9]*") if path.name[6:].isdigit())
    return list(map(str, range(len(numbers))))


def take_cards(count: int, cards: list[str], folder: Path) -> list[str]:
    """Names of `count` cards that nobody else holds; as long as there are not enough, wait and say so.

    The locks are held until this process ends, also as the program that it becomes.

    Args:
        cards: those that may be used; where they are fewer than `count`, all of them are taken.
        folder: for the locks.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    count, said = min(count, len(cards)), False
    while True:
        held = {}
        for name in cards:
            if len(held) < count and (lock := locked(folder / name.replace("/", "_"))) is not None:
                held[name] = lock
        if len(held) == count:
            return list(held)
        for lock in held.values():  # two jobs that each hold a part of what they need would wait for each other
            os.close(lock)
        if not said:
            print(
                f"{count} of {len(cards)} GPUs are wanted, and not free ({folder}); waiting",
                file=sys.stderr,
                flush=True,
            )
            said = True
        time.sleep(POLL)


def locked(path: Path) -> int | None:
    """A descriptor, also for the program that this process becomes, that holds the lock; None where another does."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    os.set_inheritable(lock, True)
    return lock


def main() -> None:
    """Take as many cards as the program has processes, and become it."""
    program = sys.argv[1:]
    count = int(program[program.index("--nproc-per-node") + 1]) if "--nproc-per-node" in program else 1
    if len(cards := visible_cards()) > 1:
        folder = Path(tempfile.gettempdir(), f"legible-cards-{os.getuid()}")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(take_cards(count, cards, folder))
    os.execv(sys.executable, [sys.executable, *program])


if __name__ == "__main__":
    main()
