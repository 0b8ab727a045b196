"""The results page: its numbers are the tables', its four conditions follow them, and equal input is equal bytes."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from make_results import RATES, SEEDS, make_results, trained_arms

from legible.config import Config, Training, load
from legible.errors import UserError
from legible.figures import inputs
from legible.figures.labels import engine_label
from legible.metrics.compare import claims
from legible.metrics.statistics import seed_interval
from legible.names import Run
from legible.report import aim, copies
from legible.report.card import scores
from legible.report.describe import LOSSES, describe_arm, describe_aux
from legible.report.experiment import Experiment, corrected, read_experiment
from legible.report.results_page import RESULT_COLUMNS, build, overall
from legible.report.words import p_text

pytestmark = pytest.mark.slow  # whole pages, figures and bootstraps

ROOT = Path(__file__).resolve().parents[2]
TIMES = 3  # prompts a word: three seeds show nothing on few prompts
CLEAR = RATES | {"base": 0.5, "diffusion_only": 0.45}
SPELLING = CLEAR | {"ctc": 0.03, "ctc_shuffled": 0.46}
ARMS = trained_arms(SPELLING)
TOLERANCE = 5.1e-4  # three decimals, and a half in binary
COMMAND = "snakemake --cores all --configfile configs/evidence.yaml"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = make_results(tmp_path_factory.mktemp("results") / "main", SPELLING, pictures=False, times=TIMES)
    (folder / "figures").mkdir()
    for name in ("delta_to_control", "learning_curves", "training_curves"):
        (folder / "figures" / f"{name}.png").write_bytes(name.encode())
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A regime without drift, curve, gradients and figures."""
    return make_results(
        tmp_path_factory.mktemp("results") / "bare", SPELLING, pictures=False, evidence=False, times=TIMES
    )


@pytest.fixture(scope="module")
def page(results, bare) -> str:
    return build([read(results, "Main"), read(bare, "Bare")], COMMAND)


@cache
def read(results: Path, title: str = "") -> Experiment:
    """The experiment, which no test may change."""
    return read_experiment(results, load(results / "config.yaml"), title)


def tables(page: str) -> dict[str, list[list[str]]]:
    """First cell of the header → the rows of the first table that starts with it."""
    found: dict[str, list[list[str]]] = {}
    for block in page.split("\n\n"):
        if block.startswith("| "):
            header, _, *rows = [line.strip("| ").split(" | ") for line in block.splitlines()]
            found.setdefault(header[0], [header, *rows])
    return found


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"[+-]?\d+\.\d+", text.replace("−", "-"))]


def of_all(results: Path, metric: str = "cer_micro") -> pd.DataFrame:
    summary = inputs.read_summary(results, ARMS)
    rows = summary[(summary["stratum"] == "all") & (summary["metric"] == metric)]
    return rows.set_index(["arm", "engine"]).sort_index()


def script(output: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "scripts/write_results.py", "--output", str(output), "--results", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)})


