"""Is the aim reached? Conditions on an arm, each met or not, with the numbers that say so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from legible.figures.labels import auxiliary_arms, engine_label, is_placebo, signed
from legible.metrics.compare import claims, is_heard
from legible.names import BASE, CONTROL
from legible.report.experiment import Experiment, void
from legible.report.verdict import MIN_SEEDS, judge
from legible.report.words import counted, listed, p_text, percent

GOAL, BASE_GOAL = -0.40, -0.30  # relative change of CER against the own control, and against the base
MARGIN = 0.02  # so much worse is still no worse: of malformed rates, and of the share of attributes that are right
AIM = (
    "At least one auxiliary loss lowers CER by 40 % relative against its control (the same training without the loss) "
    "at equal steps, and by 30 % against the base, and the whole intervals say so; the gain is shown under each judge, "
    "after Holm's correction and over at least three training seeds; it is still ahead of the plain control at equal "
    "time; its letters are as well formed as the control's, and pictures without text show what they showed before "
    "(both within 2 points, and the whole intervals say so). Drift is shown beside and is no part of the aim."
)
CONDITIONS = (
    "−40 % against the control",
    "−30 % against the base",
    "the gain is shown",
    "ahead at equal time",
    "letters as well formed",
    "attributes kept",
    "no more drift (beside the aim)",
)
IN_AIM = 6  # the first so many
MET, NOT_MET, NOT_SHOWN, NOT_MEASURED = "met", "not met", "not shown", "not measured"


@dataclass(frozen=True)
class Condition:
    """One condition: `state` is "met", "not met", "not shown" (the numbers allow both) or "not measured"."""

    state: str
    words: str


@dataclass(frozen=True)
class EqualTime:
    """One engine and training seed: the arm's CER at its last step within the control's time, and the control's."""

    engine: str
    seed: int
    step: int
    value: float
    control: float


def enough_error(summary: pd.DataFrame, runs: Mapping[tuple[str, int], dict], arm: str, prompt_set: str) -> Condition:
    """Is the micro CER at least 40 % below the own control's for every engine, at the same number of steps?

    Where validation chose the weights of a step (the control's, too), both trained for as many; the words say which.
    After unlike numbers of steps nothing is shown of equal ones, either way. Met only when every interval (over prompts
    and training seeds) as a whole lies there, not met when one as a whole lies elsewhere; otherwise it is not shown.
    """
    rows = claims(summary)
    rows = rows[(rows["arm"] == arm) & (rows["prompt_set"] == prompt_set)].sort_values("engine")
    control = rows["control"].iloc[0]
    words = "; ".join(
        f"{engine_label(r.engine)} {percent(r.relative_delta)} [{percent(r.relative_two_way_low)}, "
        f"{percent(r.relative_two_way_high)}]"
        for r in rows.itertuples()
    )
    words += against(control)
    mine, theirs = ([run for (name, _), run in runs.items() if name == each] for each in (arm, control))
    stopped = {run["steps"] for run in mine} != {run["steps"] for run in theirs}
    if stopped:
        words += f"; but {counted_steps(mine, 'steps')} steps against {counted_steps(theirs, 'steps')}"
    if stopped and not by_one_rule([*mine, *theirs]):
        return Condition(NOT_SHOWN, words)
    if chosen_best([*mine, *theirs]):
        steps = [counted_steps(own, "best_step") for own in (mine, theirs)]
        words += f"; weights chosen by validation, of step {steps[0]} against {steps[1]}"
    state = by_intervals(rows["relative_two_way_low"], rows["relative_two_way_high"], GOAL)
    # Stopped early by one rule, the two trained for unequal times: that shows nothing at equal steps.
    state = NOT_SHOWN if stopped and state == MET else state
    return matched(Condition(state, words), rows["control_differs"].iloc[0])


def by_intervals(low: pd.Series, high: pd.Series, goal: float) -> str:
    """The state of "at or below `goal` for every engine": a yes takes all intervals, a no takes one."""
    if (low > goal).any():
        return NOT_MET
    return MET if (high <= goal).all() else NOT_SHOWN


def counted_steps(runs: Sequence[Mapping], key: str) -> str:
    """The different values of a number of steps in run.json, in order."""
    return ", ".join(map(str, sorted({run[key] for run in runs})))


def by_one_rule(runs: Sequence[Mapping]) -> bool:
    """Whether all runs could end early, by the same validation, within as many steps."""
    rules = [(run.get("validation"), run["training"]["steps"]) if run.get("validation") else None for run in runs]
    return all(rule is not None and rule == rules[0] and rule[0].get("patience") for rule in rules)


def chosen_best(runs: Sequence[Mapping]) -> bool:
    """Whether validation chose any run's weights among those of several steps."""
    return any((run.get("validation") or {}).get("keep") == "best" for run in runs)


