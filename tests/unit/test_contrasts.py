"""Arm against arm: the numbers are those of the tables, seen from the other arm, and the pages show them on request."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from make_results import RATES, SEEDS, make_results

from legible.config import Config, load
from legible.errors import UserError
from legible.figures.labels import engine_label
from legible.metrics.compare import claims
from legible.metrics.statistics import holm
from legible.metrics.summary import by_training_seed, summarise
from legible.report import contrasts, report_page, results_page
from legible.report.contrasts import Contrast, contrast_rows, contrasts_of, judgements, sentences
from legible.report.experiment import Experiment, read_experiment
from legible.report.words import p_text

pytestmark = pytest.mark.slow  # whole pages and bootstraps

PAIRS = (("clip_region", "diffusion_only"), ("ctc", "clip_region"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    rates = RATES | {"ctc": 0.02}
    return make_results(tmp_path_factory.mktemp("results") / "main", rates)


@pytest.fixture(scope="module")
def experiment(folder) -> Experiment:
    found = read_experiment(folder, load(folder / "config.yaml"))
    return dataclasses.replace(found, config=found.config.model_copy(update={"contrasts": PAIRS}))


@pytest.fixture(scope="module")
def found(experiment) -> list[Contrast]:
    return contrasts_of([experiment])[experiment.name]["held_out"]


def test_against_the_control_the_numbers_are_those_of_the_tables(experiment):
    rows = claims(summarise(experiment.scores, experiment.config.scoring)).set_index(["arm", "engine"])
    seeds = claims(by_training_seed(experiment.scores))
    for view in judgements(experiment, "held_out", *PAIRS[0]):
        row = rows.loc[("clip_region", view.engine)]
        expected = row[["value", "delta_vs_control", "two_way_low", "two_way_high", "p_value"]]
        assert (view.value, view.delta, view.low, view.high, view.p_holm) == pytest.approx(tuple(expected))
        assert view.control == pytest.approx(rows.loc[("diffusion_only", view.engine), "value"])
        own = seeds[(seeds["arm"] == "clip_region") & (seeds["engine"] == view.engine)].sort_values("training_seed")
        assert view.seed_deltas == pytest.approx(own["delta_vs_control"].tolist())
        assert len(view.seed_deltas) == len(SEEDS)


def test_the_other_way_round_everything_has_the_other_sign(experiment):
    views = zip(
        judgements(experiment, "held_out", "ctc", "clip_region"),
        judgements(experiment, "held_out", "clip_region", "ctc"),
        strict=True,
    )
    for one, other in views:
        assert (one.value, one.control) == (other.control, other.value)
        assert (one.delta, one.low, one.high) == pytest.approx((-other.delta, -other.high, -other.low))
        assert one.p_holm == other.p_holm
        assert one.seed_deltas == pytest.approx([-delta for delta in other.seed_deltas])


def test_errors_are_counted_by_hand(experiment):
    scores = experiment.scores
    for view in judgements(experiment, "held_out", "ctc", "clip_region"):
        rows = scores[scores["engine"] == view.engine]
        rates = {}
        for arm in ("ctc", "clip_region"):
            own = rows[rows["arm"] == arm]
            errors = own[["substitutions", "deletions", "insertions"]].to_numpy().sum()
            rates[arm] = errors / own["reference_length"].sum()
        assert view.delta == pytest.approx(rates["ctc"] - rates["clip_region"])
        assert view.delta < 0


def test_p_values_are_corrected_over_all_comparisons_and_judges(experiment, found):
    raw = [view.p_holm for pair in PAIRS for view in judgements(experiment, "held_out", *pair)]
    assert [view.p_holm for contrast in found for view in contrast.verdict.judgements] == pytest.approx(holm(raw))
    twice = contrasts_of([experiment, dataclasses.replace(experiment, name="again")])
    corrected = [view.p_holm for c in twice["again"]["held_out"] for view in c.verdict.judgements]
    assert corrected == pytest.approx(holm(raw + raw)[len(raw) :])


def test_seconds_drift_and_void_gains_stand_beside(experiment, found):
    wall = [run["wall_seconds"] for (arm, _), run in experiment.runs.items() if arm == "ctc"]
    assert found[1].seconds[0] == pytest.approx(sum(wall) / len(wall))
    moved = experiment.drift[experiment.drift["metric"] == "dssim"].set_index("arm")["value"]
    assert found[1].drift == (moved["ctc"], moved["clip_region"])
    assert not any(contrast.void for contrast in found)
    guard = {"arm": "ctc", "prompt_set": "held_out", "guard": "drift", "value": 2.0, "limit": 1.5, "broken": True}
    guarded = dataclasses.replace(experiment, guards=pd.DataFrame([guard]))
    void = contrasts_of([guarded])[experiment.name]["held_out"]
    assert [contrast.void for contrast in void] == [(), ("ctc",)]
    assert sentences(void, 0.95)[1].endswith("Against their own controls void: ctc.")
    alone = contrasts_of([dataclasses.replace(experiment, drift=None)])[experiment.name]["held_out"]
    assert {row[-1] for row in contrast_rows(alone)} == {"–"}


def test_an_arm_that_goes_on_from_another_has_taken_the_seconds_of_both(experiment):
    arms = experiment.config.arms | {"ctc": {"start": "clip_region", "aux": {"loss": "ctc", "lambda": 1.0}}}
    going_on = dataclasses.replace(experiment, config=experiment.config.model_copy(update={"arms": arms}))
    apart = [contrasts.seconds_of(experiment, arm) for arm in ("ctc", "clip_region")]
    assert contrasts.seconds_of(going_on, "ctc") == pytest.approx(sum(apart))


def test_the_pages_show_them_where_they_are_asked_for(experiment, found):
    page = results_page.build([experiment])
    plain = dataclasses.replace(experiment, config=experiment.config.model_copy(update={"contrasts": ()}))
    html = report_page.build(experiment, "", [])
    for view in found[1].verdict.judgements:
        assert f"| ctc | clip_region | {engine_label(view.engine)} | {view.value:.3f} " in page
        assert f" {p_text(view.p_holm)} |" in page
    assert page.count("- ctc against clip_region: ") == html.count("<li>ctc against clip_region: ") == 1
    assert "Arm against arm" not in results_page.build([plain])
    assert "Arm against arm" not in report_page.build(plain, "", [])


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (
            ["ctc", "nobody"],
            "contrasts, entry 1: no arm is called 'nobody'; there are diffusion_only, clip_region, ctc",
        ),
        (["ctc", "ctc"], "contrasts, entry 1: 'ctc' is compared with itself; name two arms"),
    ],
)
def test_a_pair_names_two_arms(tmp_path, pair, message):
    (tmp_path / "config.yaml").write_text(f"contrasts: [[{', '.join(pair)}]]\n")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "config.yaml")
    assert Config(contrasts=[["ctc", "clip_region"]]).contrasts == (("ctc", "clip_region"),)
