"""Guards: what voids a gain in legibility, because it was bought with something else."""

from collections.abc import Mapping, Sequence

import pandas as pd

from legible.names import BASE, CONTROL

DRIFT_LIMIT = 1.5  # × the control's distance to the base's pictures
KEPT_LIMIT = 0.8  # × the base's
REPEAT_LIMIT = 0.05  # of an arm's pictures may read the same
KEPT = ("distance_to_others", "colour_entropy", "edge_density")
FALLEN = 2  # held-out rewards that fall while a trained one rises


def guard_table(
    rewards: pd.DataFrame, scores: pd.DataFrame, drift: pd.DataFrame | None, trained: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """The rows of guards.csv: arm, prompt_set, guard, `value`, `limit`, and whether it is `broken`.

    Args:
        rewards: rows of rewards.csv.
        scores: rows of scores.parquet.
        drift: rows of drift.csv; None where it was not measured.
        trained: arm → the rewards that it was trained by.
    """
    rows = []
    for prompt_set, part in rewards.groupby("prompt_set", sort=True):
        table = part.set_index(["arm", "metric"])
        read = scores[scores["prompt_set"] == prompt_set]
        for arm in (arm for arm in dict.fromkeys(part["arm"]) if arm != BASE):
            control = table.loc[(arm, KEPT[0]), "control"]
            found = [] if drift is None or arm == CONTROL else [drift_guard(drift, arm, control)]
            for metric in KEPT:
                share = table.loc[(arm, metric), "value"] / table.loc[(BASE, metric), "value"]
                found.append((metric, share, KEPT_LIMIT, share < KEPT_LIMIT))
            share = most_repeated(read[read["arm"] == arm])
            found.append(("one_string", share, REPEAT_LIMIT, share > REPEAT_LIMIT))
            if trained.get(arm):
                found.append(held_out_guard(part[part["arm"] == arm], trained[arm]))
            rows += [{"arm": arm, "prompt_set": prompt_set} | named(*guard) for guard in found]
    return pd.DataFrame(rows, columns=["arm", "prompt_set", "guard", "value", "limit", "broken"])


def named(guard: str, value: float, limit: float, broken: bool) -> dict:
    """One guard's columns."""
    return {"guard": guard, "value": float(value), "limit": limit, "broken": bool(broken)}


def drift_guard(drift: pd.DataFrame, arm: str, control: str) -> tuple[str, float, float, bool]:
    """How far the pictures without text have moved, in units of the control's way."""
    moved = drift[drift["metric"] == "dssim"].set_index("arm")["value"]
    share = moved[arm] / moved[control] if moved[control] else float("inf")
    return ("drift", share, DRIFT_LIMIT, share > DRIFT_LIMIT)


def most_repeated(scores: pd.DataFrame) -> float:
    """The largest share of an arm's pictures in which one engine reads the same, not empty, beyond what was asked for.

    Pictures in which that string is the target do not count.
    """
    wrong = scores[(scores["reading"] != "") & (scores["reading"] != scores["target"])]
    shares = [
        own["reading"].value_counts().max() / (scores["engine"] == engine).sum()
        for engine, own in wrong.groupby("engine")
    ]
    return max(shares, default=0.0)


def held_out_guard(rewards: pd.DataFrame, trained: Sequence[str]) -> tuple[str, float, float, bool]:
    """How many of the rewards that an arm was not trained by fall against the control while a trained one rises."""
    rows = rewards[~rewards["metric"].isin(KEPT)].set_index("metric")
    own = [name for name in rows.index if is_of(name, trained)]
    risen = any(rows.loc[name, "delta_low"] > 0 for name in own)
    fallen = sum(rows.loc[name, "delta_high"] < 0 for name in rows.index if name not in own) if risen else 0
    return ("held_out_rewards", fallen, FALLEN, fallen >= FALLEN)


def is_of(metric: str, trained: Sequence[str]) -> bool:
    """Whether a metric is a trained reward's own; `likelihood` is part of `reading`."""
    return metric in trained or (metric == "likelihood" and "reading" in trained)


def broken_guards(guards: pd.DataFrame | None, arm: str, prompt_set: str) -> list[str]:
    """The guards that void what an arm gains on a prompt set, in words."""
    if guards is None:
        return []
    rows = guards[(guards["arm"] == arm) & (guards["prompt_set"] == prompt_set) & guards["broken"]]
    return [f"{WORDS[row.guard]} ({row.value:.2g}, limit {row.limit:.2g})" for row in rows.itertuples()]


def more_malformed(malformed: pd.DataFrame | None, arm: str, prompt_set: str) -> list[str]:
    """That an arm's pictures hold more malformed letters than its control's, in words; empty where this is not shown.

    Args:
        malformed: rows of malformed.csv; None where no glyph judge looked.
    """
    if malformed is None:
        return []
    rows = malformed[(malformed["arm"] == arm) & (malformed["prompt_set"] == prompt_set) & (malformed["delta_low"] > 0)]
    return [
        f"more of its pictures hold a malformed letter than of {row.control}'s "
        f"({row.delta_vs_control:+.3f} [{row.delta_low:+.3f}, {row.delta_high:+.3f}])"
        for row in rows.itertuples()
    ]


WORDS = {
    "drift": "pictures without text moved further than the control's allow",
    "distance_to_others": "pictures of different prompts have become alike",
    "colour_entropy": "pictures have lost colours",
    "edge_density": "pictures have lost edges",
    "one_string": "one wrong string is read in too many pictures",
    "held_out_rewards": "rewards that it was not trained by have fallen",
}
