"""The summary of scores: values with intervals per arm, paired differences to the control, and the spread of seeds."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from legible.config import Scoring
from legible.errors import UserError
from legible.metrics.scores import check_complete
from legible.metrics.statistics import (
    Estimate,
    cluster_bootstrap,
    draw_signs,
    exact_mcnemar,
    holm,
    paired_bootstrap_delta,
    paired_bootstrap_relative,
    resample,
    sign_flip,
    two_way_bootstrap,
)
from legible.names import BASE, CEILINGS, CONTROL

# Metric → the columns whose per-prompt means are divided; without a denominator it is a plain mean over prompts.
METRICS = {
    "cer_micro": ("distance", "reference_length"),
    "cer_macro": ("cer_capped", None),
    "wer": ("word_errors", "words_reference"),
    "exact": ("exact", None),
    "ned": ("ned", None),
    "matched_ned": ("matched_ned", None),
    "word_f1": ("word_f1", None),
    "extra_text_rate": ("extra_text", None),
    "no_detection_rate": ("no_detection", None),
}
# Of `cer_micro`: bounds over prompts and training seeds together, and the same against the base model.
TWO_WAY = ("two_way_low", "two_way_high", "relative_two_way_low", "relative_two_way_high")
AGAINST_BASE = ("base_delta", "base_relative_delta", *(f"base_{name}" for name in TWO_WAY), "base_p_value")
MEASURED = sorted({column for pair in METRICS.values() for column in pair if column})
ALL = "all"


def summarise(scores: pd.DataFrame, scoring: Scoring) -> pd.DataFrame:
    """One row per stratum, arm, engine, prompt set and metric: results/{experiment}/scores/summary.csv.

    Image seeds and training seeds are averaged within a prompt; intervals resample prompts. Columns: `value` with
    `ci_low`, `ci_high`; `delta_vs_control` (arm − `diffusion_only`, same prompts, same resamples) with `delta_low`,
    `delta_high`, and `relative_delta` (that difference / control) with `relative_low`, `relative_high`, all NaN for the
    control and the ceilings; on `cer_micro` also `TWO_WAY`, the bounds of both over prompts and training seeds, and for
    trained arms over all prompts `AGAINST_BASE`; `n_prompts`, `n_images`, `n_training_seeds`; and a `p_value` of the
    delta with `p_holm` (see `with_holm`): on the metric `cer_micro` see `p_value_of`, on `exact` of the exact McNemar
    test (numbers of prompts that improved and fell).

    Raises:
        UserError: an image is missing in one of the arms, or an arm or the control altogether.
    """
    check_balanced(scores)
    scores = with_distance(scores)
    rows = []
    for (prompt_set, engine), part in scores.groupby(["prompt_set", "engine"], sort=True):
        for stratum, images in strata(part):
            means = {arm: prompt_means(images[images["arm"] == arm]) for arm in arms_of(images)}
            edits = {arm: edits_by_seed(images[images["arm"] == arm]) for arm in means}
            draws = draw(scoring, str(prompt_set), stratum, edits[CONTROL].shape)
            for arm, prompts in means.items():
                counted = images[images["arm"] == arm]
                counts = {
                    "n_prompts": len(prompts),
                    "n_images": len(counted),
                    "n_training_seeds": counted["training_seed"].nunique(),
                }
                for metric in METRICS:
                    identity = {"stratum": stratum, "arm": arm, "engine": engine, "prompt_set": prompt_set}
                    control = means[CONTROL] if compares(arm) else None
                    measured = measure(metric, prompts, control, draws, scoring.confidence)
                    if metric == "cer_micro":
                        length = prompts["reference_length"].to_numpy()
                        if compares(arm):
                            pair = (edits[arm], edits[CONTROL])
                            measured |= measure_two_way(*pair, length, measured["p_value"], draws, scoring.confidence)
                        if stratum == ALL and BASE in means and arm not in (BASE, *CEILINGS):
                            pair = (edits[arm], edits[BASE])
                            measured |= against_base(*pair, length, draws, scoring.confidence)
                    rows.append(identity | {"metric": metric} | measured | counts)
    return with_holm(pd.DataFrame(rows))


def by_training_seed(scores: pd.DataFrame) -> pd.DataFrame:
    """The same values per training seed (seeds.csv), each against the control of its own seed; no intervals.

    `training_seed` is missing for the base model and the ceilings, `delta_vs_control` for these and the control.
    """
    check_balanced(scores)
    scores = with_distance(scores)
    rows = []
    for (prompt_set, engine), part in scores.groupby(["prompt_set", "engine"], sort=True):
        for stratum, images in strata(part):
            for arm in arms_of(images):
                for seed, own in images[images["arm"] == arm].groupby("training_seed", dropna=False):
                    prompts, control = prompt_means(own), None
                    if compares(arm) and arm != BASE:
                        control = prompt_means(images[(images["arm"] == CONTROL) & (images["training_seed"] == seed)])
                    for metric in METRICS:
                        value = ratio(*columns(metric, prompts))
                        delta = float("nan") if control is None else value - ratio(*columns(metric, control))
                        identity = {"stratum": stratum, "arm": arm, "training_seed": seed, "engine": engine}
                        identity |= {"prompt_set": prompt_set, "metric": metric}
                        counts = {"n_prompts": len(prompts), "n_images": len(own)}
                        rows.append(identity | {"value": value, "delta_vs_control": delta} | counts)
    return pd.DataFrame(rows).astype({"training_seed": "Int64"})


def check_balanced(scores: pd.DataFrame) -> None:
    """Averages over images are fair only if every arm holds the same images for the same training seeds."""
    trained = scores[scores["training_seed"].notna()]
    if CONTROL not in set(trained["arm"]):
        raise UserError(f"no images of {CONTROL}: every claim is measured against it")
    arms = [arm for arm in arms_of(scores) if arm != BASE and arm not in CEILINGS]
    check_complete(scores, arms, sorted(trained["training_seed"].unique()))


def with_distance(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores with the edit distance of each reading as a further column."""
    return scores.assign(distance=scores[["substitutions", "deletions", "insertions"]].sum(axis=1))


