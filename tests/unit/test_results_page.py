"""The results page: its numbers are the tables', its four conditions follow them, and equal input is equal bytes."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from make_results import RATES, make_results, trained_arms

from legible.config import Config
from legible.errors import UserError
from legible.figures import aim, inputs
from legible.figures.describe import LOSSES, describe_arm, describe_aux
from legible.figures.results_page import RESULT_COLUMNS, build, read_experiment

ROOT = Path(__file__).resolve().parents[2]
SPELLING = RATES | {"ctc": 0.05, "ctc_shuffled": 0.31}
ARMS = trained_arms(SPELLING)
TOLERANCE = 5.1e-4  # three decimals, and a half in binary
COMMAND = "snakemake --cores all --configfile configs/evidence.yaml"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = make_results(tmp_path_factory.mktemp("results") / "main", SPELLING, pictures=False)
    (folder / "figures").mkdir()
    for name in ("delta_to_control", "learning_curves", "training_curves"):
        (folder / "figures" / f"{name}.png").write_bytes(name.encode())
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A regime without drift, curve, gradients and figures."""
    return make_results(tmp_path_factory.mktemp("results") / "bare", SPELLING, pictures=False, evidence=False)


@pytest.fixture(scope="module")
def page(results, bare) -> str:
    return build([read_experiment(results, "Main"), read_experiment(bare, "Bare")], COMMAND)


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


def overall(results: Path, metric: str = "cer_micro") -> pd.DataFrame:
    summary = inputs.read_summary(results, ARMS)
    rows = summary[(summary["stratum"] == "all") & (summary["metric"] == metric)]
    return rows.set_index(["arm", "engine"]).sort_index()


def script(output: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "scripts/write_results.py", "--output", str(output), "--results", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)})


def test_the_table_holds_the_numbers_of_the_files(results, page):
    header, *rows = tables(page)["Pictures of"]
    assert header == list(RESULT_COLUMNS)
    cer, exact, extra = (overall(results, metric) for metric in ("cer_micro", "exact", "extra_text_rate"))
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
            assert cells[0][i] == inputs.engine_label(engine)
            assert numbers(cells[1][i]) == pytest.approx(row[["value", "ci_low", "ci_high"]].tolist(), abs=TOLERANCE)
            delta = row[["delta_vs_control", "delta_low", "delta_high"]].tolist()
            assert numbers(cells[2][i]) == pytest.approx(delta, abs=TOLERANCE)
            relative = 100 * row[["relative_delta", "relative_low", "relative_high"]].astype(float)
            assert numbers(cells[3][i]) == pytest.approx(relative.tolist(), abs=0.05)
            assert cells[4][i] == f"{exact.loc[(arm, engine), 'p_holm']:.2g}"
            assert numbers(cells[5][i]) == pytest.approx([extra.loc[(arm, engine), "value"]], abs=TOLERANCE)
            own = seeds[(seeds["arm"] == arm) & (seeds["engine"] == engine)]["delta_vs_control"]
            assert numbers(cells[6][i]) == pytest.approx(own.tolist(), abs=TOLERANCE)
        moved = drift.loc[arm, ["delta_vs_control", "delta_low", "delta_high"]].tolist()
        assert numbers(cells[7][0]) == pytest.approx(moved, abs=TOLERANCE)
        seconds = {"ctc": 48 / 40, "clip_region": 44 / 40, "ctc_shuffled": 52 / 40}[arm]
        assert cells[8] == [f"{seconds:.2f}"]


def test_arms_stand_by_their_error_between_control_and_ceilings(results, page):
    first = [row[0] for row in tables(page)["Pictures of"][1:]]
    error = overall(results)["value"].groupby(level="arm").mean()
    ranked = sorted(ARMS[1:], key=lambda arm: error[arm])
    assert [name.split("`")[1] for name in first[2:-2]] == ranked
    assert (first[0], first[1]) == ("base (not fine-tuned)", "diffusion_only (control, λ = 0)")
    assert first[-2:] == ["our own renders", "our renders after the VAE"]


def test_the_strata_are_those_of_the_best_arm(results, page):
    header, *rows = tables(page)["Stratum"]
    assert header[3:5] == ["control", "`ctc`"]
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


def test_the_first_sentence_and_the_conditions_follow_the_numbers(page):
    start = page.split("\n\n")[2]
    assert start.startswith("**No**: no arm meets all four conditions")
    rows = {row[0]: row for row in tables(page)["Regime"][1:]}
    states = [cell.split("**")[1] for cell in rows["Main"][2:]]
    assert rows["Main"][1] == "`ctc`"
    assert states == ["met", "met", "met", "not met"]
    assert [cell.split("**")[1] for cell in rows["Bare"][2:]] == ["met", "met", "not measured", "not measured"]
    assert "- Bare: **not met**; `ctc` comes closest (2 of 4; ahead at equal wall time: not measured" in page


def test_without_more_drift_the_answer_is_yes(results, tmp_path):
    folder = shutil.copytree(results, tmp_path / "kind")
    drift = pd.read_csv(folder / "scores" / "drift.csv")
    drift.loc[drift["arm"] == "ctc", ["delta_vs_control", "delta_low", "delta_high"]] = [-0.01, -0.02, 0.01]
    drift.to_csv(folder / "scores" / "drift.csv", index=False)
    kind = build([read_experiment(folder, "Kind")])
    assert "**Yes**: in the regime Kind at least one arm meets all four conditions" in kind
    two = build([read_experiment(results, "Main"), read_experiment(folder, "Kind")])
    assert "**Yes**: in 1 of 2 regimes at least one arm meets all four conditions" in two
    assert "- Kind: **met** by `ctc`." in kind


