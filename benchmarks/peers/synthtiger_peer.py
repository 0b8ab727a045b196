"""Draw with SynthTIGER 1.2.1 (run inside its own environment): `FOLDER CONFIG COUNT WARMUP SEED`, a JSON line out.

FOLDER is its repository; CONFIG a YAML of its example template, or "textures" and "plain" for the example's horizontal
one with smaller textures, or without textures, visibility check and midground.
"""

import json
import os
import sys
import time

import synthtiger
import yaml


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
    areas = []

    def draw() -> None:
        while True:  # as its own generator does: what fails is drawn again
            try:
                data = template.generate()
            except Exception:
                continue
            if data is not None:
                areas.append(data["image"].shape[:2])
                return

    for _ in range(warmup):
        draw()
    areas.clear()
    start = time.process_time()
    for _ in range(count):
        draw()
    seconds = time.process_time() - start
    heights, widths = zip(*areas, strict=True)
    middle = sorted(heights)[count // 2], sorted(widths)[count // 2]
    print(json.dumps({"seconds": seconds, "images": count, "median": middle}))


main()
