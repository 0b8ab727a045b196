"""Draw with trdg 1.8.0 (run inside its own environment): `KIND COUNT WARMUP SEED WORDS`, a JSON line out.

KIND is "white" (plain ground) or "noise" (Gaussian noise, distorted along a sine); lines of three words, 64 pixels
high.
"""

import random
import sys

from timing import report
from trdg.generators import GeneratorFromStrings


def main() -> None:
    kind, count, warmup, seed = sys.argv[1], *map(int, sys.argv[2:5])
    with open(sys.argv[5], encoding="utf-8") as file:
        words = file.read().split()
    random.seed(seed)
    lines = [" ".join(random.choices(words, k=3)) for _ in range(1000)]
    more = {"background_type": 1} if kind == "white" else {"background_type": 0, "distorsion_type": 1, "blur": 1}
    drawn = iter(GeneratorFromStrings(lines, count=count + warmup, size=64, output_mask=True, **more))

    def draw() -> tuple[int, int]:
        (image, _mask), _text = next(drawn)
        return image.size[::-1]

    report(draw, count, warmup)


main()
