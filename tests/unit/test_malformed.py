"""malformed_rate, by hand; and a gain that comes with more malformed letters is none."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from make_results import make_results

from legible.config import Scoring, load
from legible.errors import UserError
from legible.metrics.guards import more_malformed
from legible.metrics.malformed import judged_images, malformed_table
from legible.report import report_page, results_page
from legible.report.aim import MET, NOT_MET, Condition, unspoilt
from legible.report.experiment import read_experiment, verdict_of
from legible.report.letters import letter_tables
from legible.report.verdict import Judgement, Verdict, guarded

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "resources/nano/glyph_judge"
SCORING = Scoring(resamples=500)
HALF = "x" * 20 + "." * 20


def judged(bad: str, seeds: int = 1) -> list[dict]:
    """A row for each prompt and image seed; `bad` has a letter a prompt: x malformed under every seed, h under half."""
    rows = []
    for number, state in enumerate(bad):
        for seed in range(seeds):
            malformed = state == "x" or (state == "h" and seed % 2 == 0)
            rows.append({"prompt_id": f"p{number}", "image_seed": seed, "probability": 0.9 * malformed})
            rows[-1]["malformed"] = malformed
    return rows


def table(controls=None, **models: str) -> pd.DataFrame:
    rows = {
        (name.replace("__", "-"), "held_out"): judged(bad, 1 if name == "ceiling_render" else 2)
        for name, bad in models.items()
    }
    return malformed_table(judged_images(rows), controls or {}, SCORING).set_index("arm")


def test_the_rate_is_the_mean_over_prompts_and_the_difference_goes_to_the_control():
    found = table(base="xxxx....", diffusion_only__seed0="xx......", ctc__seed0="xxhh....", ceiling_render="........")
    assert found.loc["base", "value"] == 0.5
    assert found.loc["diffusion_only", "value"] == 0.25
    assert found.loc["ctc", "value"] == pytest.approx((2 + 0.5 + 0.5) / 8)
    assert found.loc["ctc", "delta_vs_control"] == pytest.approx(0.125)
    assert found.loc["base", "delta_vs_control"] == 0.25
    assert found.loc["ceiling_render", "value"] == 0
    assert found.loc[["ceiling_render", "diffusion_only"], "delta_vs_control"].isna().all()
    assert found.loc["ctc", ["n_prompts", "n_images", "n_training_seeds"]].tolist() == [8, 16, 1]
    assert set(found["engine"]) == {"glyph_judge"}
    assert set(found["metric"]) == {"malformed_rate"}
    assert (found["ci_low"] <= found["value"]).all()
    assert (found["value"] <= found["ci_high"]).all()


def test_training_seeds_are_averaged_within_a_prompt():
    found = table(
        base="....", diffusion_only__seed0="....", diffusion_only__seed1="....", ctc__seed0="xx..", ctc__seed1="...."
    )
    assert found.loc["ctc", "value"] == 0.25
    assert found.loc["ctc", "n_training_seeds"] == 2


def test_the_interval_of_a_difference_knows_that_trainings_scatter():
    of_arms = {"diffusion_only": "." * 40, "ctc": HALF}
    alike = {f"{arm}__seed{seed}": bad for seed in range(3) for arm, bad in of_arms.items()}
    scattered = alike | {"ctc__seed0": "." * 40, "ctc__seed2": "x" * 40}
    first, second = (table(base="." * 40, **models).loc["ctc"] for models in (alike, scattered))
    assert first["delta_vs_control"] == second["delta_vs_control"] == 0.5
    assert 0.3 < first["delta_low"] < first["delta_high"] < 0.7
    assert second["delta_low"] < 0 < 1 < second["delta_high"]  # Student's t of 0, .5 and 1
    assert (first["ci_low"], first["ci_high"]) == pytest.approx((0.5, 0.5), abs=0.2)


def test_an_arm_is_compared_with_its_own_control():
    arms = {"diffusion_only__seed0": "....", "anchor_only__seed0": "xx..", "ctc_anchored__seed0": "xx.."}
    found = table({"ctc_anchored": "anchor_only"}, base="....", **arms)
    assert found.loc["ctc_anchored", "control"] == "anchor_only"
    assert found.loc["ctc_anchored", "delta_vs_control"] == 0
    assert found.loc["anchor_only", "delta_vs_control"] == 0.5


def test_pictures_that_are_missing_stop_the_scoring():
    with pytest.raises(UserError, match="judgements of diffusion_only are missing"):
        table(base="....")
    with pytest.raises(UserError, match="ctc-seed0 and base do not hold the same pictures"):
        table(base="....", diffusion_only__seed0="....", ctc__seed0="...")


def verdict(outcome: str) -> Verdict:
    seen = Judgement("rapidocr", 0.1, 0.2, -0.1, -0.15, -0.05, 0.01, (-0.1, -0.1, -0.1), -0.2, -0.02)
    return Verdict("ctc", "held_out", "diffusion_only", outcome, "", (seen,))


def test_more_malformed_letters_void_a_gain_and_nothing_else():
    worse = table(base="." * 40, diffusion_only__seed0="." * 40, ctc__seed0="x" * 20 + "." * 20).reset_index()
    reasons = more_malformed(worse, "ctc", "held_out")
    assert len(reasons) == 1
    assert "more of its pictures hold a malformed letter" in reasons[0]
    assert guarded(verdict("better"), reasons).outcome == "not shown"
    assert "the gain is void" in guarded(verdict("better"), reasons).reason
    assert guarded(verdict("worse"), reasons).outcome == "worse"
    assert unspoilt(Condition(MET, "words"), reasons).state == NOT_MET
    same = table(base="." * 40, diffusion_only__seed0="x" * 20 + "." * 20, ctc__seed0="." + "x" * 20 + "." * 19)
    assert more_malformed(same.reset_index(), "ctc", "held_out") == []  # no difference is shown
    better = table(base="." * 40, diffusion_only__seed0="x" * 20 + "." * 20, ctc__seed0="." * 40)
    assert more_malformed(better.reset_index(), "ctc", "held_out") == []
    assert more_malformed(None, "ctc", "held_out") == []
    assert unspoilt(Condition(MET, "words"), []).state == MET


def test_the_pages_show_both_tables():
    malformed = table(base="xx..", diffusion_only__seed0="x...", ctc__seed0="....").reset_index()
    rows = [
        {"judge": judge, "font": font, "text": text, "kind": kind, "severity": severity, "share": share, "n": 10}
        for judge, overlooked in (("glyph_judge", 0.1), ("rapidocr", 0.4))
        for font, factor in (("a", 1.0), ("b", 2.0))
        for text in ("word", "nonword")
        for kind, severity, share in (("none", 0.0, 1.0), ("erased", 0.5, overlooked * factor))
    ]
    first, second = letter_tables(malformed, pd.DataFrame(rows), None, "held_out")
    assert [row[:2] for row in first["rows"]][1] == ["diffusion_only (control, λ = 0)", "–"]
    assert first["rows"][2][3].startswith("−0.250 [")
    assert second["columns"] == ["Damage", "Severity", "Pictures", "RapidOCR ↓", "glyph judge ↓"]
    assert second["rows"] == [
        ["none", "0", "40", "1.00; 1.00", "1.00; 1.00"],
        ["erased", "0.5", "40", "0.60; 0.60", "0.15; 0.15"],
    ]
    assert letter_tables(malformed, pd.DataFrame(rows), None, "held_out", first=False) == [first]
    assert letter_tables(None, None, None, "held_out") == []


def run(monkeypatch, script: str, *arguments: str) -> None:
    """A script of this project in this process."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
    __import__(script).main()