def test_the_table_holds_the_numbers_of_the_files(results, bare, page):
    header, *rows = tables(page)["Pictures of"]
    assert header == list(RESULT_COLUMNS)
    cer, extra = (of_all(results, metric) for metric in ("cer_micro", "extra_text_rate"))
    corrected_p = {
        (row["arm"], row["engine"], name): row[name]
        for _, row in claims(corrected([read(results), read(bare)])[0].summary).iterrows()
        for name in ("p_holm", "base_p_holm")
    }
    seeds = inputs.read_seeds(results)
    seeds = seeds[(seeds["stratum"] == "all") & (seeds["metric"] == "cer_micro")]
    drift = inputs.read_drift(results)
    drift = drift[drift["metric"] == "dssim"].set_index("arm")
    found = {row[0]: [cell.split("<br>") for cell in row[1:]] for row in rows}
    names = {
        "`ctc`": "ctc",
        "`clip_region`": "clip_region",
        "`ctc_shuffled`, placebo (shuffled targets)": "ctc_shuffled",
    }
    for name, arm in names.items():
        cells = found[name]
        for i, engine in enumerate(("easyocr", "rapidocr")):
            row = cer.loc[(arm, engine)]
            assert cells[0][i] == engine_label(engine)
            assert numbers(cells[1][i]) == pytest.approx(row[["value", "ci_low", "ci_high"]].tolist(), abs=TOLERANCE)
            delta = row[["delta_vs_control", "two_way_low", "two_way_high"]].tolist()
            assert numbers(cells[2][i]) == pytest.approx(delta, abs=TOLERANCE)
            bounds = ["relative_two_way_low", "relative_two_way_high"]
            relative = 100 * row[["relative_delta", *bounds]].astype(float)
            assert numbers(cells[3][i]) == pytest.approx(relative.tolist(), abs=0.05)
            own = seeds[(seeds["arm"] == arm) & (seeds["engine"] == engine)]
            alone = seed_interval(own["delta_vs_control"].tolist(), 0.95)
            assert numbers(cells[4][i]) == pytest.approx(alone, abs=TOLERANCE)
            assert cells[5][i] == p_text(corrected_p[arm, engine, "p_holm"])
            to_base = row["value"] / cer.loc[("base", engine), "value"] - 1
            expected = [100 * to_base, *(100 * row[f"base_{bound}"] for bound in bounds)]
            assert numbers(cells[6][i]) == pytest.approx(expected, abs=0.06)
            alone = seed_interval((own["value"] - cer.loc[("base", engine), "value"]).tolist(), 0.95)
            assert numbers(cells[7][i]) == pytest.approx(alone, abs=TOLERANCE)
            assert cells[8][i] == p_text(corrected_p[arm, engine, "base_p_holm"])
            assert numbers(cells[9][i]) == pytest.approx([extra.loc[(arm, engine), "value"]], abs=TOLERANCE)
            assert numbers(cells[10][i]) == pytest.approx(own["delta_vs_control"].tolist(), abs=TOLERANCE)
        moved = drift.loc[arm, ["delta_vs_control", "delta_low", "delta_high"]].tolist()
        assert numbers(cells[11][0]) == pytest.approx(moved, abs=TOLERANCE)
        seconds = {"ctc": 0.9, "clip_region": 0.825, "ctc_shuffled": 0.975}[arm]
        assert cells[12] == [f"{seconds:.3g} ({seconds / 0.75:.2f} ×)"]
        metrics = pd.concat(inputs.read_metrics(results, [arm], SEEDS).values()).astype(float)
        ratio = metrics["lambda"] * metrics["grad_norm_aux"] / metrics["grad_norm_diffusion"]
        assert cells[13] == [f"{ratio.median():.2g} ({ratio.min():.2g} to {ratio.max():.2g})"]
        assert cells[14] == [f"{(metrics['grad_norm'] > 1).mean():.0%}"]
    assert found["base (not fine-tuned)"][12:] == [["–"], ["–"], ["–"]]
    assert found["diffusion_only (control, λ = 0)"][13] == ["–"]


def test_arms_stand_by_their_error_between_control_and_ceilings(results, page):
    first = [row[0] for row in tables(page)["Pictures of"][1:]]
    error = of_all(results)["value"].groupby(level="arm").mean()
    ranked = sorted(ARMS[1:], key=lambda arm: error[arm])
    assert [name.split("`")[1] for name in first[2:-2]] == ranked
    assert (first[0], first[1]) == ("base (not fine-tuned)", "diffusion_only (control, λ = 0)")
    assert first[-2:] == ["our own renders", "our renders after the VAE"]


def test_the_strata_are_those_of_the_best_arm(results, page):
    header, *rows = tables(page)["Stratum"]
    assert header[3:5] == ["control (`diffusion_only`)", "`ctc`"]
    summary = inputs.read_summary(results, ARMS)
    own = summary[summary["metric"] == "cer_micro"].set_index(["stratum", "arm", "engine"])
    assert {row[0] for row in rows} == set(summary["stratum"]) - {"all"}
    lengths = [int(row[0].removeprefix("length=")) for row in rows if row[0].startswith("length=")]
    assert lengths == sorted(lengths)
    for stratum, prompts, _, control, best, delta, _ in rows:
        for i, engine in enumerate(("easyocr", "rapidocr")):
            row = own.loc[(stratum, "ctc", engine)]
            assert int(prompts) == row["n_prompts"]
            assert numbers(best.split("<br>")[i])[0] == pytest.approx(row["value"], abs=TOLERANCE)
            assert numbers(delta.split("<br>")[i])[0] == pytest.approx(row["delta_vs_control"], abs=TOLERANCE)
            reference = own.loc[(stratum, "diffusion_only", engine), "value"]
            assert numbers(control.split("<br>")[i])[0] == pytest.approx(reference, abs=TOLERANCE)


def test_what_comes_from_data_or_configuration_is_no_markup(results):
    experiment = read(results, "Main")
    summary = experiment.summary.copy()
    summary["stratum"] = summary["stratum"].replace("kind=word", "kind=<script>x</script>|y & z")
    runs = {
        key: run | {"machine": "<b>chip", "training": run["training"] | {"start": "<i>a"}}
        for key, run in experiment.runs.items()
    }
    page = build([dataclasses.replace(experiment, summary=summary, runs=runs, title="<script>t")], COMMAND)
    shown = set(re.findall("<[^0>][^>]*>", page))  # a p-value may be <0.0001
    assert shown <= {"<br>", re.search("<!--.*-->", page)[0]}
    assert "| kind=&lt;script&gt;x&lt;/script&gt;\\|y &amp; z |" in page
    assert "## &lt;script&gt;t\n" in page
    assert "![&lt;script&gt;t: " in page
    assert "Trained on &lt;b&gt;chip." in page


