"""What reaches a user: one sentence instead of a traceback."""

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from pydantic import ValidationError


class UserError(Exception):
    """Bad input. The message is one sentence that names the file, key or line and says what is allowed."""


class Stopped(UserError):
    """Stopped from outside (SIGTERM, Ctrl-C) after everything that is needed to go on was written."""

    status = 143  # 128 + SIGTERM, as a shell reports it


class OutOfTime(Stopped):
    """Stopped by itself, shortly before its job's time limit, after everything that is needed to go on was written."""

    status = 75  # EX_TEMPFAIL of sysexits.h: try again


def describe(error: ValidationError) -> str:
    """The first problem of a pydantic error as `key: what is wrong and what is allowed`."""
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    value, kind = problem.get("input"), problem["type"]
    if kind == "extra_forbidden":
        return f"{key}: unknown key"
    if kind in {"float_type", "int_type"} and isinstance(value, str):
        hint = ""
        with suppress(ValueError):
            number = float(value)
            # Snakemake's own --config makes text of every number inside a mapping.
            hint = "; take its quotation marks away, or give it in a file (--configfile) instead of --config"
            if "e" in value.lower() and "." not in value:
                hint = f"; YAML 1.1 reads it as text, write {number:.1e} with a decimal point"
        return f"{key}: '{value}' is a string, a number is needed{hint}"
    message = problem["msg"].removeprefix("Value error, ")
    shown = "" if kind == "value_error" or isinstance(value, dict) else f", got {value!r}"
    return f"{key}: {message}{shown}" if key else message


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


def run_cli(main: Callable[[], None]) -> None:
    """Run a script's `main`; print what a user can mend as one line on standard error and exit with status 2.

    That is a UserError, a full disk, or trouble with the GPU.
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
    except RuntimeError as error:
        if not (said := device_trouble(error)):
            raise
        print(f"error: {said}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}the disk is full; free some space and run again", file=sys.stderr)
        sys.exit(2)
