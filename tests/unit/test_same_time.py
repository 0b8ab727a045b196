"""After the same time of training: between two snapshots by hand, and the table beside the figure of the race."""

import dataclasses
import math

import pandas as pd
import pytest
from make_results import SEEDS, make_results

from legible.config import load
from legible.figures.labels import signed
from legible.metrics.curve import at_time, shared_seconds
from legible.metrics.statistics import seed_interval
from legible.report import results_page
from legible.report.experiment import read_experiment
from legible.report.race import TITLE, after_same_time

KEYS = {"prompt_set": "held_out", "engine": "rapidocr", "training_seed": 0}


def curve_of(**arms: list[tuple[float, float]]) -> pd.DataFrame:
    """(seconds, error rate) of each arm's snapshots, ten steps apart."""
    return pd.DataFrame(
        KEYS | {"arm": arm, "step": 10 * place, "seconds": seconds, "value": value}
        for arm, points in arms.items()
        for place, (seconds, value) in enumerate(points)
    )


def test_between_two_snapshots_the_error_rate_changes_linearly():
    curve = curve_of(
        slow=[(0, 0.4), (8, 0.2), (16, 0.1)], fast=[(0, 0.4), (5, 0.3), (10, 0.2)], short=[(0, 0.4), (4, 0)]
    )
    assert shared_seconds(curve) == 4
    assert shared_seconds(curve[curve["arm"] != "short"]) == 10
    then = at_time(curve.sample(frac=1, random_state=1), 10).set_index("arm")
    assert then.loc["slow", "value"] == pytest.approx(0.2 - 0.1 * 2 / 8)
    assert then.loc["slow", "step"] == pytest.approx(12.5)
    assert tuple(then.loc["fast", ["value", "step"]]) == (0.2, 20)
    assert then.loc["short", ["value", "step"]].isna().all()  # it had ended by then
    assert at_time(curve, 0)["value"].tolist() == [0.4] * 3


@pytest.mark.slow
def test_the_page_of_a_race_has_the_table_and_no_other(tmp_path):
    folder = make_results(tmp_path / "main")
    experiment = read_experiment(folder, load(folder / "config.yaml"))
    assert TITLE not in results_page.build([experiment])
    (folder / "figures").mkdir(exist_ok=True)
    (folder / "figures" / "race.png").touch()
    page = results_page.build([experiment])
    assert page.count(f"### {TITLE}") == 1
    # An arm twice as fast as the control, which is the first to end.
    quick = experiment.curve.assign(seconds=experiment.curve["step"].astype(float))
    quick.loc[quick["arm"] == "clip_region", "seconds"] /= 2
    experiment = dataclasses.replace(experiment, curve=quick)
    words, rows = after_same_time(experiment, "held_out")
    end = quick["step"].max()
    assert f"after {end / 2:.0f} seconds" in words
    then = at_time(quick, end / 2).set_index(["arm", "engine", "training_seed"])["value"]
    by_arm = {row[0]: row for row in rows}
    assert by_arm["clip_region"][1] == f"{end:.0f}"
    assert by_arm["diffusion_only (control, λ = 0)"][1] == f"{end / 2:.0f}"
    assert by_arm["diffusion_only (control, λ = 0)"][5] == "–<br>–"
    for place, engine in enumerate(sorted(set(quick["engine"]))):
        mine, control = ([then[arm, engine, seed] for seed in SEEDS] for arm in ("clip_region", "diffusion_only"))
        deltas = [one - other for one, other in zip(mine, control, strict=True)]
        low, high = seed_interval(deltas, 0.95)
        mean = math.fsum(deltas) / len(deltas)
        assert by_arm["clip_region"][5].split("<br>")[place] == f"{signed(mean)} [{signed(low)}, {signed(high)}]"
        assert by_arm["clip_region"][3].split("<br>")[place] == f"{math.fsum(mine) / len(mine):.3f}"
    errors = [float(row[3].split("<br>")[0]) + float(row[3].split("<br>")[1]) for row in rows]
    assert errors == sorted(errors)