def test_the_first_sentence_and_the_conditions_follow_the_numbers(page):
    start = page.split("\n\n")[2]
    assert start.startswith("**Not shown**: no arm meets all conditions")
    rows = {row[0]: row for row in tables(page)["Regime"][1:]}
    states = [cell.split("**")[1] for cell in rows["Main"][2:]]
    assert rows["Main"][1] == "`ctc`"
    assert states == ["met", "met", "met", "met", "not measured", "not measured", "not met"]
    assert [cell.split("**")[1] for cell in rows["Bare"][2:]] == [
        *("met", "met", "met"),
        *4 * ["not measured"],
    ]
    assert "- Bare: **not shown**; `ctc` comes closest (3 of 6; ahead at equal time: not measured" in page
    assert "against diffusion_only" in rows["Main"][2]
    assert all(f"{engine} −" in rows["Main"][3] for engine in ("EasyOCR", "RapidOCR"))
    assert "removes half" not in page
    assert "The criterion is the same in every regime" in page


def with_letters_and_attributes(experiment, letters=(0.0, -0.01, 0.01), attributes=(0.0, -0.01, 0.01)):
    """The experiment with both measured for ctc: differences with their intervals."""
    malformed = {"arm": "ctc", "prompt_set": "held_out", "value": 0.1, "ci_low": 0.0, "ci_high": 0.2}
    malformed |= dict(zip(("delta_vs_control", "delta_low", "delta_high"), letters, strict=True))
    right = {"arm": "ctc", "attribute": "share", "value": 0.9, "ci_low": 0.8, "ci_high": 1.0}
    right |= dict(zip(("delta_vs_base", "base_low", "base_high"), attributes, strict=True))
    tables_of = {
        "malformed": pd.DataFrame([malformed | {"control": "diffusion_only"}]),
        "attributes": pd.DataFrame([right]),
    }
    return dataclasses.replace(experiment, **tables_of)


@pytest.mark.parametrize(
    ("letters", "attributes", "states"),
    [
        ((0.0, -0.01, 0.02), (0.0, -0.02, 0.01), (aim.MET, aim.MET)),
        ((0.0, -0.01, 0.021), (0.0, -0.021, 0.01), (aim.NOT_SHOWN, aim.NOT_SHOWN)),
        ((0.01, 0.001, 0.02), (-0.04, -0.06, -0.021), (aim.NOT_MET, aim.NOT_MET)),
    ],
)
def test_no_worse_means_the_whole_interval(results, letters, attributes, states):
    found = with_letters_and_attributes(read(results), letters, attributes)
    assert aim.formed_enough(found.malformed, "ctc", "held_out").state == states[0]
    assert aim.attributes_kept(found.attributes, "ctc").state == states[1]
    assert aim.formed_enough(found.malformed, "other", "held_out").state == aim.NOT_MEASURED
    assert aim.attributes_kept(None, "ctc").state == aim.NOT_MEASURED


def test_thirty_percent_against_the_base_are_met_by_the_whole_interval_only(results):
    mine = {"base_relative_two_way_low": -0.4, "base_relative_two_way_high": -0.31}
    both = read(results).summary.assign(**mine)
    assert aim.enough_against_base(both, "ctc", "held_out").state == aim.MET
    wide = both.assign(base_relative_two_way_high=-0.29)
    assert aim.enough_against_base(wide, "ctc", "held_out").state == aim.NOT_SHOWN
    less = wide.assign(base_relative_two_way_low=-0.295)
    assert aim.enough_against_base(less, "ctc", "held_out").state == aim.NOT_MET


def test_the_answer_is_yes_only_where_everything_is_met_in_every_regime(results, tmp_path):
    folder = shutil.copytree(results, tmp_path / "kind")
    drift = pd.read_csv(folder / "scores" / "drift.csv")
    drift.loc[drift["arm"] == "ctc", ["delta_vs_control", "delta_low", "delta_high"]] = [-0.01, -0.02, -0.001]
    drift.to_csv(folder / "scores" / "drift.csv", index=False)
    spoilt, good = read(folder, "Kind"), with_letters_and_attributes(read(folder, "Kind"))
    assert "**Yes**" not in build([spoilt])  # nobody looked at letters and other pictures
    for worse in (
        {"letters": (0.01, 0.001, 0.02)},
        {"letters": (0.0, -0.03, 0.03)},
        {"attributes": (-0.01, -0.03, 0.0)},
    ):
        assert "**Yes**" not in build([with_letters_and_attributes(spoilt, **worse)])
    kind = build([good])
    assert "**Yes**: in the regime Kind at least one arm meets all conditions" in kind
    two = build([read(results, "Main"), good])
    assert "**Yes**" not in two
    assert "**Not in every regime**: an arm meets all conditions of the aim in 1 of 2 regimes (Kind), and none" in two
    assert "- Kind: **met** by `ctc`." in two
    assert overall(2, ["a", "b"], []).startswith("**Yes**: in every regime")
    assert overall(2, [], ["a"]).startswith("**No**")
    assert overall(2, [], []).startswith("**Not shown**")


