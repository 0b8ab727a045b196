"""The table of reward scores: rewards of the drawn pictures per arm, against the control and against the base."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from legible.config import Scoring
from legible.errors import UserError
from legible.metrics.statistics import Estimate, cluster_bootstrap, paired_bootstrap_delta, resample
from legible.metrics.summary import generator
from legible.names import BASE, CONTROL

IDENTITY = ["arm", "training_seed", "prompt_set", "prompt_id", "image_seed"]
NONE = Estimate(*[float("nan")] * 3)


def metrics_of(pictures: pd.DataFrame) -> list[str]:
    """The measured columns of a table of pictures."""
    return [column for column in pictures.columns if column not in IDENTITY]


def reward_table(pictures: pd.DataFrame, controls: Mapping[str, str], scoring: Scoring) -> pd.DataFrame:
    """The rows of rewards.csv: every prompt set, arm and metric.

    Columns: the arm's `control`; `value` with `ci_low`, `ci_high`; `delta_vs_control` with `delta_low`, `delta_high`;
    `win_rate` with `win_low`, `win_high`: the share of pictures that score higher than the base's of the same prompt
    and noise, ties counting half, by these scores and no person's. Seeds are averaged within a prompt, intervals
    resample prompts.

    Args:
        pictures: one row a picture: `IDENTITY` (`training_seed` missing for the base), then a column a metric.
        controls: arm beside the control → the arm that it is compared with.

    Raises:
        UserError: an arm has no pictures, or not those of the same prompts and seeds as the base.
    """
    rows = []
    for prompt_set, part in pictures.groupby("prompt_set", sort=True):
        base = part[part["arm"] == BASE].set_index(["prompt_id", "image_seed"]).sort_index()
        count = base.index.get_level_values("prompt_id").nunique()
        weights = resample(count, scoring.resamples, generator(scoring.seed, str(prompt_set), "rewards")).astype(float)
        own = {arm: paired_with(part, base, arm) for arm in (BASE, CONTROL, *controls)}
        means = {arm: frame.groupby("prompt_id", sort=True)[metrics_of(part)].mean() for arm, frame in own.items()}
        for arm, frame in own.items():
            counts = {"n_prompts": count, "n_images": len(frame), "n_training_seeds": frame["training_seed"].nunique()}
            for metric in metrics_of(part):
                difference = frame[metric] - base[metric].reindex(frame.index)
                wins = ((difference > 0) + 0.5 * (difference == 0)).groupby("prompt_id", sort=True).mean()
                control = None if arm == CONTROL else means[controls.get(arm, CONTROL)][metric]
                measured = measure(means[arm][metric], control, None if arm == BASE else wins, weights, scoring)
                identity = {"prompt_set": prompt_set, "arm": arm, "control": controls.get(arm, CONTROL)}
                rows.append(identity | {"metric": metric} | measured | counts)
    return pd.DataFrame(rows)


def paired_with(part: pd.DataFrame, base: pd.DataFrame, arm: str) -> pd.DataFrame:
    """An arm's pictures by (prompt_id, image_seed), of every training seed.

    Raises:
        UserError: they are not those of the base.
    """
    own = part[part["arm"] == arm].set_index(["prompt_id", "image_seed"]).sort_index()
    seeds = max(own["training_seed"].nunique(), 1)
    if own.empty or not own.index.equals(base.index.repeat(seeds)):
        raise UserError(f"{arm}: the pictures of the same prompts and image seeds as the base's are needed")
    return own


def measure(
    values: pd.Series, control: pd.Series | None, wins: pd.Series | None, weights: np.ndarray, scoring: Scoring
) -> dict:
    """The measured columns of one row; all series [P] go by prompt."""
    ones, confidence = np.ones(len(values)), scoring.confidence
    value = cluster_bootstrap(values.to_numpy(), ones, weights, confidence)
    delta = NONE
    if control is not None:
        delta = paired_bootstrap_delta(values.to_numpy(), ones, control.to_numpy(), ones, weights, confidence)
    won = NONE if wins is None else cluster_bootstrap(wins.to_numpy(), ones, weights, confidence)
    names = (("value", "ci_low", "ci_high"), ("delta_vs_control", "delta_low", "delta_high"))
    names = (*names, ("win_rate", "win_low", "win_high"))
    return {
        name: number
        for row, estimate in zip(names, (value, delta, won), strict=True)
        for name, number in zip(row, (estimate.value, estimate.low, estimate.high), strict=True)
    }
