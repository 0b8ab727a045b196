"""Does the text get better? The answer in sentences, computed from the numbers and no bolder than they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from legible.figures.inputs import BASE, CEILINGS, CONTROL, arm_label, engine_label


@dataclass(frozen=True)
class Judgement:
    """One engine's view of an arm: micro CER of the arm and of the control, difference and its interval."""

    engine: str
    value: float
    control: float
    delta: float
    low: float
    high: float
    seed_deltas: tuple[float, ...]

    @property
    def direction(self) -> int:
        """−1 when the interval lies below zero (better), +1 above (worse), 0 when it holds zero or there is none."""
        return -1 if self.high < 0 else 1 if self.low > 0 else 0

    @property
    def seeds_agree(self) -> bool:
        """Whether every training seed has the sign of the pooled difference."""
        return all(delta * self.delta > 0 for delta in self.seed_deltas)


@dataclass(frozen=True)
class Verdict:
    """What all engines together say about an arm on a prompt set: outcome "better", "worse" or "undecided"."""

    arm: str
    prompt_set: str
    outcome: str
    reason: str
    judgements: tuple[Judgement, ...]


def judge(summary: pd.DataFrame, seeds: pd.DataFrame, arm: str, prompt_set: str) -> Verdict:
    """Compare `arm` with the control.

    A gain (or a loss) is claimed only when every engine's interval excludes zero on the same side and no training seed
    has the other sign. Everything else is undecided, with the reason.
    """
    rows = summary[(summary["stratum"] == "all") & (summary["metric"] == "cer_micro")]
    rows = rows[rows["prompt_set"] == prompt_set]
    runs = seeds[(seeds["stratum"] == "all") & (seeds["metric"] == "cer_micro") & (seeds["prompt_set"] == prompt_set)]
    judgements = []
    for engine in sorted(rows["engine"].unique()):
        own = rows[(rows["engine"] == engine)].set_index("arm")
        row, control = own.loc[arm], own.loc[CONTROL, "value"]
        deltas = runs[(runs["engine"] == engine) & (runs["arm"] == arm)]["delta_vs_control"].dropna()
        numbers = (row["value"], control, row["delta_vs_control"], row["delta_low"], row["delta_high"])
        judgements.append(Judgement(engine, *map(float, numbers), tuple(map(float, deltas))))
    directions = {judgement.direction for judgement in judgements}
    outcome, reason = "undecided", ""
    unsure = [engine_label(j.engine) for j in judgements if j.direction == 0]
    if directions == {-1, 1}:
        reason = "the judges contradict one another"
    elif unsure:
        whose = "every judge" if len(unsure) == len(judgements) else " and ".join(unsure)
        reason = f"the interval of {whose} does not exclude zero"
    elif not all(judgement.seeds_agree for judgement in judgements):
        reason = "the training seeds disagree in sign"
    else:
        outcome = "better" if directions == {-1} else "worse"
    return Verdict(arm, prompt_set, outcome, reason, tuple(judgements))


def headline(verdicts: Sequence[Verdict]) -> str:
    """Does the text get better? One sentence about all arms on one prompt set."""
    by_outcome = {kind: [v.arm for v in verdicts if v.outcome == kind] for kind in ("better", "worse", "undecided")}
    if not verdicts:
        return f"There is no arm beside the control {CONTROL}, so nothing can be said about an auxiliary loss."
    sentences = []
    if arms := by_outcome["better"]:
        sentences.append(f"Yes: with {listed(arms)} the text is read with fewer errors than with the control.")
    if arms := by_outcome["worse"]:
        start = "But with" if sentences else "No: with"
        sentences.append(f"{start} {listed(arms)} the text is read with more errors than with the control.")
    if arms := by_outcome["undecided"]:
        sentences.append(f"No difference can be told between {listed(arms)} and the control.")
    return " ".join(sentences)


def listed(names: Sequence[str]) -> str:
    """Names as "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def explain(verdict: Verdict, confidence: float) -> str:
    """How much and how sure: the numbers of every engine, why nothing is claimed where nothing is, and the seeds."""
    views = []
    for j in verdict.judgements:
        change = f", {j.delta / j.control:+.0%}".replace("-", "−") if j.control else ""
        views.append(
            f"{engine_label(j.engine)} reads CER {j.value:.3f} instead of {j.control:.3f} "
            f"({signed(j.delta)}{change}; {confidence:.0%} interval {signed(j.low)} to {signed(j.high)})"
        )
    seeds = max(len(j.seed_deltas) for j in verdict.judgements)
    agree = all(j.seeds_agree for j in verdict.judgements)
    stability = "The training seeds do not all point the same way."
    if agree:
        stability = f"{'Both' if seeds == 2 else f'All {seeds}'} training seeds point the same way."
    if seeds < 2:
        stability = "There is one training seed only."
    claim = {
        "better": "fewer errors than the control, for every judge",
        "worse": "more errors than the control, for every judge",
        "undecided": f"no difference can be told, because {verdict.reason}",
    }[verdict.outcome]
    return f"{verdict.arm}: {claim}. {'; '.join(views)}. {stability}"


def explain_control(summary: pd.DataFrame, seeds: pd.DataFrame, prompt_set: str) -> str:
    """What fine-tuning without an auxiliary loss changed by itself: the control against the base model."""
    parts = []
    for j in judge(summary, seeds, BASE, prompt_set).judgements:
        kind = {-1: "more errors", 1: "fewer errors", 0: "no difference can be told"}[j.direction]
        parts.append(f"{engine_label(j.engine)} reads CER {j.control:.3f}, the base model {j.value:.3f} ({kind})")
    return f"Fine-tuning alone, the control {CONTROL} against the base model: {'; '.join(parts)}."


def explain_ceilings(summary: pd.DataFrame, prompt_set: str) -> str:
    """What the judges get wrong themselves; empty without ceilings."""
    rows = summary[(summary["stratum"] == "all") & (summary["metric"] == "cer_micro")]
    rows = rows[(rows["prompt_set"] == prompt_set) & rows["arm"].isin(CEILINGS)]
    views = [f"{arm_label(r.arm)} {r.value:.3f} ({engine_label(r.engine)})" for r in rows.itertuples()]
    return f"What is possible at best, CER of pictures that no model made: {', '.join(views)}." if views else ""


def signed(value: float) -> str:
    """A difference with its sign; a dash where there is none."""
    return "–" if pd.isna(value) else f"{value:+.3f}".replace("-", "−")
