"""Learning curves: the character error rate of every snapshot of a training, against the control at the same step.

Snapshots are called {arm}-seed{n}-step{k}; a curve begins with the base model (step 0) and ends with the finished run
{arm}-seed{n}. Arms without a snapshot are left out. Models are read from the paths, as in scripts/score_readings.py.
"""

import argparse
import json
import re
from pathlib import Path

import pandas as pd

from legible.errors import UserError, run_cli
from legible.metrics.files import image_key, read_config, read_rows, reading_key, write_csv
from legible.metrics.scores import BASE, CONTROL, parse_model, score_images
from legible.metrics.summary import columns, prompt_means, ratio, with_distance

SNAPSHOT = re.compile(r"([a-z][a-z0-9_]*)-seed(\d+)-step(\d+)")
COLUMNS = ("arm", "training_seed", "step", "seconds", "engine", "prompt_set", "value", "delta_vs_control", "n_images")
Point = tuple[str, int, int]  # arm, training seed, step
Runs = dict[tuple[str, int], tuple[int, dict[int, float]]]  # (arm, seed) → steps, and the seconds after so many steps


def read_runs(paths: list[Path]) -> Runs:
    """How many steps every run took, and how long, from its run.json and the metrics.jsonl beside it."""
    runs = {}
    for path in paths:
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            key, steps = (run["arm"], run["seed"]), run["training"]["steps"]
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path}: a run.json with arm, seed and training.steps is needed") from error
        # Rows count steps from 0: the one of step k − 1 is written when k steps are done.
        done = {row["step"] + 1: row["seconds"] for row in read_rows(path.parent / "metrics.jsonl")}
        runs[key] = (steps, {0: 0.0} | done)
    return runs


def points_of(models: set[str], runs: Runs) -> dict[str, Point]:
    """The arm, training seed and step of every snapshot, and of every finished run whose arm has snapshots.

    Raises:
        UserError: there is no snapshot, or one without its finished run, its run.json or its row of metrics.jsonl.
    """
    found = {model: match for model in sorted(models) if (match := SNAPSHOT.fullmatch(model))}
    points = {model: (match[1], int(match[2]), int(match[3])) for model, match in found.items()}
    if BASE not in models or not points:
        raise UserError(
            f"--images: images of {BASE} and of at least one snapshot ({{arm}}-seed{{n}}-step{{k}}) are needed"
        )
    arms = {arm for arm, _, _ in points.values()}
    for model in sorted(models - set(points)):
        arm, seed = parse_model(model)
        if arm in arms:
            points[model] = (arm, seed, runs[arm, seed][0] if (arm, seed) in runs else -1)
    for model, (arm, seed, step) in points.items():
        if f"{arm}-seed{seed}" not in models:
            raise UserError(f"{model}: the images of the finished run {arm}-seed{seed} are missing")
        if (arm, seed) not in runs:
            raise UserError(f"{model}: the run.json of {arm}-seed{seed} is missing in --runs")
        steps, seconds = runs[arm, seed]
        if model in found and not 0 < step < steps:
            raise UserError(f"{model}: a snapshot lies between step 0 and the last one, {steps}")
        if step not in seconds:
            raise UserError(f"{model}: the metrics.jsonl of {arm}-seed{seed} has no row of step {step - 1}")
    return points


def check_same_images(scores: pd.DataFrame) -> None:
    """Points of a curve are comparable only if every one of them holds the base model's prompts and image seeds."""
    keys = ["prompt_set", "engine", "prompt_id", "image_seed"]
    held = {model: set(own[keys].itertuples(index=False, name=None)) for model, own in scores.groupby("model")}
    for model, images in held.items():
        if differing := sorted(images ^ held[BASE]):
            raise UserError(f"{model} and {BASE} do not hold the same images: {', '.join(map(str, differing[0]))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="JSON (inline or a file) with scoring, arms and seeds")
    parser.add_argument("--images", required=True, nargs="+", type=Path, help="manifests of images")
    parser.add_argument("--readings", required=True, nargs="+", type=Path, help="files of scripts/read_images.py")
    parser.add_argument("--runs", required=True, nargs="+", type=Path, help="run.json files; metrics.jsonl beside them")
    parser.add_argument("--output", required=True, type=Path, help="curve.csv")
    args = parser.parse_args()

    config = read_config(args.config, "scoring", "arms", "seeds")
    points = points_of({image_key(path)[0] for path in args.images}, runs := read_runs(args.runs))
    for model, (arm, seed, _) in points.items():
        if arm not in config["arms"] or seed not in config["seeds"]:
            raise UserError(f"{model} is no configured arm and seed; leave it out or configure it")
    # Scoring knows no steps: a snapshot becomes a model of an arm of its own there.
    named = {BASE: BASE} | {m: f"{arm}_step{step}-seed{seed}" for m, (arm, seed, step) in points.items()}
    keys = {image_key(path): path for path in args.images}
    images = {(named[m], prompts): read_rows(path) for (m, prompts), path in keys.items() if m in named}
    keys = {reading_key(path): path for path in args.readings}
    readings = {(e, named[m], prompts): read_rows(path) for (e, m, prompts), path in keys.items() if m in named}
    scores = with_distance(score_images(images, readings, config["scoring"]))
    check_same_images(scores)

    values, rows = scores.groupby(["model", "engine", "prompt_set"], sort=False), []
    curves = sorted({(arm, seed) for arm, seed, _ in points.values()})
    for (name, engine, prompt_set), own in values:
        value = ratio(*columns("cer_micro", prompt_means(own)))
        here = [point for model, point in points.items() if named[model] == name]
        for arm, seed, step in here or [(arm, seed, 0) for arm, seed in curves]:
            row = {"arm": arm, "training_seed": seed, "step": step, "seconds": runs[arm, seed][1][step]}
            rows.append(row | {"engine": engine, "prompt_set": prompt_set, "value": value, "n_images": len(own)})
    rows.sort(key=lambda row: (list(config["arms"]).index(row["arm"]), row["training_seed"], row["step"]))
    curve, at = pd.DataFrame(rows), ["prompt_set", "engine", "training_seed", "step"]
    control = curve[curve["arm"] == CONTROL].set_index(at)["value"]
    difference = curve["value"] - control.reindex(pd.MultiIndex.from_frame(curve[at])).to_numpy()
    curve["delta_vs_control"] = difference.where(curve["arm"] != CONTROL)
    write_csv(args.output, curve[list(COLUMNS)])


if __name__ == "__main__":
    run_cli(main)
