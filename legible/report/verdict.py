"""Does the text get better? The answer in sentences, computed from the numbers and no bolder than they are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from legible.figures.labels import arm_label, engine_label, is_placebo, signed
from legible.metrics.compare import claims
from legible.metrics.statistics import seed_interval
from legible.names import BASE, CEILINGS, CONTROL
from legible.report.words import counted, listed, p_text

MIN_SEEDS = 3  # training seeds without which nothing is claimed
PLACEBO = {  # how its name ends → what such an arm does and does not exclude
    "_shuffled": (
        "The placebo is taught the texts of other samples: it does not exclude that any gradient towards more legible "
        "glyphs, whatever they spell, would gain as much."
    ),
    "_permuted": "The placebo is taught its samples' own letters in another order: what it gains needs no right order.",
    "_placebo": "The placebo knows no text: what it gains needs none.",
}


def rule(confidence: float, family: int) -> str:
    """When a difference is claimed, in words; `family`: how many tests are corrected together."""
    return (
        "A difference is claimed only when every judge's interval over prompts and training seeds together, and that "
        "over training seeds alone, exclude zero on the same side, every judge's p is below "
        f"{1 - confidence:.2g} after Holm's correction over all {family} tests of CER against a control on this page "
        f"(arms × judges × prompt sets of all regimes), there are at least {MIN_SEEDS} training seeds and none of the "
        "other sign, and the control is trained alike but for the loss. With a single training seed intervals resample "
        "prompts only, and say nothing of other trainings."
    )


@dataclass(frozen=True)
class Judgement:
    """One engine's view of an arm: micro CER of the arm and of its control, their difference and how sure it is.

    `low`, `high`: interval over prompts and training seeds (of one seed: prompts); `seeds_low`, `seeds_high`: Student's
    t over training seeds alone; `p_holm`: for the whole page.
    """

    engine: str
    value: float
    control: float
    delta: float
    low: float
    high: float
    p_holm: float
    seed_deltas: tuple[float, ...]
    seeds_low: float
    seeds_high: float

    @property
    def direction(self) -> int:
        """−1 when the interval lies below zero (better), +1 above (worse), 0 when it holds zero or there is none."""
        return -1 if self.high < 0 else 1 if self.low > 0 else 0

    @property
    def seeds_agree(self) -> bool:
        """Whether every training seed has the sign of the pooled difference."""
        return all(delta * self.delta > 0 for delta in self.seed_deltas)

    @property
    def varies(self) -> bool:
        """Whether the interval over training seeds does not lie on the difference's side of zero."""
        return not (self.seeds_high < 0 if self.delta < 0 else self.seeds_low > 0)


@dataclass(frozen=True)
class Verdict:
    """What all engines together say about an arm on a prompt set.

    `outcome`: "better" and "worse" are claims; "hint better" and "hint worse" would be, with more training seeds;
    "not shown" has a `reason`.
    """

    arm: str
    prompt_set: str
    control: str
    outcome: str
    reason: str
    judgements: tuple[Judgement, ...]

    @property
    def seeds(self) -> int:
        """Training seeds behind it."""
        return max(len(judgement.seed_deltas) for judgement in self.judgements)


def judgements_of(
    summary: pd.DataFrame, seeds: pd.DataFrame, arm: str, prompt_set: str, confidence: float
) -> list[Judgement]:
    """Every engine's view of an arm against its own control."""
    rows, runs = claims(summary), claims(seeds)
    rows, runs = rows[rows["prompt_set"] == prompt_set], runs[runs["prompt_set"] == prompt_set]
    found = []
    for engine in sorted(rows["engine"].unique()):
        own = rows[rows["engine"] == engine].set_index("arm")
        row = own.loc[arm]
        deltas = runs[(runs["engine"] == engine) & (runs["arm"] == arm)]["delta_vs_control"].dropna().tolist()
        numbers = (row["value"], own.loc[row["control"], "value"], row["delta_vs_control"])
        numbers = (*numbers, row["two_way_low"], row["two_way_high"], row["p_holm"])
        found.append(Judgement(engine, *map(float, numbers), tuple(deltas), *seed_interval(deltas, confidence)))
    return found


def judge(summary: pd.DataFrame, seeds: pd.DataFrame, arm: str, prompt_set: str, confidence: float) -> Verdict:
    """Compare `arm` with its control, by `rule`: what does not follow it is "not shown" and has a reason.

    Args:
        summary, seeds: the tables of `legible.metrics.compare.with_own_controls`, `p_holm` corrected over the page.
        arm: an arm beside the control, or the base.
        prompt_set: which prompts.
        confidence: of the intervals, in (0, 1); 1 − confidence is the level of the tests.
    """
    row = claims(summary).set_index("arm").loc[[arm]].iloc[0]
    judgements = judgements_of(summary, seeds, arm, prompt_set, confidence)
    return decide(arm, prompt_set, row["control"], row["control_differs"], judgements, confidence)


def decide(
    arm: str, prompt_set: str, control: str, differs: str, judgements: Sequence[Judgement], confidence: float
) -> Verdict:
    """What follows from every judge's view of `arm` against `control`, by `rule`.

    Args:
        differs: keys in which the two train differently beside the loss; empty: matched, or to be compared as they are.
    """
    directions = {judgement.direction for judgement in judgements}
    unsure = names(j for j in judgements if j.direction == 0)
    untested = names(j for j in judgements if not j.p_holm + confidence < 1)  # 1 − 0.95 is above 0.05
    number = max(len(j.seed_deltas) for j in judgements)
    reason, side = "", "better" if directions == {-1} else "worse"
    if directions >= {-1, 1}:
        reason = "the judges contradict one another"
    elif unsure:
        reason = f"the interval of {unsure} over {units(number)} does not exclude zero"
    elif not all(j.seeds_agree for j in judgements):
        reason = "the training seeds disagree in sign"
    elif untested:
        reason = f"p of {untested} after Holm's correction is not below {1 - confidence:.2g}"
    elif differs:
        reason = f"no control is matched: {control} differs in {differs}, too"
    elif number < MIN_SEEDS:
        return Verdict(arm, prompt_set, control, f"hint {side}", counted(number), tuple(judgements))
    elif varying := names(j for j in judgements if j.varies):
        reason = f"the interval of {varying} over training seeds alone does not exclude zero"
    return Verdict(arm, prompt_set, control, "not shown" if reason else side, reason, tuple(judgements))