def test_drift_within_the_interval_is_no_proof(results):
    drift = inputs.read_drift(results)
    own = drift["arm"] == "ctc"
    for delta, low, high, state in (
        (0.01, -0.01, 0.03, aim.NOT_SHOWN),
        (0.01, 0.005, 0.03, aim.NOT_MET),
        (0.0, -0.01, 0.01, aim.MET),
    ):
        drift.loc[own, ["delta_vs_control", "delta_low", "delta_high"]] = [delta, low, high]
        assert aim.gentle_enough(drift, "ctc").state == state
    drift.loc[own & (drift["metric"] == "kid"), "delta_low"] = 0.001
    assert aim.gentle_enough(drift, "ctc").state == aim.NOT_MET
    assert aim.gentle_enough(drift, "other").state == aim.NOT_MEASURED


def curve_of(rows: list[tuple]) -> pd.DataFrame:
    columns = ["arm", "training_seed", "step", "seconds", "engine", "prompt_set", "value"]
    return pd.DataFrame([(*row[:4], "rapidocr", "held_out", row[4]) for row in rows], columns=columns)


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


def test_a_gain_under_one_judge_or_with_more_steps_does_not_count(results):
    experiment = read_experiment(results)
    summary, runs = experiment.summary.copy(), dict(experiment.runs)
    mine = (summary["arm"] == "ctc") & (summary["engine"] == "rapidocr") & (summary["metric"] == "cer_micro")
    assert aim.enough_error(summary, runs, "ctc", "held_out").state == aim.MET
    longer = {run: record | {"steps": 160} if run[0] == "ctc" else record for run, record in runs.items()}
    more = aim.enough_error(summary, longer, "ctc", "held_out")
    assert (more.state, "160 steps against 80" in more.words) == (aim.NOT_MET, True)
    summary.loc[mine, "relative_delta"] = -0.39
    assert aim.enough_error(summary, runs, "ctc", "held_out").state == aim.NOT_MET
    assert aim.sure_enough(summary, experiment.seeds, "ctc", "held_out").state == aim.MET
    summary.loc[mine, "delta_high"] = 0.0
    assert aim.sure_enough(summary, experiment.seeds, "ctc", "held_out").state == aim.NOT_MET
    summary = experiment.summary.assign(n_training_seeds=1)
    once = aim.sure_enough(summary, experiment.seeds, "ctc", "held_out")
    assert (once.state, "one training seed is a hint" in once.words) == (aim.NOT_SHOWN, True)
    alone = experiment.summary[experiment.summary["engine"] == "easyocr"]
    assert aim.sure_enough(alone, experiment.seeds, "ctc", "held_out").state == aim.NOT_MET


def test_an_arm_without_a_loss_cannot_reach_the_aim(results):
    runs = read_experiment(results).runs
    assert set(aim.candidates(ARMS, runs)) == set(ARMS) - {"diffusion_only", "ctc_shuffled"}
    quiet = {
        run: record
        | {"training": record["training"] | {"aux": {"loss": "none", "lambda": 0.0}, "anchor": {"weight": 10.0}}}
        for run, record in runs.items()
    }
    assert aim.candidates(ARMS, quiet) == []


def test_a_placebo_is_named_and_cannot_reach_the_aim(results, page):
    assert "ctc_shuffled" not in aim.candidates(ARMS, read_experiment(results).runs)
    line = next(line for line in page.splitlines() if line.startswith("- ctc_shuffled:"))
    assert "It is a placebo (shuffled targets)" in line


def test_a_placebo_that_gains_is_held_against_the_loss(results):
    experiment = read_experiment(results, "Main")
    for table in (experiment.summary, experiment.seeds):
        mine = (table["arm"] == "ctc_shuffled") & (table["metric"] == "cer_micro")
        table.loc[mine, "delta_vs_control"] = -0.2
        if table is experiment.summary:
            table.loc[mine, ["delta_low", "delta_high"]] = [-0.3, -0.1]
    line = next(line for line in build([experiment]).splitlines() if line.startswith("- ctc_shuffled:"))
    assert line.endswith("so part of what its loss gains elsewhere is not about the right text either.")


def test_every_prompt_set_has_its_own_answer_and_section(results):
    experiment = read_experiment(results, "Main")
    tables_of = {
        name: pd.concat([getattr(experiment, name), getattr(experiment, name).assign(prompt_set="shifted")])
        for name in ("summary", "seeds")
    }
    page = build([dataclasses.replace(experiment, **tables_of)])
    assert re.findall("^## (Main.*)$", page, re.M) == ["Main, prompts held_out", "Main, prompts shifted"]
    rows = {row[0]: row for row in tables(page)["Regime"][1:]}
    assert "no curve of this arm" in rows["Main, prompts shifted"][4]
    assert "at step" in rows["Main, prompts held_out"][4]


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
    copies = sorted((tmp_path / "first" / "results").iterdir())
    assert [path.name for path in copies] == ["main-delta_to_control.png", "main-learning_curves.png"]
    assert copies[0].read_bytes() == b"delta_to_control"
    shown = re.findall(r"!\[[^]]*\]\(([^)]*)\)", page)
    assert sorted(shown) == [f"results/{path.name}" for path in copies]
    assert COMMAND in page
    assert "Test CPU (2 logical cores), Linux" in page
    assert "| torch | 2.15.0 |" in page


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
    summary.drop(columns="relative_low").to_csv(folder / "scores" / "summary.csv", index=False)
    with pytest.raises(UserError, match=r"summary\.csv: the column relative_low is missing"):
        read_experiment(folder)


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
    alone = build([read_experiment(make_results(tmp_path / "alone", rates, pictures=False), "Alone")])
    assert "there is no arm beside the control, so nothing can be said" in alone
    assert np.isfinite(numbers(tables(alone)["Pictures of"][2][2])).all()
