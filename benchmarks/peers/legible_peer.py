"""Draw with Legible's text engine: `CASE COUNT WARMUP SEED`, a JSON line out; encoding and labels are included."""

import json
import sys
import time

import cv2

from legible.config.render import PRESETS, Recipe
from legible.render.compose import draw
from legible.render.records import row_of

LINE = {"texts": (1, 1), "words": (1, 3), "layouts": {"line": 3, "arc": 1, "perspective": 2}, "margin": 2}
CASES = {
    "512": {"height": 512, "width": 512},
    "1024": {"height": 1024, "width": 1024, "size": (30, 200)},
    "64x256": {"height": 64, "width": 256, "size": (20, 50), **LINE},
    "32x128": {"height": 32, "width": 128, "size": (12, 26), **LINE},
    "pure 64x256": {"height": 64, "width": 256, "size": (20, 50), **PRESETS["pure"], "margin": 2},
    "latin 64x256": {"height": 64, "width": 256, "size": (20, 50), **LINE, "scripts": {"latin": 1.0}},
}


def main() -> None:
    cv2.setNumThreads(1)
    case, count, warmup, seed = sys.argv[1], *map(int, sys.argv[2:5])
    recipe = Recipe.model_validate(CASES[case])
    for index in range(warmup):
        row_of(draw(recipe, seed, index), "jpeg")
    start = time.process_time()
    for index in range(warmup, warmup + count):
        row_of(draw(recipe, seed, index), "jpeg")
    print(
        json.dumps({"seconds": time.process_time() - start, "images": count, "median": (recipe.height, recipe.width)})
    )


main()
