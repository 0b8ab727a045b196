"""Resumable training state: written atomically, read with `weights_only`, refused when it belongs to another run."""

import fcntl
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from legible.errors import UserError
from legible.io import atomic_path


def save_checkpoint(path: str | Path, key: str, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) atomically under the run's `key`."""
    # Through a Python handle: torch's own writer reports a full disk as an unreadable RuntimeError.
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        torch.save({"key": key, "state": state}, handle)


def load_checkpoint(path: str | Path, key: str) -> dict[str, Any] | None:
    """The state saved under `key`, or None where there is no checkpoint.

    Raises:
        UserError: the file is damaged, or belongs to a run with another configuration, data or code.
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        found, state = saved["key"], saved["state"]
    except Exception as error:  # what torch raises for a bad file depends on where it is bad
        raise UserError(f"{path}: the checkpoint is damaged; delete it to start this run again") from error
    if found != key:
        raise UserError(f"{path}: the checkpoint belongs to another configuration; delete it to start this run again")
    return state


class Stateful(Protocol):
    """A module, an optimiser or a schedule."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


def save_parts(path: str | Path, key: str, step: int, parts: dict[str, Stateful]) -> None:
    """Write the states of `parts` after `step` steps."""
    save_checkpoint(path, key, {name: part.state_dict() for name, part in parts.items()} | {"step": step})


def load_parts(path: str | Path, key: str, parts: dict[str, Stateful]) -> int:
    """Put the states saved by `save_parts` back and return the number of steps done (0 without a checkpoint)."""
    state = load_checkpoint(path, key)
    if state is None:
        return 0
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["step"]


@contextmanager
def alone_in(folder: str | Path) -> Iterator[None]:
    """Hold `folder` for this process; wait, and say so, while another one trains there.

    A Snakemake that is killed leaves its jobs running: without the lock, the next run would train beside the orphan and
    both would write the same log. Waiting costs nothing: the orphan's last checkpoint is where this run goes on.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: another process trains this run; waiting for it to finish", file=sys.stderr, flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGTERM (a cluster's way to end a job) or SIGINT has come since; they do no more.

    The second signal of either kind acts as usual, for whoever will not wait. Outside the main thread, where Python
    takes no handlers, nothing is caught.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, frame: object) -> None:
        came.append(number)
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stateless_generator(*parts: int) -> torch.Generator:
    """A generator that depends on `parts` (seed, step, micro-step …) and on nothing that happened before.

    Resuming therefore needs no random state: step 57 draws the same noise in an interrupted and in an unbroken run.
    """
    words = np.random.SeedSequence(parts).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))


def shuffled_batches(size: int, batch: int, seed: int) -> Callable[[int], torch.Tensor]:
    """`step -> indices [batch]`: epochs of shuffled samples without replacement, stateless like the noise."""
    orders: dict[int, torch.Tensor] = {}

    def indices(step: int) -> torch.Tensor:
        picked = []
        for position in range(step * batch, (step + 1) * batch):
            epoch, offset = divmod(position, size)
            if epoch not in orders:
                orders.clear() if len(orders) > 1 else None
                orders[epoch] = torch.randperm(size, generator=stateless_generator(seed, 1, epoch))
            picked.append(orders[epoch][offset])
        return torch.stack(picked)

    return indices
