"""The one exception that reaches a user as a sentence instead of a traceback."""

import errno
import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input. The message is one sentence that names the file, key or line and says what is allowed."""


def run_cli(main: Callable[[], None]) -> None:
    """Run a script's `main`; print a UserError (or a full disk) as one line on standard error, exit with status 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}the disk is full; free some space and run again", file=sys.stderr)
        sys.exit(2)