@pytest.mark.slow
@pytest.mark.skipif(not SHIPPED.is_dir(), reason="the glyph judge's weights are not shipped yet")
def test_from_pictures_to_pages(tmp_path, monkeypatch):
    """Pictures that are renders: hardly any letter is malformed, and the page says so; made worse, the gain is void."""
    results = make_results(tmp_path / "nano")
    raw = yaml.safe_load((results / "config.yaml").read_text())
    raw["glyph_judge"] = {"path": str(SHIPPED)}
    raw["calibration"] = {"words": 1, "nonwords": 1}
    (results / "config.yaml").write_text(yaml.safe_dump(raw))
    config = load(results / "config.yaml")
    manifests = sorted((results / "images").glob("*/held_out/manifest.jsonl"))
    judged = [results / "glyphs" / path.parts[-3] / "held_out.jsonl" for path in manifests]
    section, table = json.dumps({"glyph_judge": raw["glyph_judge"]}), results / "scores" / "malformed.csv"
    run(
        monkeypatch,
        "judge_glyphs",
        "--config",
        section,
        "--images",
        *map(str, manifests),
        "--output",
        *map(str, judged),
    )
    rows = [json.loads(line) for line in judged[0].read_text().splitlines()]
    assert {"file", "prompt_id", "image_seed", "probability", "malformed", "judge_version", "sum"} == set(rows[0])
    trainings = json.dumps({arm: config.arm(arm).model_dump(mode="json", by_alias=True) for arm in config.arms})
    scoring = json.dumps({"scoring": {"resamples": 200}})
    inputs = ["--config", scoring, "--trainings", trainings, "--glyphs", *map(str, judged)]
    run(monkeypatch, "score_glyphs", *inputs, "--output", str(table))
    found = pd.read_csv(table).set_index("arm")
    assert set(found.index) == {"base", *config.arms, "ceiling_render", "ceiling_vae"}
    assert (found["value"] <= 0.2).all()

    panel = pd.DataFrame(
        [("rapidocr", "DejaVu Sans Bold", "word", "none", 0.0, 1.0, 1)],
        columns=["judge", "font", "text", "kind", "severity", "share", "n"],
    )
    (results / "calibration").mkdir()
    panel.to_csv(results / "calibration" / "damage.csv", index=False)
    experiment = read_experiment(results, config)
    assert verdict_of(experiment, "clip_region", "held_out").outcome == "better"
    page = results_page.build([experiment])
    assert "### Malformed letters" in page
    assert "### What each judge overlooks" in page
    assert '<h2 id="letters">' in report_page.build(experiment, "", [])

    worse = pd.read_csv(table)
    worse.loc[worse["arm"] == "clip_region", ["delta_vs_control", "delta_low", "delta_high"]] = [0.2, 0.1, 0.3]
    worse.to_csv(table, index=False)
    verdict = verdict_of(read_experiment(results, config), "clip_region", "held_out")
    assert verdict.outcome == "not shown"
    assert "the gain is void: more of its pictures hold a malformed letter" in verdict.reason


def test_the_test_split_becomes_prompts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from list_test_prompts import prompts_of

    rows = [
        (3, "a sign", "OPEN", "word", "cmr10", "white", "black"),
        (4, "b", "XQ\nAB", "nonword\nword", "cmr10", "red", "white"),
    ]
    rows.append((5, "the same text", "OPEN", "word", "cmr10", "white", "black"))
    split = pd.DataFrame(rows, columns=["index", "caption", "text", "kind", "font", "color", "background"])
    assert prompts_of(split, {"EXIT"}) == [
        {"id": "test-000003", "prompt": "a sign", "targets": ["OPEN"], "kind": "word"}
        | {"font": "cmr10", "color": "white", "background": "black"},
        {"id": "test-000004", "prompt": "b", "targets": ["XQ", "AB"], "kind": "nonword"}
        | {"font": "cmr10", "color": "red", "background": "white"},
    ]
    with pytest.raises(UserError, match="'AB' of the test split occurs in the train split"):
        prompts_of(split, {"AB"})