def enough_against_base(summary: pd.DataFrame, arm: str, prompt_set: str) -> Condition:
    """Is the micro CER at least 30 % below the base's for every engine, by whole intervals as in `enough_error`?"""
    rows = claims(summary)
    rows = rows[(rows["arm"] == arm) & (rows["prompt_set"] == prompt_set)].sort_values("engine")
    words = "; ".join(
        f"{engine_label(r.engine)} {percent(r.base_relative_delta)} [{percent(r.base_relative_two_way_low)}, "
        f"{percent(r.base_relative_two_way_high)}]"
        for r in rows.itertuples()
    )
    return Condition(
        by_intervals(rows["base_relative_two_way_low"], rows["base_relative_two_way_high"], BASE_GOAL), words
    )


def formed_enough(malformed: pd.DataFrame | None, arm: str, prompt_set: str) -> Condition:
    """Are no more of its pictures malformed than of the own control's, by the glyph judge?

    Met when the interval of the difference ends below `MARGIN`; not met when it begins above zero.

    Args:
        malformed: rows of malformed.csv; None where no glyph judge looked.
    """
    rows = None if malformed is None else malformed[(malformed["arm"] == arm) & (malformed["prompt_set"] == prompt_set)]
    if rows is None or rows.empty:
        return Condition(NOT_MEASURED, "no glyph judge looked")
    row = rows.iloc[0]
    words = f"{signed(row.delta_vs_control)} [{signed(row.delta_low)}, {signed(row.delta_high)}]{against(row.control)}"
    if row.delta_low > 0:
        return Condition(NOT_MET, words)
    return Condition(MET if row.delta_high <= MARGIN else NOT_SHOWN, words)


def attributes_kept(attributes: pd.DataFrame | None, arm: str) -> Condition:
    """Is the share of right attributes of pictures without text within `MARGIN` of the base's?

    Met when the whole interval of the change says so; not met when the whole interval lies further below.

    Args:
        attributes: rows of attributes.csv; None where there are none.
    """
    rows = None if attributes is None else attributes[(attributes["arm"] == arm) & (attributes["attribute"] == "share")]
    if rows is None or rows.empty:
        return Condition(NOT_MEASURED, "no attributes of this arm")
    row = rows.iloc[0]
    words = f"{signed(row.delta_vs_base)} [{signed(row.base_low)}, {signed(row.base_high)}]{against(BASE)}"
    if row.base_high < -MARGIN:
        return Condition(NOT_MET, words)
    return Condition(MET if row.base_low >= -MARGIN else NOT_SHOWN, words)


def against(control: str) -> str:
    """Which control a condition was measured against."""
    return f"; against {control}"


def matched(condition: Condition, differs: str) -> Condition:
    """The condition, which without a matched control (`differs`: in which keys) cannot be met."""
    if not differs:
        return condition
    state = NOT_SHOWN if condition.state == MET else condition.state
    return Condition(state, f"{condition.words}, no matched control (it differs in {differs}, too)")


def sure_enough(summary: pd.DataFrame, seeds: pd.DataFrame, arm: str, prompt_set: str, confidence: float) -> Condition:
    """Is a gain shown, by the rule of `legible.report.verdict`, under at least two engines?"""
    verdict = judge(summary, seeds, arm, prompt_set, confidence)
    words = "; ".join(
        f"{engine_label(j.engine)} {signed(j.delta)} [{signed(j.low)}, {signed(j.high)}], p (Holm) {p_text(j.p_holm)}"
        for j in verdict.judgements
    )
    words += against(verdict.control)
    if len(verdict.judgements) < 2:
        return Condition(NOT_SHOWN, f"{words}; there is one judge only")
    if verdict.outcome == "better":
        return Condition(MET, f"{words}; {counted(verdict.seeds)}")
    if verdict.outcome == "hint better":
        return Condition(NOT_SHOWN, f"{words}; a hint: {verdict.reason}")
    worse = any(j.direction == 1 for j in verdict.judgements)  # under one judge, by its whole interval
    return Condition(NOT_MET if worse else NOT_SHOWN, f"{words} ({verdict.reason or 'more errors'})")


def equal_time(curve: pd.DataFrame, arm: str, prompt_set: str) -> list[EqualTime]:
    """Every engine and training seed that both arm and control have: CER when the control's seconds are over.

    The arm's value is that of its last evaluated step whose seconds do not exceed those of the control's last one, so
    it is never given time that it did not have.
    """
    views = []
    own = curve[curve["prompt_set"] == prompt_set]
    for (engine, seed), rows in own.groupby(["engine", "training_seed"], sort=True):
        control = rows[rows["arm"] == CONTROL].sort_values("step")
        if control.empty:
            continue
        end = control.iloc[-1]
        mine = rows[(rows["arm"] == arm) & (rows["seconds"] <= end["seconds"])].sort_values("step")
        if len(mine):
            last = mine.iloc[-1]
            views.append(EqualTime(engine, int(seed), int(last["step"]), float(last["value"]), float(end["value"])))
    return views


