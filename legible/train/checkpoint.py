"""Resumable training state: written whole or not at all, read without pickle, refused when it is another run's.

Two are kept, the last one and the one before: from that a run goes on when the last one is damaged.
"""

import errno
import fcntl
import json
import os
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from legible.errors import UserError, no_room
from legible.io import honour_umask, sha256_file, write_json, write_text
from legible.train.group import ALONE, Group
from legible.train.state import load_state, save_state

NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


def save_checkpoint(path: str | Path, key: str, state: dict[str, Any], group: Group = ALONE) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) under the run's `key`, whole or not at all.

    The tensors go into a folder of safetensors shards beside `path`; `path`, written last and atomically, names it.
    With a sharded `group` every process writes its own part, otherwise the first one writes for all. The last one stays
    as the one before; that makes room first, so that there are never more than two on the disk.
    """
    path = Path(path)
    parts = group.size if group.sharded else 1
    folder = path.with_name(f"{path.stem}-{group.agree(secrets.token_hex(4))}")
    last = named_in(path)
    try:
        if group.rank == 0:
            keep_only(path, last or named_in(before(path)), folder.name)  # in which others may be writing already
        if group.rank < parts:
            folder.mkdir(parents=True, exist_ok=True)
            save_state(folder, f"part{group.rank}", state)
            for file in folder.glob(f"part{group.rank}*"):
                with open(file, "rb") as written:
                    os.fsync(written.fileno())
        group.wait()
        if group.rank == 0:
            honour_umask(folder)
            outlines = {f"part{rank}.json": sha256_file(folder / f"part{rank}.json") for rank in range(parts)}
            if last:
                write_text(before(path), path.read_text(encoding="utf-8"))
            write_json(path, {"key": key, "folder": folder.name, "parts": outlines})
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        if full := no_room(error):
            raise UserError(f"{path}: {full}, nothing was lost") from error
        raise


def before(path: Path) -> Path:
    """The file that names the checkpoint before the one that `path` names."""
    return path.with_name(f"{path.stem}.before{path.suffix}")


def named_in(path: Path) -> str | None:
    """The folder that such a file names; None where there is none, or a damaged one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["folder"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_only(path: Path, *folders: str | None) -> None:
    """Drop the folders of all checkpoints but these: older ones, and what a kill left half written."""
    for other in path.parent.glob(f"{path.stem}-*"):
        if other.is_dir() and other.name not in folders:
            shutil.rmtree(other)


def drop_earlier(path: Path) -> None:
    """Drop the checkpoint before the last one: of a run that is finished it is needed no more."""
    before(path).unlink(missing_ok=True)
    keep_only(path, named_in(path))


def load_checkpoint(path: str | Path, key: str, group: Group = ALONE) -> dict[str, Any] | None:
    """The state saved under `key`, or None where there is no checkpoint; where the last one is damaged, the one before.

    Raises:
        UserError: no checkpoint is whole, or they belong to a run with another configuration, data or code.
    """
    path, problem = Path(path), None
    if not group.agree(path.exists()):
        return None
    for each in (path, before(path)):
        try:
            state, own = read_checkpoint(each, key, group), None
        except UserError as error:
            state, own = None, error
        if not group.any(own is not None):
            if each != path and group.rank == 0:
                print(f"warning: {path}: the last checkpoint is damaged; going on from the one before", file=sys.stderr)
                write_text(path, each.read_text(encoding="utf-8"))  # it is the last one now
            return state
        problem = problem or own or UserError(f"{path}: the checkpoint is damaged in another process's part")
    raise problem


def read_checkpoint(path: Path, key: str, group: Group) -> dict[str, Any]:
    """The state that one file names.

    Raises:
        UserError: it is damaged, or belongs to a run with another configuration, data or code.
    """
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        found, folder = saved["key"], path.parent / saved["folder"]
        part = f"part{group.rank if group.sharded else 0}"
        if found == key and sha256_file(folder / f"{part}.json") != saved["parts"][f"{part}.json"]:
            raise ValueError(f"{part}.json is not what was written")
        state = load_state(folder, part) if found == key else None
    except Exception as error:  # what the libraries raise for a bad file depends on where it is bad
        raise UserError(f"{path}: the checkpoint is damaged; delete it to start this run again ({error})") from error
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
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            # Lustre does so unless it is mounted with `flock`; most users cannot change that, so the run goes on.
            print(
                f"{folder}: this file system takes no locks ({error.strerror}); see to it that no other job trains this"
                " run, or work on a file system with locks (Lustre: mounted with -o flock)",
                file=sys.stderr,
                flush=True,
            )
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
