"""How far fine-tuning has moved the images of prompts without text away from the base model's.

Images of the same prompt and image seed start from the same noise, so they are compared in pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from legible.config import Scoring
from legible.metrics.statistics import Estimate, cluster_bootstrap, paired_bootstrap_delta, resample
from legible.metrics.summary import generator
from legible.names import CONTROL, SCALE

NAN = float("nan")
DISTANCES = ("rmse", "dssim", "clip_distance")


@dataclass(frozen=True)
class Drift:
    """Of one model: `distances`, prompts × (rmse, dssim, clip_distance), averaged over image seeds, and its `kid`."""

    distances: pd.DataFrame
    kid: float


def drift_weights(scoring: Scoring, prompt_set: str, prompts: int) -> np.ndarray:
    """The resampling weights [R, P] of all drifts."""
    return resample(prompts, scoring.resamples, generator(scoring.seed, prompt_set, "drift")).astype(float)


def by_prompt(drifts: Mapping[tuple[str, int], Drift], prompt_set: str) -> pd.DataFrame:
    """Every distance of every prompt, (arm, training seed) by (arm, training seed): drift_by_prompt.parquet.

    With them any two arms can be compared in pairs. `kid` belongs to a run and stands in each of its rows.
    """
    tables = [
        run.distances.rename_axis("prompt_id").reset_index().assign(arm=arm, training_seed=seed, kid=run.kid)
        for (arm, seed), run in drifts.items()
    ]
    columns = ["arm", "training_seed", "prompt_set", "prompt_id", *DISTANCES, "kid"]
    return pd.concat(tables, ignore_index=True).assign(prompt_set=prompt_set)[columns]


def drift_rows(
    runs: Sequence[Drift], control: Sequence[Drift] | None, weights: np.ndarray, confidence: float
) -> list[dict]:
    """One row per metric of an arm: its training seeds averaged, intervals clustered by prompt, difference to control.

    Args:
        runs: the arm's training seeds, all with the same prompts in the same order.
        control: those of the control; None leaves the differences empty (NaN).
        weights: [R, P] from `resample`.
        confidence: of the intervals, in (0, 1). The KID has none: resampling would put copies into both samples.
    """
    mean = sum(run.distances for run in runs) / len(runs)
    control_mean = sum(run.distances for run in control) / len(control) if control else None
    ones, rows = np.ones(len(mean)), []
    for metric in mean.columns:
        numbers, delta = mean[metric].to_numpy(), Estimate(NAN, NAN, NAN)
        value = cluster_bootstrap(numbers, ones, weights, confidence)
        if control_mean is not None:
            delta = paired_bootstrap_delta(numbers, ones, control_mean[metric].to_numpy(), ones, weights, confidence)
        rows.append(drift_row(metric, value, delta))
    value = float(np.mean([run.kid for run in runs]))
    difference = value - float(np.mean([run.kid for run in control])) if control else NAN
    return [*rows, drift_row("kid", Estimate(value, NAN, NAN), Estimate(difference, NAN, NAN))]


def drift_row(metric: str, value: Estimate, delta: Estimate) -> dict:
    """The measured columns of one row of drift.csv."""
    measured = {"metric": metric, "value": value.value, "ci_low": value.low, "ci_high": value.high}
    return measured | {"delta_vs_control": delta.value, "delta_low": delta.low, "delta_high": delta.high}


def drift_table(
    drifts: Mapping[tuple[str, int], Drift],
    unrelated: Drift | None,
    prompt_set: str,
    images: int,
    scoring: Scoring,
) -> pd.DataFrame:
    """The rows of drift.csv: every arm, then the scale.

    Args:
        drifts: (arm, training seed) → drift, arm by arm; the control among them.
        unrelated: of the base model's images from its own under another image seed, where there are several.
        prompt_set: its name, from which the resamples are drawn.
        images: how many images each model has.
        scoring: resamples, seed and confidence.
    """
    runs: dict[str, list[Drift]] = {}
    for (arm, _), run in drifts.items():
        runs.setdefault(arm, []).append(run)
    prompts = len(runs[CONTROL][0].distances)
    weights = drift_weights(scoring, prompt_set, prompts)
    rows = []
    for arm, own in runs.items():
        counts = {"n_prompts": prompts, "n_images": images * len(own), "n_training_seeds": len(own)}
        measured = drift_rows(own, None if arm == CONTROL else runs[CONTROL], weights, scoring.confidence)
        rows += [{"arm": arm} | row | counts for row in measured]
    if unrelated is not None:
        counts = {"n_prompts": prompts, "n_images": images, "n_training_seeds": 0}
        rows += [{"arm": SCALE} | row | counts for row in drift_rows([unrelated], None, weights, scoring.confidence)]
    return pd.DataFrame(rows)
