"""The table of rewards and the guards, by hand."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from legible.config import Scoring
from legible.errors import UserError
from legible.metrics.guards import broken_guards, guard_table, most_repeated
from legible.metrics.rewards import reward_table
from legible.report.rewards import guard_states, reward_rows
from legible.report.verdict import Verdict, guarded

SCORING = Scoring(resamples=200)
PROMPTS, IMAGE_SEEDS = ("a", "b", "c", "d"), (0, 1)
KEPT = {"colour_entropy": 4.0, "edge_density": 0.2, "distance_to_others": 0.5}


def pictures(gains: dict[str, float], seeds: tuple[int, ...] = (0, 1)) -> pd.DataFrame:
    """Arm → what every picture scores above the base's."""
    rows = []
    for arm, gain in {"base": 0.0, **gains}.items():
        for seed, (place, prompt), image in product((None,) if arm == "base" else seeds, enumerate(PROMPTS), (0, 1)):
            own = {"arm": arm, "training_seed": seed, "prompt_set": "held_out", "prompt_id": prompt}
            scores = {"reading": -4.0 + place + 0.1 * image + gain, "caption": 0.3 - gain / 10}
            rows.append(own | {"image_seed": image} | scores | KEPT)
    return pd.DataFrame(rows).astype({"training_seed": "Int64"})


def test_values_differences_and_win_rates():
    table = reward_table(
        pictures({"diffusion_only": 0.5, "text_only": 0.25, "own": 1.0}),
        {"text_only": "diffusion_only", "own": "text_only"},
        SCORING,
    )
    rows = table.set_index(["arm", "metric"])
    assert rows.loc[("base", "reading"), "value"] == pytest.approx(-2.45)
    own = rows.loc[("own", "reading")]
    assert own["value"] == pytest.approx(-1.45)
    assert own["control"] == "text_only"
    assert own[["delta_vs_control", "delta_low", "delta_high"]].tolist() == pytest.approx([0.75] * 3)
    assert own["win_rate"] == own["win_low"] == 1
    assert rows.loc[("own", "caption"), "win_rate"] == 0
    assert rows.loc[("own", "edge_density"), "win_rate"] == 0.5  # ties count half
    assert own["n_prompts"], own["n_images"] == (4, 16)
    assert np.isnan(rows.loc[("diffusion_only", "reading"), "delta_vs_control"])
    assert np.isnan(rows.loc[("base", "reading"), "win_rate"])
    assert own["ci_low"] < own["value"] < own["ci_high"]


def test_an_arm_without_the_bases_pictures_is_refused():
    table = pictures({"diffusion_only": 0.5})
    with pytest.raises(UserError, match="diffusion_only: the pictures of the same prompts"):
        reward_table(table[:-1], {}, SCORING)
    with pytest.raises(UserError, match="absent: the pictures"):
        reward_table(table, {"absent": "diffusion_only"}, SCORING)


def readings(arm: str, texts: list[str], target: str = "OPEN") -> pd.DataFrame:
    return pd.DataFrame({"arm": arm, "prompt_set": "held_out", "engine": "e", "target": target, "reading": texts})


def test_the_most_repeated_wrong_string():
    assert most_repeated(readings("x", ["OPEN"] * 9 + ["OPN"])) == pytest.approx(0.1)
    assert most_repeated(readings("x", ["OPEN"] * 10)) == 0
    assert most_repeated(readings("x", ["", "", "AB", "AB"])) == pytest.approx(0.5)


def guards_of(change: dict[str, float], trained: list[str], texts: list[str], drift: float = 1.0) -> pd.DataFrame:
    """The guards of an arm whose pictures differ from the base's by factors (or, of a reward, by a difference)."""
    table = pictures({"diffusion_only": 0.0, "own": 0.0})
    mine = table["arm"] == "own"
    for metric, value in change.items():
        table.loc[mine, metric] = table.loc[mine, metric] * value if metric in KEPT else table.loc[mine, metric] + value
    rewards = reward_table(table, {"own": "diffusion_only"}, SCORING)
    moved = pd.DataFrame({"arm": ["diffusion_only", "own"], "metric": "dssim", "value": [0.1, 0.1 * drift]})
    found = guard_table(rewards, readings("own", texts), moved, {"own": trained})
    return found[found["arm"] == "own"]


@pytest.mark.parametrize(
    ("change", "texts", "drift", "broken"),
    [
        ({}, ["OPEN"], 1.0, set()),
        ({"reading": 1.0}, ["OPEN"], 1.4, set()),
        ({}, ["OPEN"], 1.6, {"drift"}),
        ({"colour_entropy": 0.79}, ["OPEN"], 1.0, {"colour_entropy"}),
        ({"edge_density": 0.79, "distance_to_others": 0.81}, ["OPEN"], 1.0, {"edge_density"}),
        ({"distance_to_others": 0.5}, ["OPEN"], 1.0, {"distance_to_others"}),
        ({}, ["OPEN"] * 18 + ["AB", "AB"], 1.0, {"one_string"}),
        ({}, ["OPEN"] * 18 + ["AB", "CD"], 1.0, set()),
    ],
)
def test_each_guard_by_itself(change, texts, drift, broken):
    found = guards_of(change, ["reading"], texts, drift)
    assert set(found[found["broken"]]["guard"]) == broken


@pytest.mark.parametrize(("fallen", "broken"), [(1, False), (2, True)])
def test_other_rewards_must_not_fall_while_the_trained_one_rises(fallen, broken, monkeypatch):
    table = pictures({"diffusion_only": 0.0, "own": 0.0}).assign(pickscore=20.0)
    mine = table["arm"] == "own"
    table.loc[mine, "reading"] += 1.0
    for metric in ("caption", "pickscore")[:fallen]:
        table.loc[mine, metric] -= 0.1
    rewards = reward_table(table, {"own": "diffusion_only"}, SCORING)
    found = guard_table(rewards, readings("own", ["OPEN"]), None, {"own": ["reading"]}).set_index(["arm", "guard"])
    row = found.loc[("own", "held_out_rewards")]
    assert (row["value"], row["broken"]) == (fallen, broken)
    assert ("diffusion_only", "held_out_rewards") not in found.index  # it was trained by none


def test_a_broken_guard_takes_a_gain_back_and_nothing_else():
    guards = guards_of({"edge_density": 0.5}, ["reading"], ["OPEN"])
    words = broken_guards(guards, "own", "held_out")
    assert words == ["pictures have lost edges (0.5, limit 0.8)"]
    assert broken_guards(guards, "own", "other") == broken_guards(None, "own", "held_out") == []
    better = Verdict("own", "held_out", "diffusion_only", "better", "", ())
    taken = guarded(better, words)
    assert (taken.outcome, taken.reason) == ("not shown", "the gain is void: pictures have lost edges (0.5, limit 0.8)")
    assert guarded(better, []) is better
    worse = Verdict("own", "held_out", "diffusion_only", "worse", "", ())
    assert guarded(worse, words) is worse


def test_the_tables_of_the_pages():
    rewards = reward_table(pictures({"diffusion_only": 0.0, "own": 1.0}), {"own": "diffusion_only"}, SCORING)
    header, rows = reward_rows(rewards, "held_out")
    assert header[1:3] == ["reading ↑", "caption ↑"]
    assert rows[0][1].startswith("-2.450 (")
    assert rows[-1][1].endswith("; 100%")
    header, rows = guard_states(guards_of({"edge_density": 0.5}, ["reading"], ["OPEN"]), "held_out")
    assert "edge_density (limit 0.8)" in header
    assert "0.50 BROKEN" in rows[0]
