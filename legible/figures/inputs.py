"""The results that figures and report are made from: read, checked, and named as people call them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from legible.errors import UserError
from legible.io import read_jsonl
from legible.names import BASE, Run
from legible.train.log import evaluations_of, steps_of

SUMMARY = (
    *("stratum", "arm", "engine", "prompt_set", "metric", "value", "ci_low", "ci_high"),
    *("delta_vs_control", "delta_low", "delta_high", "n_prompts", "n_images", "n_training_seeds"),
)
SEEDS = ("stratum", "arm", "training_seed", "engine", "prompt_set", "metric", "value", "delta_vs_control")
SCORES = (
    *("model", "training_seed", "prompt_set", "prompt_id", "image_seed", "engine", "engine_version", "normalization"),
    *("file", "target", "reading", "cer"),
)
METRICS = (
    *("step", "loss_total", "loss_diffusion", "loss_aux", "grad_norm"),
    *("lambda", "grad_norm_diffusion", "grad_norm_aux", "grad_cosine"),
)
DRIFT = ("arm", "metric", "value", "ci_low", "ci_high", "delta_vs_control", "delta_low", "delta_high")
DRIFT_PROMPTS = ("arm", "training_seed", "prompt_set", "prompt_id", "rmse", "dssim", "clip_distance", "kid")
REWARDS = (
    *("prompt_set", "arm", "control", "metric", "value", "ci_low", "ci_high"),
    *("delta_vs_control", "delta_low", "delta_high", "win_rate", "win_low", "win_high"),
)
GUARDS = ("arm", "prompt_set", "guard", "value", "limit", "broken")
MALFORMED = (
    *("arm", "engine", "prompt_set", "metric", "value", "ci_low", "ci_high", "delta_vs_control"),
    *("delta_low", "delta_high", "control"),
)
ATTRIBUTES = ("arm", "attribute", "value", "ci_low", "ci_high", "delta_vs_base", "base_low", "base_high", "n_prompts")
PANEL = ("judge", "font", "text", "kind", "severity", "share", "n")
CURVE = ("arm", "training_seed", "step", "seconds", "clock", "engine", "prompt_set", "value")
REACHED = ("prompt_set", "engine", "arm", "training_seed", "level", "step", "last")
VALIDATION = ("arm", "training_seed", "step", "seconds", "cer", "exact", "prompts")
GRADIENTS = ("loss", "sigma", "grad_norm_diffusion", "grad_norm_aux", "cosine")


def require(path: Path, stage: str) -> Path:
    """`path` itself; a missing or empty file is a UserError that says which stage makes it."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the {stage} stage first")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; delete it and run the {stage} stage again")
    return path


def check_columns(frame: pd.DataFrame, columns: Sequence[str], path: Path, stage: str) -> pd.DataFrame:
    """`frame` itself; a missing column or no row at all is a UserError."""
    if missing := [column for column in columns if column not in frame]:
        raise UserError(f"{path}: the column {missing[0]} is missing; run the {stage} stage again")
    if frame.empty:
        raise UserError(f"{path}: there is no row in it; run the {stage} stage again")
    return frame


def read_csv(path: Path, columns: Sequence[str], stage: str = "score") -> pd.DataFrame:
    """A table that `stage` makes, with at least `columns`."""
    try:
        frame = pd.read_csv(require(path, stage))
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a CSV table; delete it and run the {stage} stage again") from error
    return check_columns(frame, columns, path, stage)


def read_summary(results: Path, arms: Sequence[str]) -> pd.DataFrame:
    """scores/summary.csv, which must hold every one of `arms`."""
    path = results / "scores" / "summary.csv"
    summary = read_csv(path, SUMMARY)
    if missing := [arm for arm in (BASE, *arms) if arm not in set(summary["arm"])]:
        raise UserError(f"{path}: the arm {missing[0]} is not in it; run the score stage again")
    return summary


def read_seeds(results: Path) -> pd.DataFrame:
    """scores/seeds.csv."""
    return read_csv(results / "scores" / "seeds.csv", SEEDS)


def read_drift(results: Path) -> pd.DataFrame:
    """scores/drift.csv: how far the pictures of text-free prompts moved away from the base model's."""
    return read_csv(results / "scores" / "drift.csv", DRIFT)


def read_rewards(results: Path) -> pd.DataFrame:
    """scores/rewards.csv: rewards of the pictures, whether or not an arm was trained by them."""
    return read_csv(results / "scores" / "rewards.csv", REWARDS)


def read_guards(results: Path) -> pd.DataFrame:
    """scores/guards.csv: what voids a gain."""
    return read_csv(results / "scores" / "guards.csv", GUARDS)


def read_malformed(results: Path) -> pd.DataFrame:
    """scores/malformed.csv: the share of pictures with a malformed letter."""
    return read_csv(results / "scores" / "malformed.csv", MALFORMED)


def read_attributes(results: Path) -> pd.DataFrame:
    """scores/attributes.csv: what pictures without text show of what their prompts name."""
    return read_csv(results / "scores" / "attributes.csv", ATTRIBUTES)


