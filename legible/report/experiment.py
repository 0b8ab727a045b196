"""What a page says something about: one experiment's tables, every arm compared with its own control."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from legible.config import NO_TEXT, Config
from legible.figures.inputs import (
    DRIFT_PROMPTS,
    check_columns,
    read_attributes,
    read_curve,
    read_drift,
    read_guards,
    read_malformed,
    read_metrics,
    read_panel,
    read_rewards,
    read_rows,
    read_runs,
    read_scores,
    read_seeds,
    read_summary,
    read_table,
)
from legible.figures.labels import auxiliary_arms, with_control_first
from legible.metrics.compare import Control, claims, drift_with_own_controls, own_control, with_own_controls
from legible.metrics.guards import broken_guards, more_malformed
from legible.metrics.statistics import holm
from legible.metrics.summary import AGAINST_BASE, TWO_WAY
from legible.metrics.timing import SHARED, clock_of, pace_of, read_timing
from legible.metrics.training import clipped_share, gradient_ratio
from legible.names import BASE, CONTROL
from legible.ocr import is_text
from legible.report.verdict import Verdict, guarded, judge

TESTED = ("relative_delta", *TWO_WAY, *AGAINST_BASE, "p_value", "p_holm")
BESIDE = "processor seconds, other work beside"  # as trainings count them


@dataclass(frozen=True, eq=False)
class Experiment:
    """One experiment, read.

    Attributes:
        results: its folder.
        name, title: of the folder, and as its heading.
        config: its configuration.
        arms: the control, then the others.
        controls: arm beside the control → what it is compared with.
        summary, seeds, drift: the tables of legible.metrics.compare; `drift` None where it was not measured.
        rewards, guards: rows of rewards.csv and guards.csv, None where no rewards were scored.
        malformed: rows of malformed.csv, None where no glyph judge looked.
        attributes: rows of attributes.csv, None without pictures without text.
        panel: rows of calibration/damage.csv, None where judges were not calibrated.
        curve: rows of curve.csv, None where there is none.
        scores: rows of scores.parquet.
        runs: (arm, training seed) → run.json.
        timing: rows of timing.csv, None where no arm was timed alone.
        strength: arm → median, lowest and highest λ·‖∇auxiliary‖ / ‖∇diffusion‖ of the steps where both were measured.
        clipped: arm → share of the steps whose gradient was clipped.
        family: how many tests of CER against a control, and against the base, `p_holm` and `base_p_holm` are corrected
            over; (0, 0): not yet.
        lettered: judge → (pictures of the base on the drift's prompts in which it finds text, all of them).
    """

    results: Path
    name: str
    title: str
    config: Config
    arms: list[str]
    controls: dict[str, Control]
    summary: pd.DataFrame
    seeds: pd.DataFrame
    drift: pd.DataFrame | None
    rewards: pd.DataFrame | None
    guards: pd.DataFrame | None
    malformed: pd.DataFrame | None
    panel: pd.DataFrame | None
    attributes: pd.DataFrame | None
    curve: pd.DataFrame | None
    scores: pd.DataFrame
    runs: dict[tuple[str, int], dict]
    timing: pd.DataFrame | None
    strength: dict[str, tuple[float, float, float]]
    clipped: dict[str, float]
    lettered: dict[str, tuple[int, int]]
    family: tuple[int, int] = (0, 0)

    @property
    def first_set(self) -> str:
        """The prompt set that pages show first; with it stands what belongs to none."""
        return min(self.summary["prompt_set"])


def read_experiment(results: Path, config: Config, title: str = "") -> Experiment:
    """Everything that pages say about results/{experiment}; `title` empty: the experiment's name.

    Raises:
        UserError: the scores, a run or another table is missing or damaged.
    """
    arms, table = with_control_first(list(config.arms)), results / "scores" / "summary.csv"
    summary = check_columns(read_summary(results, arms), TESTED, table, "score")
    runs, scores = read_runs(results, arms, config.seeds), read_scores(results)
    trainings = {arm: runs[arm, config.seeds[0]].get("training", {}) for arm in arms}
    controls = {arm: own_control(arm, trainings) for arm in auxiliary_arms(arms)}
    summary, seeds = with_own_controls(summary, read_seeds(results), scores, config.scoring, controls)
    drift = None
    if (results / "scores" / "drift.csv").is_file():
        path = results / "scores" / "drift_by_prompt.parquet"
        by_prompt = read_table(path, DRIFT_PROMPTS) if path.is_file() else None
        drift = drift_with_own_controls(read_drift(results), by_prompt, config.scoring, controls)
    metrics = read_metrics(results, arms, config.seeds)
    together = {arm: pd.concat([metrics[arm, seed] for seed in config.seeds]) for arm in arms}
    limit = {arm: float(trainings[arm].get("max_grad_norm", float("inf"))) for arm in arms}
    return Experiment(
        results=results,
        name=results.resolve().name,
        title=title or results.resolve().name,
        config=config,
        arms=arms,
        controls=controls,
        summary=summary,
        seeds=seeds,
        drift=drift,
        rewards=read_rewards(results) if (results / "scores" / "rewards.csv").is_file() else None,
        guards=read_guards(results) if (results / "scores" / "guards.csv").is_file() else None,
        malformed=read_malformed(results) if config.glyph_judge else None,
        panel=read_panel(results) if config.calibration else None,
        attributes=read_attributes(results) if (results / "scores" / "attributes.csv").is_file() else None,
        curve=read_curve(results) if (results / "scores" / "curve.csv").is_file() else None,
        scores=scores,
        runs=runs,
        timing=read_timing(results / "timing.csv") if (results / "timing.csv").is_file() else None,
        strength={arm: median_and_range(gradient_ratio(rows)) for arm, rows in together.items()},
        clipped={arm: clipped_share(rows, limit[arm]) for arm, rows in together.items()},
        lettered=read_lettered(results, sorted(config.detectors())),
    )


def read_lettered(results: Path, engines: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Judge → in how many of the base's pictures of prompts without text it finds text, and of how many."""
    found = {}
    for engine in engines:
        path = results / "ocr" / engine / BASE / f"{NO_TEXT}.jsonl"
        if path.is_file():
            rows = read_rows(path, ("readings",), "score")["readings"]
            lettered = [any(is_text(line["text"], line["confidence"]) for line in row) for row in rows]
            found[engine] = (sum(lettered), len(lettered))
    return found


def corrected(experiments: Sequence[Experiment]) -> list[Experiment]:
    """The experiments of one page, their CER tests corrected over all arms × judges × prompt sets that the page has.

    Two families: `p_holm`, every arm against its control, and `base_p_holm`, every trained arm against the base.
    """
    summaries = [
        experiment.summary.assign(base_p_holm=experiment.summary["base_p_value"]) for experiment in experiments
    ]
    sizes = []
    for p_value, corrected_p in (("p_value", "p_holm"), ("base_p_value", "base_p_holm")):
        tested = [claims(summary) for summary in summaries]
        tested = [rows[(rows["arm"] != BASE) & rows[p_value].notna()] for rows in tested]
        adjusted = iter(holm([p for rows in tested for p in rows[p_value]]))
        for summary, rows in zip(summaries, tested, strict=True):
            for index in rows.index:
                summary.loc[index, corrected_p] = next(adjusted)
        sizes.append(sum(map(len, tested)))
    family = (sizes[0], sizes[1])
    pairs = zip(experiments, summaries, strict=True)
    return [replace(experiment, summary=summary, family=family) for experiment, summary in pairs]


def verdict_of(experiment: Experiment, arm: str, prompt_set: str) -> Verdict:
    """What is said of an arm on a prompt set, guards heeded."""
    confidence = experiment.config.scoring.confidence
    found = judge(experiment.summary, experiment.seeds, arm, prompt_set, confidence)
    return guarded(found, void(experiment, arm, prompt_set))


def void(experiment: Experiment, arm: str, prompt_set: str) -> list[str]:
    """What voids an arm's gain on a prompt set, in words."""
    malformed = more_malformed(experiment.malformed, arm, prompt_set)
    return [*broken_guards(experiment.guards, arm, prompt_set), *malformed]


def median_and_range(values: pd.Series) -> tuple[float, float, float]:
    """Median, lowest and highest; NaN without any."""
    return float(values.median()), float(values.min()), float(values.max())


def strength_text(experiment: Experiment, arm: str) -> str:
    """λ·‖∇auxiliary‖ / ‖∇diffusion‖, its median and range; a dash where it was not measured."""
    value, low, high = experiment.strength[arm]
    return "–" if pd.isna(value) else f"{value:.2g} ({low:.2g} to {high:.2g})"


def pace(experiment: Experiment, arm: str) -> float:
    """Seconds of a step by `clock`: measured alone, or else the mean over runs as they counted; NaN without a run."""
    if experiment.timing is not None:
        return pace_of(experiment.timing).get(arm, float("nan"))
    own = [run for (name, _), run in experiment.runs.items() if name == arm]
    counted = "wall_seconds" if clock(experiment) == SHARED else "processor_seconds"
    return sum(run[counted] / max(run["steps"], 1) for run in own) / len(own) if own else float("nan")


def clock(experiment: Experiment) -> str:
    """What the seconds of `pace` are, in words."""
    if experiment.timing is not None:
        return clock_of(experiment.timing)
    return SHARED if any(run.get("device") == "cuda" for run in experiment.runs.values()) else BESIDE


def pace_text(experiment: Experiment, arm: str) -> str:
    """Seconds of a step, and how many times the control's that is."""
    own = pace(experiment, arm)
    return "–" if pd.isna(own) else f"{own:.3g} ({own / pace(experiment, CONTROL):.2f} ×)"


def clipped_text(experiment: Experiment, arm: str) -> str:
    """The share of an arm's clipped steps."""
    return f"{experiment.clipped[arm]:.0%}"