def strata(scores: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """All images, then those of each target length, kind of target, font asked for, and letters, digits or mixed."""
    yield ALL, scores
    for column in ("length", "kind", "font", "characters"):
        for value, part in scores.groupby(column, sort=True):
            yield f"{column}={value}", part


def arms_of(scores: pd.DataFrame) -> list[str]:
    """Base, control, the other arms in order of appearance, ceilings; those that are there."""
    found = list(dict.fromkeys(scores["arm"]))
    trained = [arm for arm in found if arm not in (BASE, CONTROL, *CEILINGS)]
    return [arm for arm in (BASE, CONTROL, *trained, *CEILINGS) if arm in found]


def compares(arm: str) -> bool:
    """Whether a difference to the control is of interest."""
    return arm != CONTROL and arm not in CEILINGS


def prompt_means(images: pd.DataFrame) -> pd.DataFrame:
    """Mean of every measured column per prompt, sorted by prompt: the observations of all statistics."""
    return images.groupby("prompt_id", sort=True)[MEASURED].mean().astype(float)


def edits_by_seed(images: pd.DataFrame) -> np.ndarray:
    """`means_by_seed` of the edits."""
    return means_by_seed(images, "distance")


def means_by_seed(images: pd.DataFrame, column: str) -> np.ndarray:
    """A column's mean of every training seed (one row for the base and the ceilings) and prompt [S, P], sorted."""
    means = images.groupby(["training_seed", "prompt_id"], sort=True, dropna=False)[column].mean()
    return means.to_numpy(dtype=float).reshape(images["training_seed"].nunique(dropna=False), -1)


def columns(metric: str, prompts: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators [P] of a metric."""
    numerator, denominator = METRICS[metric]
    ones = np.ones(len(prompts))
    return prompts[numerator].to_numpy(), ones if denominator is None else prompts[denominator].to_numpy()


def ratio(numerators: np.ndarray, denominators: np.ndarray) -> float:
    return float(numerators.sum() / denominators.sum())


@dataclass(frozen=True)
class Draws:
    """What one stratum's intervals and tests are drawn with, the same for every engine and arm."""

    prompts: np.ndarray  # [R, P], how often each prompt occurs
    seeds: np.ndarray  # [R, S], how often each training seed does
    signs: np.ndarray  # [R', P]


def measure(
    metric: str, prompts: pd.DataFrame, control: pd.DataFrame | None, draws: Draws, confidence: float
) -> dict[str, float]:
    """Value, difference and p-value columns of one metric of one arm; `prompts` and `control` [P] in the same order."""
    own, nan, weights = columns(metric, prompts), float("nan"), draws.prompts
    value = cluster_bootstrap(*own, weights, confidence)
    delta = relative = Estimate(nan, nan, nan)
    p_value = nan
    if control is not None:
        delta = paired_bootstrap_delta(*own, *columns(metric, control), weights, confidence)
        relative = paired_bootstrap_relative(*own, *columns(metric, control), weights, confidence)
        p_value = p_value_of(metric, prompts, control, draws.signs)
    return {
        "value": value.value,
        "ci_low": value.low,
        "ci_high": value.high,
        "delta_vs_control": delta.value,
        "delta_low": delta.low,
        "delta_high": delta.high,
        "relative_delta": relative.value,
        "relative_low": relative.low,
        "relative_high": relative.high,
        **dict.fromkeys((*TWO_WAY, *AGAINST_BASE), nan),
        "p_value": p_value,
    }


def measure_two_way(
    arm: np.ndarray, control: np.ndarray, length: np.ndarray, p_prompts: float, draws: Draws, confidence: float
) -> dict[str, float]:
    """The columns of `TWO_WAY`, and `p_value`: the larger one of the test over prompts and of the one over both.

    Args:
        arm, control: `edits_by_seed`.
        length: [P], characters asked for.
        p_prompts: of the sign-flip test.
    """
    found = two_way_bootstrap(arm, control, length, draws.prompts, draws.seeds, confidence)
    bounds = (found.difference.low, found.difference.high, found.relative.low, found.relative.high)
    return dict(zip(TWO_WAY, bounds, strict=True)) | {"p_value": float(np.fmax(p_prompts, found.p_value))}


def against_base(
    arm: np.ndarray, base: np.ndarray, length: np.ndarray, draws: Draws, confidence: float
) -> dict[str, float]:
    """The columns of `AGAINST_BASE`: the base model has no training seeds, so its prompts alone are resampled."""
    found = two_way_bootstrap(arm, base, length, draws.prompts, draws.seeds, confidence)
    p_prompts = sign_flip(arm.mean(0) - base.mean(0), draws.signs)
    bounds = (found.difference.low, found.difference.high, found.relative.low, found.relative.high)
    values = (found.difference.value, found.relative.value, *bounds, float(np.fmax(p_prompts, found.p_value)))
    return dict(zip(AGAINST_BASE, values, strict=True))


def p_value_of(metric: str, prompts: pd.DataFrame, control: pd.DataFrame, signs: np.ndarray) -> float:
    """The p-value over prompts of a difference, for the metrics that are tested; NaN for the others.

    On `cer_micro` this is the sign-flip test. It takes the trainings as they are: what one training's noise does to all
    prompts alike looks like an effect to it, so `measure_two_way` lets it decide only where that test agrees.
    """
    if metric == "cer_micro":  # both have the same characters to get right, so errors are compared
        return sign_flip((prompts["distance"] - control["distance"]).to_numpy(), signs)
    if metric == "exact":
        change = prompts["exact"].to_numpy() - control["exact"].to_numpy()
        return exact_mcnemar(int((change > 0).sum()), int((change < 0).sum()))
    return float("nan")


def draw(scoring: Scoring, prompt_set: str, stratum: str, shape: tuple[int, int]) -> Draws:
    """The draws of one stratum; `shape`: training seeds, prompts."""
    seeds, prompts = shape
    weights = resample(prompts, scoring.resamples, generator(scoring.seed, prompt_set, stratum)).astype(float)
    trainings = resample(seeds, scoring.resamples, generator(scoring.seed, prompt_set, f"{stratum}, seeds"))
    signs = draw_signs(prompts, generator(scoring.seed, prompt_set, f"{stratum}, signs"))
    return Draws(weights, trainings.astype(float), signs)


def generator(seed: int, prompt_set: str, stratum: str) -> np.random.Generator:
    """The generator of one stratum: equal for every engine and arm, and untouched by which other strata there are."""
    digest = hashlib.sha256(f"{prompt_set}/{stratum}".encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def with_holm(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary with its counts and, last, `p_holm` behind `p_value`.

    In the stratum `all` a family is every auxiliary arm × engine of a prompt set and metric: the claims that are made.
    The base is no claim and keeps its own p-value there. In the other strata a family is the strata of one arm, engine
    and metric.
    """
    summary["p_holm"] = summary["p_value"]
    tested = summary[summary["p_value"].notna()]
    overall = tested["stratum"] == ALL
    claims = tested[overall & (tested["arm"] != BASE)]
    families = [family for _, family in claims.groupby(["prompt_set", "metric"])]
    families += [family for _, family in tested[~overall].groupby(["arm", "engine", "prompt_set", "metric"])]
    for family in families:
        summary.loc[family.index, "p_holm"] = holm(family["p_value"].tolist())
    counts = ["n_prompts", "n_images", "n_training_seeds"]
    measured = [column for column in summary.columns if column not in (*counts, "p_value", "p_holm")]
    return summary[[*measured, *counts, "p_value", "p_holm"]]
