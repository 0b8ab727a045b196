"""Draw with Legible's text engine: `CASE COUNT WARMUP SEED`, a JSON line out; encoding and labels are included.

"drawn CASE" leaves the encoding out, as the peers do. "processes N" draws with N of them and counts wall seconds.
"""

import json
import sys
import time

import cv2

from legible.config.render import PRESETS, Recipe
from legible.render.compose import draw
from legible.render.records import draw_rows, row_of

LINE = {"texts": (1, 1), "words": (1, 3), "layouts": {"line": 3, "arc": 1, "perspective": 2}, "margin": 2}
LATIN = {"height": 64, "width": 256, "size": (20, 50), **LINE, "scripts": {"latin": 1.0}}
CASES = {
    "512": {"height": 512, "width": 512},
    "templates 512": {"height": 512, "width": 512, **PRESETS["templates"]},
    "1024": {"height": 1024, "width": 1024, "size": (30, 200)},
    "64x256": {"height": 64, "width": 256, "size": (20, 50), **LINE},
    "32x128": {"height": 32, "width": 128, "size": (12, 26), **LINE},
    "pure 64x256": {"height": 64, "width": 256, "size": (20, 50), **PRESETS["pure"], "margin": 2},
    "latin 64x256": LATIN,
    "latin plain 64x256": {
        **LATIN,
        "grounds": {"flat": 1, "gradient": 1},
        "fills": {"flat": 3, "gradient": 1},
        "contrast": 1.0,
    },  # without textures and without the check of contrast
}


def main() -> None:
    cv2.setNumThreads(1)
    case, count, warmup, seed = sys.argv[1], *map(int, sys.argv[2:5])
    if case.startswith("processes "):
        count *= 5  # starting processes takes seconds, and not always as many
        seconds, recipe = with_processes(int(case.split()[1]), count, seed)
    else:
        recipe = Recipe.model_validate(CASES[case.removeprefix("drawn ")])
        finish = (lambda sample: sample) if case.startswith("drawn ") else (lambda sample: row_of(sample, "jpeg"))
        for index in range(warmup):
            finish(draw(recipe, seed, index))
        start = time.process_time()
        for index in range(warmup, warmup + count):
            finish(draw(recipe, seed, index))
        seconds = time.process_time() - start
    print(json.dumps({"seconds": seconds, "images": count, "median": (recipe.height, recipe.width)}))


def with_processes(workers: int, count: int, seed: int) -> tuple[float, Recipe]:
    """Wall seconds for `count` pictures beyond a first chunk from each process, which pays for starting."""
    recipe = Recipe.model_validate(CASES["512"])
    times = []
    for more in (0, count):
        start = time.monotonic()
        for _ in draw_rows(recipe, seed, 32 * workers + more, workers=workers):
            pass
        times.append(time.monotonic() - start)
    return times[1] - times[0], recipe


if __name__ == "__main__":
    main()
