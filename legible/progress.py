"""Progress with rate and time left: a bar on a terminal, a plain line every few seconds in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], label: str, total: int | None = None, unit: str = "it", start: int = 0) -> Iterator[T]:
    """Iterate over `items`, showing `label`, rate and time left; `start` items count as done already."""
    if total is None and hasattr(items, "__len__"):
        total = len(items) + start  # type: ignore[arg-type]
    if sys.stderr.isatty():
        yield from tqdm(items, desc=label, total=total, initial=start, unit=unit, dynamic_ncols=True)
        return
    began = last = time.monotonic()
    done = start
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= 5.0 or done == total:
            last = now
            rate = (done - start) / max(now - began, 1e-9)
            left = f", {(total - done) / rate:.0f} s left" if total else ""
            with suppress(BrokenPipeError):  # nobody reads on: no reason to lose the work
                print(f"{label}: {done}/{total or '?'} {unit}, {rate:.2f} {unit}/s{left}", file=sys.stderr, flush=True)
