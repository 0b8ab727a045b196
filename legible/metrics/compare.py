"""Every arm against a control of its own: the same training without its loss or reward; and against the base model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from legible.config import Scoring
from legible.metrics.drift import DISTANCES, Drift, drift_rows, drift_weights
from legible.metrics.summary import (
    ALL,
    by_training_seed,
    draw,
    edits_by_seed,
    measure,
    measure_two_way,
    prompt_means,
    summarise,
    with_holm,
)
from legible.names import BASE, CONTROL, run_of

# Keys of `training` that change no result, or (aux, reward) are what is compared.
MAY_DIFFER = {"aux", "reward", "threads", "checkpoint_every", "snapshots"}
DELTAS = ("delta_vs_control", "delta_low", "delta_high")


@dataclass(frozen=True)
class Control:
    """What an arm is compared with, and the keys of `training` in which the two differ beside the loss (none: matched).

    The difference of an arm without a loss to the control is what its other keys do, and so is matched.
    """

    name: str
    differs: tuple[str, ...] = ()


def is_heard(training: Mapping) -> bool:
    """Whether an arm hears an auxiliary loss or rewards, by the `training` section of its run.json."""
    aux = training.get("aux", {})
    heard = aux.get("loss", "none") != "none" and float(aux.get("lambda", 0.0)) > 0
    return heard or bool(training.get("reward", {}).get("weights"))


def own_control(arm: str, trainings: Mapping[str, Mapping]) -> Control:
    """The arm that trains as `arm` does but hears no loss: the control, or another one, such as the anchor alone.

    Args:
        arm: an arm beside the control.
        trainings: arm → `training` of its run.json, the control among them. Data, order and noise are equal anyway.

    Returns:
        The control with what differs, where no arm is matched.
    """
    own = trainings[arm]
    if not is_heard(own):
        return Control(CONTROL)
    silent = [CONTROL, *(name for name in trainings if name not in (arm, CONTROL) and not is_heard(trainings[name]))]
    differing = {name: differences(own, trainings[name]) for name in silent}
    return next((Control(name) for name in silent if not differing[name]), Control(CONTROL, differing[CONTROL]))


def differences(one: Mapping, other: Mapping) -> tuple[str, ...]:
    """The keys of two `training` sections that differ and count, sorted; an anchor that is off has no settings."""

    def settled(training: Mapping) -> dict:
        anchor = training.get("anchor", {})
        return {**training, "anchor": anchor if anchor.get("weight") else {}}

    first, second = settled(one), settled(other)
    return tuple(sorted(k for k in {*first, *second} - MAY_DIFFER if first.get(k) != second.get(k)))


def with_own_controls(
    summary: pd.DataFrame, seeds: pd.DataFrame, scores: pd.DataFrame, scoring: Scoring, controls: Mapping[str, Control]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`summary` and `seeds` with every difference taken to the arm's own control, where that is not `diffusion_only`.

    Both get the columns `control` and `control_differs` (keys, joined by commas).

    Args:
        summary, seeds: rows of summary.csv and seeds.csv.
        scores: rows of scores.parquet, all columns.
        scoring: as they were scored.
        controls: arm → `own_control`.
    """
    for arm, control in controls.items():
        if control.name != CONTROL:
            own = as_control(scores[scores["arm"].isin([BASE, arm, control.name])], control.name)
            summary = pd.concat([summary[summary["arm"] != arm], rows_of(summarise(own, scoring), arm)])
            seeds = pd.concat([seeds[seeds["arm"] != arm], rows_of(by_training_seed(own), arm)])
    summary = named(with_holm(summary.reset_index(drop=True)), controls)
    return summary, named(seeds.reset_index(drop=True), controls)


def as_control(scores: pd.DataFrame, arm: str) -> pd.DataFrame:
    """The scores with `arm` in the place of the control, which is not among them."""
    its = scores["arm"] == arm
    named = scores.loc[its, "model"].map(lambda model: str(replace(run_of(model), arm=CONTROL)))
    return scores.assign(arm=scores["arm"].mask(its, CONTROL), model=scores["model"].mask(its, named))


def rows_of(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    """The rows of one arm."""
    return table[table["arm"] == arm]


def named(table: pd.DataFrame, controls: Mapping[str, Control]) -> pd.DataFrame:
    """The table with the name of every arm's control, and what else differs."""
    names = {arm: control.name for arm, control in controls.items()}
    differs = {arm: ", ".join(control.differs) for arm, control in controls.items()}
    arms = table["arm"]
    return table.assign(control=arms.map(names).fillna(CONTROL), control_differs=arms.map(differs).fillna(""))


def claims(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that claims are made of: micro CER over all prompts."""
    return table[(table["stratum"] == ALL) & (table["metric"] == "cer_micro")]


def against(scores: pd.DataFrame, scoring: Scoring, arm: str, other: str) -> dict[str, float]:
    """Micro CER of one arm against another (or the base), as `legible.metrics.summary.summarise` compares them.

    Args:
        scores: rows of scores.parquet, of one engine and prompt set, with `distance`.
        scoring: resamples, confidence and seed.
        arm, other: which arms.
    """
    pair = [scores[scores["arm"] == name] for name in (arm, other)]
    means, edits = [prompt_means(own) for own in pair], [edits_by_seed(own) for own in pair]
    draws = draw(scoring, str(scores["prompt_set"].iloc[0]), ALL, max(own.shape for own in edits))
    measured, length = measure("cer_micro", *means, draws, scoring.confidence), means[0]["reference_length"].to_numpy()
    return measured | measure_two_way(*edits, length, measured["p_value"], draws, scoring.confidence)


def drift_with_own_controls(
    drift: pd.DataFrame, by_prompt: pd.DataFrame | None, scoring: Scoring, controls: Mapping[str, Control]
) -> pd.DataFrame:
    """The rows of drift.csv with every difference taken to the arm's own control, and the columns of `named`.

    Args:
        drift: rows of drift.csv.
        by_prompt: rows of drift_by_prompt.parquet; without them a difference to another control is NaN.
        scoring: as the drift was measured.
        controls: arm → `own_control`.
    """
    drift = named(drift, controls)
    for arm, control in controls.items():
        if control.name == CONTROL:
            continue
        measured = drift["arm"] == arm
        drift.loc[measured, list(DELTAS)] = np.nan
        if by_prompt is None:
            continue
        runs, others = (runs_of(by_prompt[by_prompt["arm"] == name]) for name in (arm, control.name))
        weights = drift_weights(scoring, by_prompt["prompt_set"].iloc[0], len(runs[0].distances))
        for row in drift_rows(runs, others, weights, scoring.confidence):
            drift.loc[measured & (drift["metric"] == row["metric"]), list(DELTAS)] = [row[column] for column in DELTAS]
    return drift


def runs_of(by_prompt: pd.DataFrame) -> list[Drift]:
    """The drift of one arm, a training seed each."""
    runs = by_prompt.groupby("training_seed", sort=True)
    return [Drift(rows.set_index("prompt_id")[list(DISTANCES)], float(rows["kid"].iloc[0])) for _, rows in runs]
