"""What reaches a user: one sentence instead of a traceback."""

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from legible.wording import describe, shown

__all__ = [
    "OutOfTime",
    "Stopped",
    "UserError",
    "describe",
    "device_trouble",
    "must_be_object",
    "must_be_text",
    "no_room",
    "run_cli",
]

FULL = {  # the system's errors that say that no more can be written, and what is said of them
    errno.ENOSPC: "the disk is full; free some space and run again",
    errno.EDQUOT: "your quota of this disk is used up; free some space and run again",
    errno.EFBIG: "the disk is full as far as `ulimit -f` goes; raise it and run again",
}


class UserError(Exception):
    """Bad input. The message is one sentence that names the file, key or line and says what is allowed."""


class Stopped(UserError):
    """Stopped from outside (SIGTERM, Ctrl-C) after everything that is needed to go on was written."""

    status = 143  # 128 + SIGTERM, as a shell reports it


class OutOfTime(Stopped):
    """Stopped by itself, shortly before its job's time limit, after everything that is needed to go on was written."""

    status = 75  # EX_TEMPFAIL of sysexits.h: try again


def must_be_object(row: object, where: str) -> None:
    """A UserError for what is no JSON object; `where` (file and line) begins it."""
    if not isinstance(row, dict):
        raise UserError(f"{where}: a JSON object is needed, with keys and values; got {shown(row)}")


def must_be_text(value: object, where: str) -> None:
    """A UserError for what is no text; `where` (file, line, key) begins it."""
    if not isinstance(value, str) or not value:
        raise UserError(f"{where}: text is needed, got {shown(value)}")


def no_room(error: BaseException | None) -> str | None:
    """What to tell of an error that says, or was raised from one that says, that no more can be written; else None.

    torch, safetensors, pyarrow and Pillow wrap the system's error in their own.
    """
    while error is not None:
        for number, said in FULL.items():
            if (isinstance(error, OSError) and error.errno == number) or os.strerror(number) in str(error):
                return said
        error = error.__cause__ or error.__context__
    return None


def device_trouble(error: BaseException) -> str | None:
    """What to tell of an error that the GPU is behind: too little memory, or a device that fails or has vanished."""
    kind = type(error).__name__  # by name: torch takes seconds to import, and here it may not be in use at all
    if kind == "OutOfMemoryError" or (isinstance(error, RuntimeError) and "out of memory" in str(error)):
        return (
            "the device has too little memory; `snakemake preflight` says what needs how much, and what to change; to "
            "sample, lower generation.batch_size; what was computed is kept"
        )
    if kind == "AcceleratorError" or (isinstance(error, RuntimeError) and "CUDA error" in str(error)):
        reason = str(error).strip().splitlines()[0]
        return (
            f"the device fails or has vanished ({reason}); check it with `nvidia-smi` and run the same command again, "
            "it goes on from what is kept"
        )
    return None


def file_trouble(error: BaseException) -> str | None:
    """What to tell of a file that cannot be read or written at all."""
    if isinstance(error, RecursionError):
        return f"{in_hand(error)}: nested too deeply; flat rows of keys and values are needed"
    if isinstance(error, UnicodeDecodeError):
        return f"{in_hand(error)}: not UTF-8 text; write it anew, or run the stage again that makes it"
    reasons = {
        errno.EISDIR: "a folder; a file is needed",
        errno.ENOTDIR: "a part of this path is a file; a folder is needed",
        errno.ENOENT: "no such file",
        errno.EACCES: "it may not be read or written here; change its permissions",
        errno.EROFS: "this file system is read-only; choose another folder",
        errno.ENAMETOOLONG: "the name is too long for a file; at most 255 bytes are allowed",
    }
    if not isinstance(error, OSError) or error.errno not in reasons:
        return None
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{reasons[error.errno]}"


def in_hand(error: BaseException) -> str:
    """The file that a function was reading when it failed, by what our functions call it."""
    found, trace = "a file", error.__traceback__
    while trace:
        names = trace.tb_frame.f_locals
        found = next((str(names[name]) for name in ("path", "source") if name in names), found)
        trace = trace.tb_next
    return found


def run_cli(main: Callable[[], None]) -> None:
    """Run a script's `main`; print what a user can mend as one line on standard error and exit with status 2.

    That is a UserError, a full disk (`no_room`), a file that cannot be read or written, or trouble with the GPU.
    """
    try:
        main()
    except Stopped as error:
        with suppress(BrokenPipeError):  # the signal may have ended `tee` too
            print(f"stopped: {error}", file=sys.stderr, flush=True)
        os._exit(error.status)  # not by way of flushing a broken pipe once more
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        full, where = no_room(error), getattr(error, "filename", None)
        said = f"{where}: {full}" if full and where else full or device_trouble(error) or file_trouble(error)
        if not said:
            raise
        print(f"error: {said}", file=sys.stderr)
        sys.exit(2)
