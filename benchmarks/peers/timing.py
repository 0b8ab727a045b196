"""What the peers' programs share; it runs inside their environments and imports nothing but the standard library."""

import json
import time
from collections.abc import Callable


def report(draw: Callable[[], tuple[int, int]], count: int, warmup: int) -> None:
    """Print processor seconds for `count` pictures after `warmup` others; `draw` returns (height, width)."""
    for _ in range(warmup):
        draw()
    start = time.process_time()
    sizes = [draw() for _ in range(count)]
    seconds = time.process_time() - start
    heights, widths = zip(*sizes, strict=True)
    middle = sorted(heights)[count // 2], sorted(widths)[count // 2]
    print(json.dumps({"seconds": seconds, "images": count, "median": middle}))
