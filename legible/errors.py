"""The one exception that reaches a user as a sentence instead of a traceback."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input. The message is one sentence that names the file, key or line and says what is allowed."""


def run_cli(main: Callable[[], None]) -> None:
    """Run a script's `main`; print a UserError as one line on standard error and exit with status 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
