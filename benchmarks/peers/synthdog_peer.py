"""Draw with SynthDoG (run inside SynthTIGER's environment): `FOLDER SIDE COUNT WARMUP SEED`, a JSON line out.

FOLDER is `synthdog/` of Donut's repository with its English resources; SIDE makes pictures and documents square, of so
many pixels, where its own configuration draws 720 to 1024 by up to twice as much. Everything else is its own.
"""

import os
import sys

import synthtiger
import yaml
from timing import report


def main() -> None:
    folder, side, count, warmup, seed = sys.argv[1], *map(int, sys.argv[2:6])
    os.chdir(folder)
    sys.path.insert(0, os.getcwd())
    synthtiger.set_global_random_seed(seed)
    with open("config_en.yaml", encoding="utf-8") as file:
        config = yaml.safe_load(file)
    square = {"short_size": [side, side], "aspect_ratio": [1, 1]}
    config.update(square)
    config["document"].update(square)
    template = synthtiger.read_template("template.py", "SynthDoG", config)
    report(lambda: template.generate()["image"].shape[:2], count, warmup)


main()
