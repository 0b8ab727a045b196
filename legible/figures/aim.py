"""Is the aim reached? Four conditions on an arm, each met or not, with the numbers that say so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from legible.figures.inputs import CONTROL, auxiliary_arms, engine_label, is_placebo
from legible.figures.verdict import judge, signed

GOAL = -0.40
AIM = (
    "At least one auxiliary loss lowers CER by 40 % relative against the control at equal steps, with intervals that "
    "exclude zero under every judge; it is still ahead at equal wall time; and its pictures drift no further."
)
CONDITIONS = ("−40 % at equal steps", "intervals exclude zero", "ahead at equal wall time", "no more drift")
MET, NOT_MET, NOT_SHOWN, NOT_MEASURED = "met", "not met", "not shown", "not measured"


@dataclass(frozen=True)
class Condition:
    """One condition: `state` is "met", "not met", "not shown" (the interval allows both) or "not measured"."""

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


def percent(share: float) -> str:
    """A relative change with its sign, one decimal."""
    return "–" if pd.isna(share) else f"{100 * share:+.1f} %".replace("-", "−")


def enough_error(summary: pd.DataFrame, runs: Mapping[tuple[str, int], dict], arm: str, prompt_set: str) -> Condition:
    """Is the micro CER at least 40 % below the control's for every engine, at the control's number of steps?"""
    rows = summary[(summary["stratum"] == "all") & (summary["metric"] == "cer_micro")]
    rows = rows[(rows["arm"] == arm) & (rows["prompt_set"] == prompt_set)].sort_values("engine")
    words = "; ".join(
        f"{engine_label(r.engine)} {percent(r.relative_delta)} [{percent(r.relative_low)}, {percent(r.relative_high)}]"
        for r in rows.itertuples()
    )
    steps = {name: {run["steps"] for (own, _), run in runs.items() if own == name} for name in (arm, CONTROL)}
    if steps[arm] != steps[CONTROL]:
        own, control = (", ".join(map(str, sorted(steps[name]))) for name in (arm, CONTROL))
        return Condition(NOT_MET, f"{words}; but {own} steps against {control}")
    return Condition(MET if (rows["relative_delta"] <= GOAL).all() else NOT_MET, words)


def sure_enough(summary: pd.DataFrame, seeds: pd.DataFrame, arm: str, prompt_set: str) -> Condition:
    """Does every engine's interval lie below zero, for at least two engines, and does no training seed contradict?

    One training seed cannot show it: how much a gain owes to its luck is not known.
    """
    verdict = judge(summary, seeds, arm, prompt_set)
    words = "; ".join(
        f"{engine_label(j.engine)} {signed(j.delta)} [{signed(j.low)}, {signed(j.high)}]" for j in verdict.judgements
    )
    if len(verdict.judgements) < 2:
        return Condition(NOT_MET, f"{words}; there is one judge only")
    if verdict.outcome == "better" and summary["n_training_seeds"].max() < 2:
        return Condition(NOT_SHOWN, f"{words}; one training seed is a hint")
    reason = f" ({verdict.reason})" if verdict.reason else ""
    return Condition(MET if verdict.outcome == "better" else NOT_MET, words + reason)


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
    """Is the arm ahead of the control at equal wall time, for every engine and every training seed?"""
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
    return Condition(MET if all(view.value < view.control for view in views) else NOT_MET, "; ".join(words))


def gentle_enough(drift: pd.DataFrame | None, arm: str) -> Condition:
    """Do the pictures drift no further than the control's?

    Not, when any measure's interval lies above zero; so, when DSSIM is not above the control's; otherwise it is not
    shown: an interval that holds zero is no proof of equality.
    """
    rows = None if drift is None else drift[drift["arm"] == arm]
    if rows is None or "dssim" not in set(rows["metric"]):
        return Condition(NOT_MEASURED, "no drift of this arm")
    words = "; ".join(
        f"{row.metric} {signed(row.delta_vs_control)} [{signed(row.delta_low)}, {signed(row.delta_high)}]"
        for row in rows.itertuples()
    )
    if (rows["delta_low"] > 0).any():
        return Condition(NOT_MET, words)
    dssim = float(rows[rows["metric"] == "dssim"]["delta_vs_control"].iloc[0])
    return Condition(MET if dssim <= 0 else NOT_SHOWN, words)


def conditions(
    summary: pd.DataFrame,
    seeds: pd.DataFrame,
    drift: pd.DataFrame | None,
    curve: pd.DataFrame | None,
    runs: Mapping[tuple[str, int], dict],
    arm: str,
    prompt_set: str,
) -> tuple[Condition, ...]:
    """The four conditions of `CONDITIONS` for one arm on one prompt set.

    Args:
        summary: rows of summary.csv.
        seeds: rows of seeds.csv.
        drift: rows of drift.csv, where there is one.
        curve: rows of curve.csv, where there is one.
        runs: (arm, training seed) → run.json.
        arm: an arm beside the control.
        prompt_set: which prompts.
    """
    return (
        enough_error(summary, runs, arm, prompt_set),
        sure_enough(summary, seeds, arm, prompt_set),
        fast_enough(curve, arm, prompt_set),
        gentle_enough(drift, arm),
    )


def candidates(arms: Sequence[str], runs: Mapping[tuple[str, int], dict]) -> list[str]:
    """The arms that can reach the aim: those with an auxiliary loss (`runs`: run.json), placebos left out."""
    heard = {arm for (arm, _), run in runs.items() if float(run["training"].get("aux", {}).get("lambda", 0.0)) > 0}
    return [arm for arm in auxiliary_arms(arms) if arm in heard and not is_placebo(arm)]


def closest(found: Mapping[str, tuple[Condition, ...]], error: Mapping[str, float]) -> str:
    """The arm that meets most conditions; of several the one with the lowest `error`."""
    return min(found, key=lambda arm: (-sum(c.state == MET for c in found[arm]), error[arm], arm))