def drift_of(results: Path, delta: float, low: float, high: float, control: str = "diffusion_only", differs: str = ""):
    drift = read(results).drift.copy()
    own = drift["arm"] == "ctc"
    drift.loc[own, ["delta_vs_control", "delta_low", "delta_high"]] = [delta, low, high]
    drift.loc[own, ["control", "control_differs"]] = [control, differs]
    return drift


@pytest.mark.parametrize(
    ("numbers", "state"),
    [
        ((0.01, -0.01, 0.03), aim.NOT_SHOWN),
        ((0.01, 0.005, 0.03), aim.NOT_MET),
        ((-0.01, -0.02, 0.01), aim.NOT_SHOWN),  # less by its value alone
        ((-0.01, -0.02, -0.001), aim.MET),
        ((0.0, 0.0, 0.0), aim.MET),
        ((float("nan"),) * 3, aim.NOT_SHOWN),
    ],
)
def test_drift_within_the_interval_is_no_proof(results, numbers, state):
    assert aim.gentle_enough(drift_of(results, *numbers), "ctc").state == state


def test_drift_is_measured_against_the_matched_control_which_is_named(results):
    drift = drift_of(results, -0.01, -0.02, -0.001, control="anchor_only")
    assert aim.gentle_enough(drift, "ctc").words.endswith("against anchor_only")
    drift.loc[(drift["arm"] == "ctc") & (drift["metric"] == "kid"), "delta_low"] = 0.001
    assert aim.gentle_enough(drift, "ctc").state == aim.NOT_MET
    assert aim.gentle_enough(drift, "other").state == aim.NOT_MEASURED
    unmatched = aim.gentle_enough(drift_of(results, -0.01, -0.02, -0.001, differs="anchor"), "ctc")
    assert unmatched.state == aim.NOT_SHOWN
    assert unmatched.words.endswith("against diffusion_only, no matched control (it differs in anchor, too)")
    unknown = aim.gentle_enough(drift_of(results, *[float("nan")] * 3, control="anchor_only"), "ctc")
    assert "not shown against the matched control anchor_only" in unknown.words


def curve_of(rows: list[tuple]) -> pd.DataFrame:
    columns = ["arm", "training_seed", "step", "seconds", "engine", "prompt_set", "value"]
    table = pd.DataFrame([(*row[:4], "rapidocr", "held_out", row[4]) for row in rows], columns=columns)
    return table.assign(clock="processor seconds, measured alone")


def test_equal_time_takes_the_last_step_that_the_control_had_time_for():
    control = [("diffusion_only", 0, 0, 0.0, 0.5), ("diffusion_only", 0, 100, 50.0, 0.4)]
    slow = [("slow", 0, 0, 0.0, 0.5), ("slow", 0, 50, 49.0, 0.45), ("slow", 0, 100, 98.0, 0.1)]
    exact = [("exact", 0, 50, 50.0, 0.3), ("exact", 0, 100, 100.0, 0.2)]
    curve = curve_of([*control, *slow, *exact])
    assert aim.equal_time(curve, "slow", "held_out") == [aim.EqualTime("rapidocr", 0, 50, 0.45, 0.4)]
    assert aim.fast_enough(curve, "slow", "held_out").state == aim.NOT_MET
    assert aim.equal_time(curve, "exact", "held_out")[0].value == 0.3
    assert aim.fast_enough(curve, "exact", "held_out").state == aim.MET
    assert aim.fast_enough(curve, "exact", "other").state == aim.NOT_MEASURED
    second = curve_of([("diffusion_only", 1, 100, 50.0, 0.2), ("exact", 1, 50, 50.0, 0.25)])
    both = aim.fast_enough(pd.concat([curve, second]), "exact", "held_out")
    assert both.state == aim.NOT_MET
    assert "(1 of 2 seeds ahead)" in both.words
    assert both.words.endswith("; processor seconds, measured alone; against diffusion_only")


def changed(results: Path, **columns: float) -> pd.DataFrame:
    """The summary with other numbers of ctc under RapidOCR."""
    summary = read(results).summary.copy()
    mine = (summary["arm"] == "ctc") & (summary["engine"] == "rapidocr") & (summary["metric"] == "cer_micro")
    summary.loc[mine, list(columns)] = list(columns.values())
    return summary