def fast_enough(curve: pd.DataFrame | None, arm: str, prompt_set: str) -> Condition:
    """Is the arm ahead of the control in equal time, by the curve's clock, for every engine and training seed?"""
    views = [] if curve is None else equal_time(curve, arm, prompt_set)
    if not views:
        return Condition(NOT_MEASURED, "no curve of this arm and the control")
    words = []
    for engine in sorted({view.engine for view in views}):
        own = [view for view in views if view.engine == engine]
        mean, control = (sum(numbers) / len(own) for numbers in zip(*((v.value, v.control) for v in own), strict=True))
        ahead = sum(view.value < view.control for view in own)
        steps = sorted({view.step for view in own})
        at = str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
        words.append(
            f"{engine_label(engine)} {mean:.3f} at step {at} against {control:.3f} ({ahead} of {len(own)} seeds ahead)"
        )
    everywhere = all(view.value < view.control for view in views)
    clock = curve["clock"].iloc[0]
    return Condition(MET if everywhere else NOT_MET, "; ".join([*words, clock]) + against(CONTROL))


def gentle_enough(drift: pd.DataFrame | None, arm: str) -> Condition:
    """Do the pictures drift no further than the own control's?

    Not, when any measure's interval lies above zero; so, when the interval of DSSIM lies at or below zero; otherwise it
    is not shown: an interval that holds zero is no proof of equality.

    Args:
        drift: the table of `legible.metrics.compare.drift_with_own_controls`.
        arm: an arm beside the control.
    """
    rows = None if drift is None else drift[drift["arm"] == arm]
    if rows is None or "dssim" not in set(rows["metric"]):
        return Condition(NOT_MEASURED, "no drift of this arm")
    words = "; ".join(
        f"{row.metric} {signed(row.delta_vs_control)} [{signed(row.delta_low)}, {signed(row.delta_high)}]"
        for row in rows.itertuples()
    )
    words += against(rows["control"].iloc[0])
    dssim = rows[rows["metric"] == "dssim"].iloc[0]
    if pd.isna(dssim["delta_vs_control"]):
        words = f"not shown against the matched control {rows['control'].iloc[0]}: there is no drift per prompt"
        return Condition(NOT_SHOWN, f"{words}; run the score stage again")
    if (rows["delta_low"] > 0).any():
        return Condition(NOT_MET, words)
    return matched(Condition(MET if dssim["delta_high"] <= 0 else NOT_SHOWN, words), rows["control_differs"].iloc[0])


def unspoilt(condition: Condition, broken: Sequence[str]) -> Condition:
    """The condition, which cannot be met by a gain that guards (in words) void."""
    if condition.state != MET or not broken:
        return condition
    return Condition(NOT_MET, f"{condition.words}; but the gain is void: {listed(broken)}")


def seeded(condition: Condition, seeds: int) -> Condition:
    """The condition, which with few training seeds cannot be met."""
    if condition.state != MET or seeds >= MIN_SEEDS:
        return condition
    return Condition(NOT_SHOWN, f"{condition.words}; a hint: {counted(seeds)}")


def conditions(experiment: Experiment, arm: str, prompt_set: str) -> tuple[Condition, ...]:
    """The conditions of `CONDITIONS` for one arm beside the control on one prompt set."""
    summary, runs = experiment.summary, experiment.runs
    shown = sure_enough(summary, experiment.seeds, arm, prompt_set, experiment.config.scoring.confidence)
    found = (
        enough_error(summary, runs, arm, prompt_set),
        enough_against_base(summary, arm, prompt_set),
        unspoilt(shown, void(experiment, arm, prompt_set)),
        fast_enough(experiment.curve, arm, prompt_set),
        formed_enough(experiment.malformed, arm, prompt_set),
        attributes_kept(experiment.attributes, arm),
        gentle_enough(experiment.drift, arm),
    )
    return tuple(seeded(condition, len({seed for _, seed in runs})) for condition in found)


def candidates(arms: Sequence[str], runs: Mapping[tuple[str, int], dict]) -> list[str]:
    """The arms that can reach the aim: those with an auxiliary loss (`runs`: run.json), placebos left out."""
    heard = {arm for (arm, _), run in runs.items() if is_heard(run["training"])}
    return [arm for arm in auxiliary_arms(arms) if arm in heard and not is_placebo(arm)]


def closest(found: Mapping[str, tuple[Condition, ...]], error: Mapping[str, float]) -> str:
    """The arm that meets most conditions; of several the one with the lowest `error`."""
    return min(found, key=lambda arm: (-sum(c.state == MET for c in found[arm][:IN_AIM]), error[arm], arm))
