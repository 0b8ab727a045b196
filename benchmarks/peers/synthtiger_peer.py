"""Draw with SynthTIGER 1.2.1 (run inside its own environment): `FOLDER CONFIG COUNT WARMUP SEED`, a JSON line out.

FOLDER is its repository; CONFIG a YAML of its example template, or "textures" and "plain" for the example's horizontal
one with smaller textures, or without textures, visibility check and midground.
"""

import os
import sys

import synthtiger
import yaml
from timing import report


def settings(name: str) -> dict:
    with open("examples/synthtiger/config_horizontal.yaml", encoding="utf-8") as file:
        config = yaml.safe_load(file)
    # Of its two word lists one is too large for some mirrors; the other one is enough for speed.
    first = config["corpus"]["args"][0]
    weighted = zip(first["paths"], first["weights"], strict=True)
    kept = [(path, weight) for path, weight in weighted if os.path.exists(path)]
    first["paths"], first["weights"] = [path for path, _ in kept], [weight for _, weight in kept]
    if name == "plain":
        config["texture"]["prob"], config["visibility_check"], config["midground"] = 0, False, 0
    return config


def main() -> None:
    folder, name, count, warmup, seed = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    os.chdir(folder)
    synthtiger.set_global_random_seed(seed)
    template = synthtiger.read_template("examples/synthtiger/template.py", "SynthTiger", settings(name))

    def draw() -> tuple[int, int]:
        while True:  # as its own generator does: what fails is drawn again
            try:
                data = template.generate()
            except Exception:
                continue
            if data is not None:
                return data["image"].shape[:2]

    report(draw, count, warmup)


main()