@pytest.mark.parametrize(
    ("columns", "state"),
    [
        ({"relative_delta": -0.5, "relative_two_way_high": -0.45}, aim.MET),
        ({"relative_delta": -0.424, "relative_two_way_low": -0.499, "relative_two_way_high": -0.347}, aim.NOT_SHOWN),
        ({"relative_delta": -0.38, "relative_two_way_low": -0.5, "relative_two_way_high": -0.2}, aim.NOT_SHOWN),
        ({"relative_delta": -0.3, "relative_two_way_low": -0.39, "relative_two_way_high": -0.2}, aim.NOT_MET),
        ({"relative_two_way_high": float("nan")}, aim.NOT_SHOWN),
        ({"relative_high": 0.0, "relative_delta": -0.5, "relative_two_way_high": -0.41}, aim.MET),
        ({"control_differs": "anchor"}, aim.NOT_SHOWN),
    ],
)
def test_forty_percent_are_met_only_by_the_whole_interval_against_a_matched_control(results, columns, state):
    summary, runs = read(results).summary, read(results).runs
    summary = summary.assign(relative_two_way_high=np.minimum(summary["relative_two_way_high"], -0.41))
    own = changed(results, **columns)
    mine = (own["arm"] == "ctc") & (own["engine"] == "rapidocr")
    summary = pd.concat([summary[~mine.to_numpy()], own[mine]])
    if "control_differs" in columns:
        summary = summary.assign(control_differs="anchor")
    assert aim.enough_error(summary, runs, "ctc", "held_out").state == state


def test_unlike_numbers_of_steps_show_nothing_of_equal_ones(results):
    experiment = read(results)
    longer = {run: record | {"steps": 160} if run[0] == "ctc" else record for run, record in experiment.runs.items()}
    more = aim.enough_error(experiment.summary, longer, "ctc", "held_out")
    assert (more.state, "160 steps against 80" in more.words) == (aim.NOT_SHOWN, True)


def test_a_gain_is_shown_by_the_rule_of_verdicts_and_under_two_judges(results):
    def state(summary: pd.DataFrame, seeds: pd.DataFrame) -> tuple[str, str]:
        condition = aim.sure_enough(summary, seeds, "ctc", "held_out", 0.95)
        return condition.state, condition.words

    (experiment,) = corrected([read(results)])
    summary, seeds = experiment.summary, experiment.seeds
    found, words = state(summary, seeds)
    assert (found, words.endswith("against diffusion_only; 3 training seeds")) == (aim.MET, True)
    mine = (summary["arm"] == "ctc") & (summary["engine"] == "rapidocr") & (summary["metric"] == "cer_micro")
    assert state(summary.assign(two_way_high=summary["two_way_high"].mask(mine, 0.0)), seeds)[0] == aim.NOT_SHOWN
    delta = ("delta_vs_control", "delta_low", "delta_high")
    worse = {name: summary[name].mask(mine, abs(summary[name])) for name in delta}
    worse |= {name: summary[name].mask(mine, 0.01 + i) for i, name in enumerate(("two_way_low", "two_way_high"))}
    assert state(summary.assign(**worse), seeds)[0] == aim.NOT_MET
    assert state(summary.assign(p_holm=summary["p_holm"].mask(mine, 0.069)), seeds)[0] == aim.NOT_SHOWN
    assert state(summary.assign(control_differs="anchor"), seeds)[0] == aim.NOT_SHOWN
    found, words = state(summary, seeds[~(seeds["training_seed"] > 0)])
    assert (found, words.endswith("a hint: one training seed")) == (aim.NOT_SHOWN, True)
    alone = summary[summary["engine"] == "easyocr"]
    assert state(alone, seeds)[0] == aim.NOT_SHOWN


def test_one_training_seed_meets_no_condition(results):
    experiment = read(results)
    config = experiment.config.model_copy(update={"seeds": (0,)})
    once = dataclasses.replace(
        experiment,
        config=config,
        seeds=experiment.seeds[~(experiment.seeds["training_seed"] > 0)],
        runs={run: record for run, record in experiment.runs.items() if run[1] == 0},
        drift=drift_of(results, -0.01, -0.02, -0.001),
    )
    found = aim.conditions(*corrected([with_letters_and_attributes(once)]), "ctc", "held_out")
    assert aim.MET not in [condition.state for condition in found]
    assert all("a hint: one training seed" in condition.words for condition in found)
    assert "Yes" not in build([once])


