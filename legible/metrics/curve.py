"""Learning curves: the character error rate of every snapshot of a training, and the control's at the same step."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from legible.config import Scoring
from legible.errors import UserError
from legible.metrics.files import read_rows
from legible.metrics.scores import score_images
from legible.metrics.summary import columns, prompt_means, ratio, with_distance
from legible.metrics.timing import SHARED, clock_of, pace_of
from legible.names import BASE, CEILINGS, CONTROL, Run, run_of
from legible.train.log import steps_of

COLUMNS = ("arm", "training_seed", "step", "seconds", "clock", "engine", "prompt_set", "value", "delta_vs_control")
COLUMNS += ("n_images",)
REACHED = ("prompt_set", "engine", "arm", "training_seed", "level", "step", "seconds", "last")
# Run → how many steps it took, and the seconds of training after so many steps.
Times = Mapping[Run, tuple[int, dict[int, float]]]


def read_times(paths: Iterable[Path]) -> Times:
    """How many steps every run took, and how long, from its run.json and the metrics.jsonl beside it."""
    times = {}
    for path in paths:
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            key, steps = Run(run["arm"], run["seed"]), run["training"]["steps"]
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path}: a run.json with arm, seed and training.steps is needed") from error
        # Rows count steps from 0: the one of step k − 1 is written when k steps are done.
        done = {row["step"] + 1: row["seconds"] for row in steps_of(read_rows(path.parent / "metrics.jsonl"))}
        times[key] = (steps, {0: 0.0} | done)
    return times


def points_of(models: Iterable[str], times: Times) -> dict[str, Run]:
    """Model → the run at its step: every snapshot, every finished run whose arm has snapshots, and the control's.

    Raises:
        UserError: there is no snapshot, or one without its finished run, its run.json or its row of metrics.jsonl.
    """
    runs = {model: run_of(model) for model in sorted(models) if model not in (BASE, *CEILINGS)}
    arms = {run.arm for run in runs.values() if run.step is not None}
    if BASE not in models or not arms:
        raise UserError(
            f"--images: images of {BASE} and of at least one snapshot ({{arm}}-seed{{n}}-step{{k}}) are needed"
        )
    arms.add(CONTROL)
    points = {}
    # The snapshots first: what is wrong with one is said of it, and not of its finished run.
    for model, run in sorted(runs.items(), key=lambda named: named[1].step is None):
        if run.arm not in arms:
            continue
        if run.finished not in runs.values():
            raise UserError(f"{model}: the images of the finished run {run.finished} are missing")
        if run.finished not in times:
            raise UserError(f"{model}: the run.json of {run.finished} is missing in --runs")
        steps, seconds = times[run.finished]
        if run.step is not None and not 0 < run.step < steps:
            raise UserError(f"{model}: a snapshot lies between step 0 and the last one, {steps}")
        points[model] = run if run.step is not None else replace(run, step=steps)
        if points[model].step not in seconds:
            raise UserError(f"{model}: the metrics.jsonl of {run.finished} has no row of step {points[model].step - 1}")
    return points


def check_same_images(scores: pd.DataFrame) -> None:
    """Points of a curve are comparable only if every one of them holds the base model's prompts and image seeds."""
    keys = ["prompt_set", "engine", "prompt_id", "image_seed"]
    pictures = {model: set(own[keys].itertuples(index=False, name=None)) for model, own in scores.groupby("model")}
    for model, images in pictures.items():
        if differing := sorted(images ^ pictures[BASE]):
            raise UserError(f"{model} and {BASE} do not hold the same images: {', '.join(map(str, differing[0]))}")