def units(seeds: int) -> str:
    """What an interval resamples."""
    return "prompts and training seeds" if seeds > 1 else "prompts"


def guarded(verdict: Verdict, broken: Sequence[str]) -> Verdict:
    """The verdict, with a gain taken back that `broken` guards (in words) void."""
    if not broken or verdict.outcome not in ("better", "hint better"):
        return verdict
    return replace(verdict, outcome="not shown", reason=f"the gain is void: {listed(broken)}")


def names(judgements: Iterable[Judgement]) -> str:
    """The engines of some judgements, in words."""
    return listed([engine_label(judgement.engine) for judgement in judgements])


def headline(verdicts: Sequence[Verdict]) -> str:
    """Does the text get better? A few sentences about all arms on one prompt set."""
    if not verdicts:
        return f"There is no arm beside the control {CONTROL}, so nothing can be said about an auxiliary loss."
    arms = {outcome: arms_of(verdicts, outcome) for outcome in {verdict.outcome for verdict in verdicts}}
    seeds, sentences = counted(verdicts[0].seeds), []
    if better := arms.get("better"):
        sentences.append(f"Yes: with {better} the text is read with fewer errors than with the control ({seeds}).")
    if worse := arms.get("worse"):
        start = "But with" if sentences else "No: with"
        sentences.append(f"{start} {worse} the text is read with more errors than with the control ({seeds}).")
    for outcome, kind in (("hint better", "fewer"), ("hint worse", "more")):
        if hinted := arms.get(outcome):
            sentences.append(
                f"A hint, {seeds} only: with {hinted} it is read with {kind} errors than with the control."
            )
    if unsure := arms.get("not shown"):
        sentences.append(f"Not shown: any difference between {unsure} and the control.")
    return " ".join(sentences)


def arms_of(verdicts: Sequence[Verdict], outcome: str) -> str:
    """The arms with this outcome, each with the name of its control where that is not `diffusion_only`."""
    own = [verdict for verdict in verdicts if verdict.outcome == outcome]
    return listed([v.arm if v.control == CONTROL else f"{v.arm} (control: {v.control})" for v in own])


def explain(verdict: Verdict, confidence: float) -> str:
    """How much and how sure: the numbers of every engine, why nothing is claimed where nothing is, and the seeds."""
    views = []
    for j in verdict.judgements:
        change = f", {j.delta / j.control:+.0%}".replace("-", "−") if j.control else ""
        views.append(
            f"{engine_label(j.engine)} reads CER {j.value:.3f} instead of {j.control:.3f} "
            f"({signed(j.delta)}{change}; {confidence:.0%} interval over {units(verdict.seeds)} {signed(j.low)} to "
            f"{signed(j.high)}, over training seeds alone {signed(j.seeds_low)} to {signed(j.seeds_high)}; p (Holm) "
            f"{p_text(j.p_holm)})"
        )
    agree = all(j.seeds_agree for j in verdict.judgements)
    stability = "The training seeds do not all point the same way."
    if agree:
        stability = f"{'Both' if verdict.seeds == 2 else f'All {verdict.seeds}'} training seeds point the same way."
    if verdict.seeds < 2:
        stability = "There is one training seed only."
    claim = {
        "better": "fewer errors, for every judge",
        "worse": "more errors, for every judge",
        "hint better": f"a hint at fewer errors: {verdict.reason}",
        "hint worse": f"a hint at more errors: {verdict.reason}",
        "not shown": f"no difference is shown, because {verdict.reason}",
    }[verdict.outcome]
    note = f" {placebo_note(verdict.arm)}" if is_placebo(verdict.arm) else ""
    return f"{verdict.arm} against {verdict.control}: {claim}. {'; '.join(views)}. {stability}{note}"


def placebo_note(arm: str) -> str:
    """What a placebo's result means."""
    return next(note for ending, note in PLACEBO.items() if arm.endswith(ending))


def explain_control(summary: pd.DataFrame, seeds: pd.DataFrame, prompt_set: str, confidence: float) -> str:
    """What fine-tuning without an auxiliary loss changed by itself: the control against the base model."""
    parts = []
    for j in judgements_of(summary, seeds, BASE, prompt_set, confidence):
        kind = {-1: "more errors", 1: "fewer errors", 0: "no difference is shown"}[j.direction]
        parts.append(f"{engine_label(j.engine)} reads CER {j.control:.3f}, the base model {j.value:.3f} ({kind})")
    return f"Fine-tuning alone, the control {CONTROL} against the base model: {'; '.join(parts)}."


def explain_ceilings(summary: pd.DataFrame, prompt_set: str) -> str:
    """What the judges get wrong themselves; empty without ceilings."""
    rows = claims(summary)
    rows = rows[(rows["prompt_set"] == prompt_set) & rows["arm"].isin(CEILINGS)]
    views = [f"{arm_label(r.arm)} {r.value:.3f} ({engine_label(r.engine)})" for r in rows.itertuples()]
    return f"What is possible at best, CER of pictures that no model made: {', '.join(views)}." if views else ""