def test_an_anchored_arm_is_compared_with_the_anchor_alone(tmp_path):
    ctc = {"loss": "ctc", "lambda": 1.0, "every": 1}
    held = {"weight": 10.0, "batch_size": 16}
    trainings = {"anchor_only": {"anchor": held}, "ctc_anchored": {"anchor": held, "aux": ctc}}
    spelling = {name: rate for name, rate in CLEAR.items() if name != "clip_region"}
    spelling |= {"anchor_only": 0.4, "ctc_anchored": 0.02}
    folder = make_results(tmp_path / "held", spelling, pictures=False, trainings=trainings, times=TIMES)
    experiment = read(folder, "Held")
    assert experiment.controls["ctc_anchored"].name == "anchor_only"
    page = build([experiment])
    row = {row[0]: row for row in tables(page)["Regime"][1:]}["Held"]
    assert row[1] == "`ctc_anchored`"
    assert [cell.split("against ")[-1] for cell in (row[2], row[8])] == ["anchor_only", "anchor_only"]
    results = {row[0]: row for row in tables(page)["Pictures of"][1:]}
    own = results["`ctc_anchored`, control: `anchor_only`"]
    values = {arm: numbers(results[name][2].split("<br>")[0])[0] for arm, name in (("anchor_only", "`anchor_only`"),)}
    assert numbers(own[3].split("<br>")[0])[0] == pytest.approx(
        numbers(own[2].split("<br>")[0])[0] - values["anchor_only"], abs=2 * TOLERANCE
    )
    assert "ctc_anchored (control: anchor_only)" in page
    assert "- ctc_anchored against anchor_only: fewer errors, for every judge." in page
    said = scores(Run("ctc_anchored", 0, 4), experiment)  # the model card says the same
    assert "against its control `anchor_only`" in said[0]
    assert "not of step 4" in said[1]
    (compared,) = tables("\n".join(said)).values()
    assert {row[1] for row in compared[1:]} == {"base", "anchor_only", "ctc_anchored"}
    assert {row[3] for row in compared[1:] if row[1] != "ctc_anchored"} == {"–"}
    shown = [row[3] for row in compared[1:] if row[1] == "ctc_anchored"]
    assert shown
    assert set(shown) <= set(own[3].split("<br>"))
    # Without the anchor alone there is no matched control, and nothing is met or claimed.
    lonely = {"anchor_only": {"anchor": held | {"weight": 5.0}}, "ctc_anchored": trainings["ctc_anchored"]}
    page = build([read(make_results(tmp_path / "lonely", spelling, pictures=False, trainings=lonely), "Lonely")])
    assert "no control is matched: diffusion_only differs in anchor, too" in page
    row = {row[0]: row for row in tables(page)["Regime"][1:]}["Lonely"]
    assert row[2].startswith("**not shown**")


def test_an_arm_without_a_loss_cannot_reach_the_aim(results):
    runs = read(results).runs
    assert set(aim.candidates(ARMS, runs)) == set(ARMS) - {"diffusion_only", "ctc_shuffled"}
    quiet = {
        run: record
        | {"training": record["training"] | {"aux": {"loss": "none", "lambda": 0.0}, "anchor": {"weight": 10.0}}}
        for run, record in runs.items()
    }
    assert aim.candidates(ARMS, quiet) == []


def test_a_placebo_is_named_cannot_reach_the_aim_and_says_what_it_does_not_exclude(results, page):
    assert "ctc_shuffled" not in aim.candidates(ARMS, read(results).runs)
    line = next(line for line in page.splitlines() if line.startswith("- ctc_shuffled against"))
    assert "it does not exclude that any gradient towards more legible glyphs" in line
    assert "more legible" not in next(line for line in page.splitlines() if line.startswith("- ctc against"))


def test_the_page_says_which_judges_are_independent_and_what_drift_can_show(page):
    assert "- The EasyOCR judge (resources/nano/recognizer_crnn) is separate from the losses' reader" in page
    assert "Independent judges: RapidOCR." in page
    assert page.count("drift on a model that draws letters for every prompt cannot show collateral damage") == 1  # Main


def test_every_prompt_set_has_its_own_answer_and_section(results):
    experiment = read(results, "Main")
    tables_of = {
        name: pd.concat([getattr(experiment, name), getattr(experiment, name).assign(prompt_set="shifted")])
        for name in ("summary", "seeds")
    }
    page = build([dataclasses.replace(experiment, **tables_of)])
    assert re.findall("^## (Main.*)$", page, re.M) == ["Main, prompts held_out", "Main, prompts shifted"]
    rows = {row[0]: row for row in tables(page)["Regime"][1:]}
    assert "no curve of this arm" in rows["Main, prompts shifted"][5]
    assert "at step" in rows["Main, prompts held_out"][5]


