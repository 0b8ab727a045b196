"""Arm against arm: comparisons for which no control stands, such as of two methods that train equally long."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from legible.figures.labels import arm_label, engine_label, signed
from legible.metrics.compare import against
from legible.metrics.guards import broken_guards
from legible.metrics.statistics import holm, seed_interval
from legible.metrics.summary import columns, prompt_means, ratio, with_distance
from legible.report.experiment import Experiment
from legible.report.verdict import Judgement, Verdict, decide, explain
from legible.report.words import listed, p_text, percent

COLUMNS = ("Arm", "Against", "Judge", "CER ↓", "minus the other", "relative", "per training seed", "p (Holm)")
COLUMNS += ("seconds of training", "DSSIM drift ↓")
NOTE = (
    "Arm against arm, on the same prompts and noise, by the rule above; Holm's correction is over these comparisons "
    "and judges alone. Seconds are those of this machine, beside whatever else ran on it, and count the arm that one "
    "goes on from. That one arm is read better says nothing of whether either gain stands against its own control."
)


@dataclass(frozen=True)
class Contrast:
    """Two arms on a prompt set.

    Attributes:
        verdict: of the first arm, as if the other were its control.
        relative: CER against the other, as a share, per judge.
        seconds, drift: of both arms: wall seconds of training (see `seconds_of`), and DSSIM; NaN where not measured.
        void: those of the two whose gain against their own control a guard voids.
    """

    verdict: Verdict
    relative: tuple[float, ...]
    seconds: tuple[float, float]
    drift: tuple[float, float]
    void: tuple[str, ...]


def contrasts_of(experiments: Sequence[Experiment]) -> dict[str, dict[str, list[Contrast]]]:
    """Experiment → prompt set → its contrasts, with p-values corrected over all of one page."""
    found: dict[str, dict[str, list[Contrast]]] = {
        experiment.name: {prompt_set: [] for prompt_set in sorted(experiment.summary["prompt_set"].unique())}
        for experiment in experiments
    }
    asked = [
        (experiment, prompt_set, *pair)
        for experiment in experiments
        for prompt_set in found[experiment.name]
        for pair in experiment.config.contrasts
    ]
    views = [judgements(*one) for one in asked]
    corrected = iter(holm([judgement.p_holm for view in views for judgement in view]))
    for (experiment, prompt_set, arm, other), view in zip(asked, views, strict=True):
        tested = [replace(judgement, p_holm=next(corrected)) for judgement in view]
        verdict = decide(arm, prompt_set, other, "", tested, experiment.config.scoring.confidence)
        contrast = Contrast(
            verdict=verdict,
            relative=tuple(view.delta / view.control if view.control else math.nan for view in tested),
            seconds=(seconds_of(experiment, arm), seconds_of(experiment, other)),
            drift=(drift_of(experiment, arm), drift_of(experiment, other)),
            void=tuple(name for name in (arm, other) if broken_guards(experiment.guards, name, prompt_set)),
        )
        found[experiment.name][prompt_set].append(contrast)
    return found


def judgements(experiment: Experiment, prompt_set: str, arm: str, other: str) -> list[Judgement]:
    """Every judge's view of `arm` against `other`; `p_holm` is not corrected yet."""
    scores, scoring = with_distance(experiment.scores), experiment.config.scoring
    scores, found = scores[scores["prompt_set"] == prompt_set], []
    for engine, rows in scores.groupby("engine", sort=True):
        row, value = against(rows, scoring, arm, other), rate(rows[rows["arm"] == other])
        seeds = [rows[rows["training_seed"] == seed] for seed in experiment.config.seeds]
        deltas = [rate(own[own["arm"] == arm]) - rate(own[own["arm"] == other]) for own in seeds]
        bounds = (row["two_way_low"], row["two_way_high"], row["p_value"])
        spread = seed_interval(deltas, scoring.confidence)
        found.append(Judgement(engine, row["value"], value, row["delta_vs_control"], *bounds, tuple(deltas), *spread))
    return found


def rate(scores: pd.DataFrame) -> float:
    """Micro CER of one arm's rows, which have `distance`."""
    return ratio(*columns("cer_micro", prompt_means(scores)))


def seconds_of(experiment: Experiment, arm: str) -> float:
    """Wall seconds of an arm's training, mean over seeds, with those of the arm that it goes on from."""
    own = [run["wall_seconds"] for (name, _), run in experiment.runs.items() if name == arm]
    start = experiment.config.arm(arm).start
    return sum(own) / len(own) + (seconds_of(experiment, start) if start else 0.0)


def drift_of(experiment: Experiment, arm: str) -> float:
    """DSSIM to the base's pictures of prompts without text."""
    if experiment.drift is None:
        return float("nan")
    rows = experiment.drift[(experiment.drift["arm"] == arm) & (experiment.drift["metric"] == "dssim")]
    return float(rows["value"].iloc[0])


def contrast_rows(contrasts: Sequence[Contrast]) -> list[list[str]]:
    """Rows of the table under `COLUMNS`, one a judge."""
    rows = []
    for contrast in contrasts:
        verdict, drift = contrast.verdict, contrast.drift
        moved = "–" if any(map(math.isnan, drift)) else f"{drift[0]:.3f} and {drift[1]:.3f}"
        for view, share in zip(verdict.judgements, contrast.relative, strict=True):
            rows.append(
                [
                    arm_label(verdict.arm),
                    arm_label(verdict.control),
                    engine_label(view.engine),
                    f"{view.value:.3f} and {view.control:.3f}",
                    f"{signed(view.delta)} [{signed(view.low)}, {signed(view.high)}]",
                    percent(share),
                    ", ".join(map(signed, view.seed_deltas)),
                    p_text(view.p_holm),
                    f"{contrast.seconds[0]:.0f} and {contrast.seconds[1]:.0f}",
                    moved,
                ]
            )
    return rows


def sentences(contrasts: Sequence[Contrast], confidence: float) -> list[str]:
    """What is said of every contrast, and which of its arms' own gains are void."""
    found = []
    for contrast in contrasts:
        void = f" Against their own controls void: {listed(contrast.void)}." if contrast.void else ""
        found.append(explain(contrast.verdict, confidence) + void)
    return found