def learning_curve(
    manifests: Mapping[tuple[str, str], Sequence[dict]],
    readings: Mapping[tuple[str, str, str], Sequence[dict]],
    times: Times,
    scoring: Scoring,
    arms: Sequence[str],
    seeds: Sequence[int],
    timing: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The rows of curve.csv (`COLUMNS`, docs/METRICS.md): a curve begins with the base model and ends with its run.

    Args:
        manifests: (model, prompt set) → rows, as `legible.metrics.scores.score_images` takes them; with snapshots.
        readings: (engine, model, prompt set) → rows.
        times: of `read_times`.
        scoring: normalisation and cap.
        arms, seeds: those of the experiment; arms without a snapshot are left out, but for the control.
        timing: rows of timing.csv: `seconds` are then its seconds per step times steps, and not those of the runs.

    Raises:
        UserError: as `points_of` and `score_images`, an arm or a seed is not configured, or images differ by model.
    """
    points = points_of({model for model, _ in manifests}, times)
    for model, point in points.items():
        if point.arm not in arms or point.seed not in seeds:
            raise UserError(f"{model} is no configured arm and seed; leave it out or configure it")
    shown = (BASE, *points)
    images = {key: rows for key, rows in manifests.items() if key[0] in shown}
    scores = with_distance(score_images(images, {k: rows for k, rows in readings.items() if k[1] in shown}, scoring))
    check_same_images(scores)
    clock, pace = (SHARED, {}) if timing is None else (clock_of(timing), pace_of(timing))
    if timing is not None and (missing := sorted({point.arm for point in points.values()} - set(pace))):
        raise UserError(f"--timing: the arm {missing[0]} is not in it; measure the arms again")
    starts = sorted({(point.arm, point.seed) for point in points.values()})
    rows = []
    for (model, engine, prompt_set), own in scores.groupby(["model", "engine", "prompt_set"], sort=False):
        value = ratio(*columns("cer_micro", prompt_means(own)))
        for point in [points[model]] if model in points else [Run(*start, 0) for start in starts]:
            row = {"arm": point.arm, "training_seed": point.seed, "step": point.step}
            took = times[point.finished][1][point.step] if timing is None else point.step * pace[point.arm]
            row |= {"seconds": took, "clock": clock, "engine": engine, "prompt_set": prompt_set}
            rows.append(row | {"value": value, "n_images": len(own)})
    rows.sort(key=lambda row: (list(arms).index(row["arm"]), row["training_seed"], row["step"]))
    return with_difference(pd.DataFrame(rows))[list(COLUMNS)]


def with_difference(curve: pd.DataFrame) -> pd.DataFrame:
    """The curve with every point's difference to the control's at the same step and of the same seed."""
    at = ["prompt_set", "engine", "training_seed", "step"]
    control = curve[curve["arm"] == CONTROL].set_index(at)["value"]
    difference = curve["value"] - control.reindex(pd.MultiIndex.from_frame(curve[at])).to_numpy()
    return curve.assign(delta_vs_control=difference.where(curve["arm"] != CONTROL))


def steps_to_levels(curve: pd.DataFrame, levels: Sequence[float]) -> pd.DataFrame:
    """After how many steps, and seconds, each training's error rate first lies at a level or below it (`REACHED`).

    Between two snapshots the rate is taken to change linearly. What never gets there has NaN; `last` is its last step.

    Args:
        curve: rows of curve.csv.
        levels: micro character error rates.
    """
    rows = []
    for keys, own in curve.sort_values("step").groupby(["prompt_set", "engine", "arm", "training_seed"], sort=False):
        value = own["value"].to_numpy()
        for level in levels:
            below = np.flatnonzero(value <= level)
            first = int(below[0]) if len(below) else None
            reached = {name: crossing(own[name].to_numpy(), value, first, level) for name in ("step", "seconds")}
            reached["last"] = int(own["step"].iloc[-1])
            rows.append(dict(zip(REACHED, (*keys, level), strict=False)) | reached)
    order = {arm: place for place, arm in enumerate(dict.fromkeys(curve["arm"]))}
    rows.sort(key=lambda row: (row["prompt_set"], row["engine"], -row["level"], order[row["arm"]]))
    return pd.DataFrame(rows, columns=REACHED)


def shared_seconds(curve: pd.DataFrame) -> float:
    """For how long every training of a curve went on: the seconds after which the first of them ended."""
    return float(curve.groupby(["arm", "training_seed"])["seconds"].max().min())


def at_time(curve: pd.DataFrame, seconds: float) -> pd.DataFrame:
    """Where each training stood after so long: prompt_set, engine, arm, training_seed, `step`, `value`.

    Between two snapshots step and error rate are taken to change linearly; NaN for what had ended by then.

    Args:
        curve: rows of curve.csv.
        seconds: on the curve's clock.
    """
    keys, rows = ["prompt_set", "engine", "arm", "training_seed"], []
    for own_keys, own in curve.sort_values("step").groupby(keys, sort=False):
        there = {
            name: float(np.interp(seconds, own["seconds"], own[name], right=float("nan"))) for name in ("step", "value")
        }
        rows.append(dict(zip(keys, own_keys, strict=True)) | there)
    return pd.DataFrame(rows, columns=[*keys, "step", "value"])


def crossing(place: np.ndarray, value: np.ndarray, first: int | None, level: float) -> float:
    """Where the line from the point before `first` to it crosses `level`; NaN for none, the start for the first one."""
    if first is None:
        return float("nan")
    if first == 0:
        return float(place[0])
    share = (value[first - 1] - level) / (value[first - 1] - value[first])
    return float(place[first - 1] + share * (place[first] - place[first - 1]))