def test_an_arm_with_rewards_says_which_and_how():
    reward = {"weights": {"reading": 1.0, "caption": 20.0}, "steps": 8, "last": 3, "guidance_scale": 2.0}
    training = Training.model_validate({"parts": ["text_encoder"], "reward": reward | {"targets": "shuffled"}})
    control = Training().model_dump(mode="json", by_alias=True)
    said = describe_arm(training.model_dump(mode="json", by_alias=True), control)
    assert said == (
        "rewards 1 · reading + 20 · caption, through the last 3 of 8 sampling steps, guidance 2, tuned text tower,"
        " judged by another sample's caption; parts = ['text_encoder'] (control: ['denoiser'])"
    )
    direct = Training.model_validate({"reward": {"weights": {"reading": 1.0}, "method": "direct"}})
    assert describe_arm(direct.model_dump(mode="json", by_alias=True), control) == (
        "rewards 1 · reading, on one prediction from noisy real pictures"
    )


def test_arms_are_described_from_their_configuration():
    assert describe_aux({"loss": "none", "lambda": 0.0}) == "no auxiliary loss"
    plain = {"loss": "ctc", "lambda": 1.0, "every": 1, "sigma_window": [0.0, 1.0]}
    assert describe_aux(plain) == "ctc, λ = 1, at every step"
    window = plain | {"every": 8, "sigma_window": [0.6, 1.0], "sigma_sampling": "window", "targets": "shuffled"}
    text = "ctc, λ = 1, every 8 steps, at noise levels 0.6 ≤ σ ≤ 1 only, σ of its steps drawn evenly from there"
    assert describe_aux(window) == f"{text}, towards another sample's text"
    assert describe_aux(plain | {"loss": {"ctc": 1.0, "glyph_mask": 0.5}}).startswith("1 · ctc + 0.5 · glyph_mask, λ")
    assert "λ from 1 to 0.1 (cosine)" in describe_aux(plain | {"balance": "cosine", "lambda_end": 0.1})
    ratio = plain | {"balance": "gradient_norm", "target_ratio": 0.3}
    assert "is 0.3 of the diffusion loss's" in describe_aux(ratio)
    assert "learnt uncertainty" in describe_aux(plain | {"balance": "uncertainty"})
    control = {"aux": {"loss": "none"}, "method": "full", "threads": 1}
    assert describe_arm({"aux": plain, "method": "lora", "threads": 2}, control) == (
        "ctc, λ = 1, at every step; method = lora (control: full)"
    )
    held = {"aux": plain, "anchor": {"weight": 40.0, "batch_size": 16}}
    assert describe_arm(held, control | {"method": None, "threads": 1}).endswith(
        "velocity anchor of weight 40 on 16 points per step"
    )
    held["anchor"]["reference"] = "adapter_off"
    assert describe_arm(held, control | {"method": None, "threads": 1}).endswith(
        "velocity anchor of weight 40 on 16 points of training's own, adapters off per step"
    )


def test_the_legend_describes_every_arm_and_every_loss(results, page):
    rows = {row[0]: row[1] for row in tables(page)["Arm"][1:]}
    recorded = Config().arm("clip_region").model_dump(mode="json", by_alias=True)
    assert rows["`clip_region`"] == describe_aux(recorded["aux"])
    assert rows["diffusion_only (control, λ = 0)"] == "no auxiliary loss"
    for loss in ("ctc", "clip_region"):
        assert f"- `{loss}`: {LOSSES[loss]}" in page


def test_the_script_writes_the_same_bytes_and_copies_the_figures(results, bare, page, tmp_path):
    titles = ["--titles-json", json.dumps({"main": "Main", "bare": "Bare"}), "--command", COMMAND]
    for attempt in ("first", "second"):
        done = script(tmp_path / attempt / "RESULTS.md", str(results), str(bare), *titles)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / attempt / "RESULTS.md").read_text(encoding="utf-8") == page
    figures = sorted(path for path in (tmp_path / "first" / "results").iterdir() if path.is_file())
    assert [path.name for path in figures] == ["main-delta_to_control.png", "main-learning_curves.png"]
    assert figures[0].read_bytes() == b"delta_to_control"
    shown = re.findall(r"!\[[^]]*\]\(([^)]*)\)", page)
    assert sorted(shown) == [f"results/{path.name}" for path in figures]
    assert COMMAND in page
    assert "Test CPU (2 logical cores), Linux" in page
    assert "| torch | 2.15.0 |" in page
    # The tables and what identifies the runs, under the links of the page.
    linked = re.findall(r"\]\((results/[a-z]+/[a-z_]+\.(?:csv|json))\)", page)
    tables_beside = [*(path for path in (tmp_path / "first" / "results").rglob("*.csv"))]
    assert {str(path.relative_to(tmp_path / "first")) for path in tables_beside} == {
        link for link in linked if link.endswith("csv")
    }
    assert "results/main/drift.csv" in linked
    folders = {"main": results, "bare": bare}
    for path in tables_beside:
        assert path.read_text() == (folders[path.parent.name] / "scores" / path.name).read_text()
    runs = json.loads((tmp_path / "first" / "results" / "main" / "runs.json").read_text())
    assert [(run["arm"], run["seed"]) for run in runs] == list(read(results).runs)
    recorded = read(results).runs["ctc", 1]
    (own,) = (run for run in runs if (run["arm"], run["seed"]) == ("ctc", 1))
    kept = ("key", "data", "files", "weights", "versions", "machine", "steps", "wall_seconds", "processor_seconds")
    assert {key: own[key] for key in (*kept, "started")} == {key: recorded[key] for key in (*kept, "started")}
    assert "training" not in own