def read_panel(results: Path) -> pd.DataFrame:
    """calibration/damage.csv: which damage to a letter each judge overlooks."""
    return read_csv(results / "calibration" / "damage.csv", PANEL, "calibrate")


def read_curve(results: Path) -> pd.DataFrame:
    """scores/curve.csv: micro CER at some steps of every training."""
    return read_csv(results / "scores" / "curve.csv", CURVE)


def read_malformed_if_any(results: Path) -> pd.DataFrame | None:
    """scores/malformed.csv: the share of pictures with a malformed letter; None where no glyph judge looked."""
    path = results / "scores" / "malformed.csv"
    return read_csv(path, MALFORMED) if path.exists() else None


def read_gradients(results: Path) -> pd.DataFrame:
    """gradients.csv: norms and cosine of both gradients, per loss and noise level, on the base model."""
    return read_csv(results / "gradients.csv", GRADIENTS, "measure_gradients")


def read_scores(results: Path) -> pd.DataFrame:
    """scores/scores.parquet, with at least the columns in `SCORES`."""
    return read_table(results / "scores" / "scores.parquet", SCORES)


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A Parquet table of the score stage, with at least `columns`."""
    try:
        frame = pd.read_parquet(require(path, "score"))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: the file is damaged; delete it and run the score stage again") from error
    return check_columns(frame, columns, path, "score")


def read_rows(path: Path, columns: Sequence[str], stage: str, chosen: Callable = list) -> pd.DataFrame:
    """A JSON-lines file, or the rows that `chosen` takes of all, as a table with at least `columns`."""
    return check_columns(pd.DataFrame(chosen(read_jsonl(require(path, stage)))), columns, path, stage)


def read_json(path: Path, stage: str) -> dict:
    """A JSON object."""
    try:
        value = json.loads(require(path, stage).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON; delete it and run the {stage} stage again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: a JSON object is needed; run the {stage} stage again")
    return value


def run_folders(results: Path, arms: Sequence[str], seeds: Sequence[int] | None) -> dict[tuple[str, int], Path]:
    """(arm, training seed) → folder, arms in order; `seeds` None: every seed that is there, ascending.

    Raises:
        UserError: an arm has no run.
    """
    folders = {}
    for arm in arms:
        parent = (results / Run(arm, 0).folder).parent
        numbers = (folder.name.removeprefix("seed") for folder in parent.glob("seed*"))
        found = sorted(int(number) for number in numbers if number.isdecimal()) if seeds is None else seeds
        if not found:
            raise UserError(f"{parent}: no run of this arm; run the train stage first")
        folders |= {(arm, seed): results / Run(arm, seed).folder for seed in found}
    return folders


def read_metrics(
    results: Path, arms: Sequence[str], seeds: Sequence[int] | None = None
) -> dict[tuple[str, int], pd.DataFrame]:
    """(arm, training seed) → metrics.jsonl, one row per optimiser step; evaluations left out."""
    folders = run_folders(results, arms, seeds)
    return {run: read_rows(folder / "metrics.jsonl", METRICS, "train", steps_of) for run, folder in folders.items()}


def read_validation(results: Path, arms: Sequence[str], seeds: Sequence[int] | None = None) -> pd.DataFrame:
    """The evaluations of every run while it trained, by arm and seed: `VALIDATION`; `step` counts steps done."""
    tables = []
    for (arm, seed), folder in run_folders(results, arms, seeds).items():
        path = folder / "metrics.jsonl"
        rows = [row | row["validation"] for row in evaluations_of(read_jsonl(require(path, "train")))]
        table = check_columns(pd.DataFrame(rows), VALIDATION[2:], path, "train")
        tables.append(table.assign(arm=arm, training_seed=seed)[list(VALIDATION)])
    return pd.concat(tables, ignore_index=True)


def read_runs(results: Path, arms: Sequence[str], seeds: Sequence[int]) -> dict[tuple[str, int], dict]:
    """(arm, training seed) → run.json."""
    folders = run_folders(results, arms, seeds)
    return {run: read_json(folder / "run.json", "train") for run, folder in folders.items()}


# What a figure may need (`legible.config.FigureEntry`) → what it is given, of (results folder, arms, training seeds).
READ = {
    "arms": lambda results, arms, seeds: arms,
    "summary": lambda results, arms, seeds: read_summary(results, arms),
    "seeds": lambda results, arms, seeds: read_seeds(results),
    "scores": lambda results, arms, seeds: read_scores(results),
    "images": lambda results, arms, seeds: results / "images",
    "metrics": read_metrics,
    "validation": read_validation,
    "curve": lambda results, arms, seeds: read_curve(results),
    "reached": lambda results, arms, seeds: read_csv(results / "scores" / "steps_to_levels.csv", REACHED),
    "drift": lambda results, arms, seeds: read_drift(results),
    "malformed": lambda results, arms, seeds: read_malformed_if_any(results),
    "gradients": lambda results, arms, seeds: read_gradients(results),
    "data": lambda results, arms, seeds: results / "data" / "train.parquet",
    "showcase": lambda results, arms, seeds: require(results / "data" / "showcase.parquet", "data"),
}