def test_of_a_large_table_only_the_rows_over_all_prompts_are_copied(tmp_path, monkeypatch):
    rows = pd.DataFrame({"stratum": ["all", "length=2", "all"], "value": [0.123456, 0.2, 0.3]})
    rows.to_csv(tmp_path / "summary.csv", index=False)
    assert copies.small(tmp_path / "summary.csv") == (tmp_path / "summary.csv").read_text()
    monkeypatch.setattr(copies, "LARGE", 20)
    assert copies.small(tmp_path / "summary.csv") == "stratum,value\nall,0.123456\nall,0.3\n"
    rows.drop(columns="stratum").to_csv(tmp_path / "drift.csv", index=False)
    assert copies.small(tmp_path / "drift.csv") == (tmp_path / "drift.csv").read_text()


def test_seconds_measured_alone_are_shown_and_called_so(results, tmp_path):
    experiment = read(results, "Main")
    rows = [
        {"arm": arm, "round": turn, "steps": 5, "processor_seconds": 5 * (1 + place + turn), "wall_seconds": 1.0}
        for place, arm in enumerate(ARMS)
        for turn in range(3)
    ]
    timed = dataclasses.replace(experiment, timing=pd.DataFrame(rows).assign(device="cpu"))
    page = build([timed])
    found = {row[0]: row for row in tables(page)["Pictures of"][1:]}
    for place, arm in enumerate(ARMS[1:], 1):
        if arm != "ctc_shuffled":
            assert f"{2 + place} ({(2 + place) / 2:.2f} ×)" in found[f"`{arm}`"]
    assert "Seconds: processor seconds, measured alone, each arm in its turn" in page
    assert "hints, no evidence" not in page
    assert build([experiment]).count("They were taken while other work ran on the machine: hints, no evidence.") == 2


@pytest.mark.parametrize("file", ["config.yaml", "scores/summary.csv", "scores/seeds.csv", "runs/ctc/seed1/run.json"])
def test_a_missing_file_is_named_and_nothing_is_written(file, bare, tmp_path):
    folder = shutil.copytree(bare, tmp_path / "bare")
    (folder / file).unlink()
    done = script(tmp_path / "page" / "RESULTS.md", str(folder))
    assert (done.returncode, file in done.stderr, done.stderr.count("\n")) == (2, True, 1), done.stderr
    assert not (tmp_path / "page").exists()


def test_an_older_summary_is_refused(bare, tmp_path):
    folder = shutil.copytree(bare, tmp_path / "bare")
    summary = pd.read_csv(folder / "scores" / "summary.csv")
    summary.drop(columns="two_way_low").to_csv(folder / "scores" / "summary.csv", index=False)
    with pytest.raises(UserError, match=r"summary\.csv: the column two_way_low is missing"):
        read(folder)


def test_the_script_refuses_bad_arguments_in_one_sentence(bare, tmp_path):
    output = tmp_path / "RESULTS.md"
    for arguments, message in (
        ([str(bare), "--titles-json", "{"], "--titles-json: not valid JSON"),
        ([str(bare), "--titles-json", '{"bare": 1}'], "--titles-json: a JSON object"),
        ([str(bare), "--titles-json", '{"other": "x"}'], "--titles-json: other is not among --results"),
        ([str(bare), str(bare)], "--results: every experiment may be given once only"),
    ):
        done = script(output, *arguments)
        assert (done.returncode, message in done.stderr, done.stderr.count("\n")) == (2, True, 1), done.stderr
    assert not output.exists()


def test_the_control_alone_still_gets_a_page(tmp_path):
    rates = {name: rate for name, rate in RATES.items() if name != "clip_region"}
    alone = build([read(make_results(tmp_path / "alone", rates, pictures=False), "Alone")])
    assert "there is no arm beside the control, so nothing can be said" in alone
    assert "**Yes**" not in alone
    assert np.isfinite(numbers(tables(alone)["Pictures of"][2][2])).all()
