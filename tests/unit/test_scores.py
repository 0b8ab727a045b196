"""Scores and their summary: by hand, their pairing, and every way in which something can be missing."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from legible.config import Scoring
from legible.errors import UserError
from legible.io import write_jsonl
from legible.metrics.characters import character_errors
from legible.metrics.scores import DTYPES, kind_of_characters, score_images
from legible.metrics.statistics import exact_mcnemar, sign_flip, two_way_bootstrap
from legible.metrics.summary import (
    AGAINST_BASE,
    METRICS,
    TWO_WAY,
    by_training_seed,
    draw,
    summarise,
    with_distance,
    with_holm,
)

ROOT = Path(__file__).resolve().parents[2]
SCORING = Scoring(resamples=300)
TARGETS = ["OPEN", "LATE", "AB", "XY", "12", "EXIT"]
KINDS = ["word", "word", "nonword", "nonword", "digits", "word"]


def piece(text: str, left: float = 0, top: float = 0) -> dict:
    polygon = [[left, top], [left + 20, top], [left + 20, top + 10], [left, top + 10]]
    return {"polygon": polygon, "text": text, "confidence": 0.5}


def image(prompt: int, seed: int, targets: list[str] | None = None) -> dict:
    return {
        "file": f"p{prompt}-{seed}.png",
        "prompt_id": f"p{prompt}",
        "image_seed": seed,
        "targets": targets or [TARGETS[prompt]],
        "kind": KINDS[prompt],
        "font": "cmss10" if prompt == 1 else None,
    }


def read(row: dict, *pieces: dict, engine: str = "rapidocr") -> dict:
    return {
        "file": row["file"],
        "prompt_id": row["prompt_id"],
        "image_seed": row["image_seed"],
        "engine": engine,
        "engine_version": "1",
        "readings": list(pieces),
    }


def score_one(targets: list[str], *pieces: dict, profile: str = "lenient", cap: float = 1.0) -> pd.Series:
    row = image(0, 0, targets)
    scoring = Scoring(normalization=profile, cer_cap=cap)
    scores = score_images(
        {("base", "held_out"): [row]}, {("rapidocr", "base", "held_out"): [read(row, *pieces)]}, scoring
    )
    assert list(scores.columns) == list(DTYPES)
    return scores.iloc[0]


def test_a_misspelled_sign_by_hand():
    score = score_one(["OPEN"], piece("OPFNS"))
    assert (score["substitutions"], score["deletions"], score["insertions"]) == (1, 0, 1)
    assert (score["cer"], score["reference_length"], score["length"]) == (0.5, 4, 4)
    assert score["ned"] == pytest.approx(1 - 2 / 5)
    assert (score["exact"], score["extra_characters"], score["extra_text"]) == (False, 1, True)
    assert (score["wer"], score["word_errors"], score["words_reference"]) == (1.0, 1, 1)
    assert (score["target"], score["reading"], score["normalization"]) == ("OPEN", "OPFNS", "lenient-1")


def test_an_empty_reading_is_an_error_rate_of_one_and_no_missing_row():
    score = score_one(["OPEN"])
    assert (score["cer"], score["wer"], score["ned"], score["matched_ned"], score["word_f1"]) == (1, 1, 0, 0, 0)
    assert score["no_detection"]
    assert not score["extra_text"]
    assert score_one(["OPEN"], piece("..."))["no_detection"]
    assert not score_one(["OPEN"], piece("..."), profile="strict")["no_detection"]


def test_the_capped_error_rate():
    score = score_one(["AB"], piece("ABCDEF"))
    assert (score["cer"], score["cer_capped"]) == (2.0, 1.0)
    assert score_one(["AB"], piece("ABCDEF"), cap=1.5)["cer_capped"] == 1.5


def test_profiles_differ_in_case_and_in_the_spaces_of_one_word():
    assert score_one(["OPEN"], piece("Open."))["exact"]
    assert score_one(["OPEN"], piece("Open."), profile="strict")["cer"] == 1.0
    split = [piece("EN", left=30), piece("OP")]
    score = score_one(["OPEN"], *split)
    assert (score["reading"], score["cer"], score["exact"], score["wer"], score["word_f1"]) == ("OP EN", 0, True, 0, 1)
    assert score["matched_ned"] == 1.0
    assert score_one(["OPEN"], *split, profile="strict")["insertions"] == 1


def test_several_targets_are_read_in_order_and_matched_without():
    lines = [piece("LATE", top=0), piece("OPEN", top=20)]
    score = score_one(["OPEN", "LATE"], *lines)
    assert score["reading"] == "LATE OPEN"
    assert score["cer"] > 0.5
    assert (score["matched_ned"], score["word_f1"], score["extra_text"]) == (1.0, 1.0, False)
    assert score_one(["OPEN", "LATE"], *reversed(lines)).equals(score)
    assert score_one(["OPEN", "LATE"], *lines, piece("NOW", top=40))["matched_ned"] == pytest.approx(2 / 3)


def test_a_target_of_which_nothing_is_left_is_refused():
    with pytest.raises(UserError, match="nothing of the target"):
        score_one(["?!"], piece("A"))
    assert score_one(["?!"], piece("?!"), profile="strict")["exact"]


def experiment(spelling: dict[str, list[str]], engines: tuple[str, ...] = ("rapidocr", "easyocr")) -> tuple[dict, dict]:
    """Manifests and readings of models that spell the prompts so: `spelling` maps a model to a reading per prompt."""
    manifests, readings = {}, {}
    for model, texts in spelling.items():
        seeds = (0,) if model.startswith("ceiling") else (0, 1)
        rows = [image(prompt, seed) for prompt in range(len(texts)) for seed in seeds]
        manifests[model, "held_out"] = rows
        for engine in engines:
            found = [read(row, piece(texts[int(row["prompt_id"][1:])]), engine=engine) for row in rows]
            readings[engine, model, "held_out"] = found
    return manifests, readings


SPELLING = {
    "base": ["OPXX", "LATE", "AX", "QQ", "12", "EXIT"],
    "diffusion_only-seed0": ["OPXN", "LATE", "AX", "QY", "12", "EXIT"],
    "diffusion_only-seed1": ["OPEN", "LATE", "AX", "QY", "12", "EXIT"],
    "clip_region-seed0": ["OPEN", "LATE", "AB", "QY", "12", "EXIT"],
    "clip_region-seed1": ["OPEN", "LATE", "AB", "XY", "12", "EXITS"],
    "ceiling_render": TARGETS,
}


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    return score_images(*experiment(SPELLING), SCORING)


def pick(frame: pd.DataFrame, arm: str, metric: str, stratum: str = "all", engine: str = "rapidocr") -> pd.Series:
    where = (frame["arm"] == arm) & (frame["metric"] == metric) & (frame["stratum"] == stratum)
    (row,) = frame[where & (frame["engine"] == engine)].itertuples(index=False)
    return pd.Series(row._asdict())


def test_the_summary_by_hand(scores):
    summary = summarise(scores, SCORING)
    # Characters per image set: 4 + 4 + 2 + 2 + 2 + 4 = 18; edits of the two seeds of the control: 3 and 2.
    control = pick(summary, "diffusion_only", "cer_micro")
    assert control["value"] == pytest.approx(2.5 / 18)
    assert (control["n_prompts"], control["n_images"], control["n_training_seeds"]) == (6, 24, 2)
    assert np.isnan(control[["delta_vs_control", "delta_low", "delta_high"]].astype(float)).all()
    arm = pick(summary, "clip_region", "cer_micro")
    assert arm["value"] == pytest.approx(1 / 18)
    assert arm["delta_vs_control"] == pytest.approx(-1.5 / 18)
    assert arm["delta_low"] <= arm["delta_vs_control"] <= arm["delta_high"]
    assert arm["relative_delta"] == pytest.approx(-1.5 / 2.5)
    assert np.isnan(control[["relative_delta", "relative_low", "relative_high"]].astype(float)).all()
    assert pick(summary, "base", "cer_micro")["delta_vs_control"] == pytest.approx((5 - 2.5) / 18)
    assert pick(summary, "base", "cer_micro")["relative_delta"] == pytest.approx(1.0)
    assert np.isnan(pick(summary, "clip_region", "no_detection_rate")["relative_delta"])
    assert pick(summary, "base", "cer_micro")["n_training_seeds"] == 0
    ceiling = pick(summary, "ceiling_render", "cer_micro")
    assert (ceiling["value"], ceiling["n_images"]) == (0, 6)
    assert np.isnan(ceiling["delta_vs_control"])
    assert pick(summary, "clip_region", "exact")["value"] == pytest.approx(1 - (0.5 + 0.5) / 6)
    assert pick(summary, "clip_region", "extra_text_rate")["value"] == pytest.approx(0.5 / 6)
    assert pick(summary, "clip_region", "cer_macro")["value"] == pytest.approx((0.25 + 0.125) / 6)
    assert pick(summary, "diffusion_only", "cer_micro", "length=2")["value"] == pytest.approx(2 / 6)
    assert pick(summary, "diffusion_only", "wer", "kind=word")["value"] == pytest.approx(0.5 / 3)


def test_gains_are_taken_over_prompts_and_seeds_together_and_to_the_base_as_well(scores):
    summary = summarise(scores, SCORING)
    edits = with_distance(scores[scores["engine"] == "rapidocr"])
    cells = {arm: rows.pivot_table("distance", "training_seed", "prompt_id") for arm, rows in edits.groupby("arm")}
    base = edits[edits["arm"] == "base"].groupby("prompt_id")["distance"].mean().to_numpy()[None]
    length = edits.groupby("prompt_id")["reference_length"].mean().to_numpy()
    draws = draw(SCORING, "held_out", "all", (2, 6))
    row = pick(summary, "clip_region", "cer_micro")
    for prefix, other in (("", cells["diffusion_only"].to_numpy()), ("base_", base)):
        pair = (cells["clip_region"].to_numpy(), other, length, draws.prompts, draws.seeds, SCORING.confidence)
        found = two_way_bootstrap(*pair)
        names = [f"{prefix}{name}" for name in ("two_way_low", "two_way_high")]
        assert row[names].tolist() == pytest.approx([found.difference.low, found.difference.high])
        names = [f"{prefix}relative_two_way_low", f"{prefix}relative_two_way_high"]
        bounds = [found.relative.low, found.relative.high]
        assert row[names].astype(float).tolist() == pytest.approx(bounds, nan_ok=True)
        flipped = sign_flip((pair[0] - other).mean(0), draws.signs)
        assert row[f"{prefix}p_value"] == pytest.approx(max(flipped, found.p_value))
    assert row["base_delta"] == pytest.approx((1 - 5) / 18)
    assert row["base_relative_delta"] == pytest.approx(-0.8)
    assert np.isnan(pick(summary, "clip_region", "wer")[[*TWO_WAY, *AGAINST_BASE]].astype(float)).all()
    control = pick(summary, "diffusion_only", "cer_micro")
    assert np.isnan(control[[*TWO_WAY]].astype(float)).all()
    assert control["base_delta"] == pytest.approx((2.5 - 5) / 18)
    once = scores[scores["training_seed"].isna() | (scores["training_seed"] == 0)]
    row = pick(summarise(once, SCORING), "clip_region", "cer_micro")
    assert (row["two_way_low"], row["two_way_high"]) == (row["delta_low"], row["delta_high"])


def test_the_summary_tests_prompts_and_corrects_over_strata(scores):
    summary = summarise(scores, SCORING)
    tested = summary[summary["p_value"].notna()]
    assert set(tested["metric"]) == {"cer_micro", "exact"}
    assert set(tested["arm"]) == {"base", "clip_region"}
    errors = pick(summary, "clip_region", "cer_micro")
    assert errors["p_holm"] == min(1, 2 * errors["p_value"])
    # OPEN, AB and XY improved, EXIT fell; the family is one auxiliary arm × two engines.
    overall = pick(summary, "clip_region", "exact")
    assert (overall["p_value"], overall["p_holm"]) == (exact_mcnemar(3, 1), min(1, 2 * exact_mcnemar(3, 1)))
    base = pick(summary, "base", "exact")
    assert base["p_holm"] == base["p_value"] == exact_mcnemar(0, 1)
    assert (tested["p_holm"] >= tested["p_value"]).all()


def test_holm_is_over_the_auxiliary_arms_and_engines_of_a_prompt_set_and_over_the_strata_of_an_arm():
    def row(stratum: str, arm: str, engine: str, p_value: float, prompt_set: str = "held_out", metric="exact") -> dict:
        names = {"stratum": stratum, "arm": arm, "engine": engine, "prompt_set": prompt_set, "metric": metric}
        return names | {"p_value": p_value, "n_prompts": 1, "n_images": 1, "n_training_seeds": 1}

    rows = [row("all", "base", "a", 0.5), row("all", "ctc", "a", 0.01), row("all", "ctc", "b", 0.04)]
    rows += [row("all", "clip", "a", 0.02), row("all", "clip", "b", float("nan")), row("all", "ctc", "a", 0.3, "other")]
    rows += [row("length=2", "ctc", "a", 0.01), row("font=any", "ctc", "a", 0.03), row("length=2", "clip", "a", 0.2)]
    rows += [row("length=2", "base", "a", 0.02), row("font=any", "base", "a", 0.02)]
    rows += [row("all", "ctc", engine, 0.4, metric="cer_micro") for engine in "ab"]  # another metric, another family
    adjusted = with_holm(pd.DataFrame(rows))["p_holm"].tolist()
    expected = [0.5, 0.03, 0.04, 0.04, float("nan"), 0.3, 0.02, 0.03, 0.2, 0.04, 0.04, 0.8, 0.8]
    assert adjusted == pytest.approx(expected, nan_ok=True)


def test_the_summary_is_complete_repeatable_and_equal_for_equal_engines(scores):
    summary = summarise(scores, SCORING)
    strata = ["all", "length=2", "length=4", "kind=digits", "kind=nonword", "kind=word"]
    strata += ["font=any", "font=cmss10", "characters=digits", "characters=letters"]
    assert list(dict.fromkeys(summary["stratum"])) == strata
    assert list(dict.fromkeys(summary["arm"])) == ["base", "diffusion_only", "clip_region", "ceiling_render"]
    assert len(summary) == len(strata) * 4 * 2 * len(METRICS)
    pd.testing.assert_frame_equal(
        summary, summarise(scores.sample(frac=1, random_state=0), SCORING).reindex_like(summary)
    )
    first, second = (summary[summary["engine"] == e].drop(columns="engine") for e in ("easyocr", "rapidocr"))
    pd.testing.assert_frame_equal(first.reset_index(drop=True), second.reset_index(drop=True))


def test_other_strata_do_not_change_an_interval(scores):
    words = scores[scores["kind"] == "word"]
    alone = pick(summarise(words, SCORING), "clip_region", "cer_micro", "kind=word")
    assert alone.equals(pick(summarise(scores, SCORING), "clip_region", "cer_micro", "kind=word"))


def test_the_spread_of_training_seeds(scores):
    seeds = by_training_seed(scores)
    own = seeds[(seeds["stratum"] == "all") & (seeds["metric"] == "cer_micro") & (seeds["engine"] == "rapidocr")]
    arm = own[own["arm"] == "clip_region"].set_index("training_seed")
    assert arm["value"].to_dict() == pytest.approx({0: 1 / 18, 1: 1 / 18})
    assert arm["delta_vs_control"].to_dict() == pytest.approx({0: -2 / 18, 1: -1 / 18})
    assert own[own["arm"] == "base"]["training_seed"].isna().all()
    assert own[own["arm"].isin(["base", "diffusion_only", "ceiling_render"])]["delta_vs_control"].isna().all()


def test_a_missing_image_is_an_error_and_no_dropped_row(scores):
    for model in ("clip_region-seed1", "diffusion_only-seed0", "base", "ceiling_render"):
        dropped = scores[~((scores["model"] == model) & (scores["prompt_id"] == "p1") & (scores["image_seed"] == 0))]
        with pytest.raises(UserError, match=rf"{model} lacks an image of p1"):
            summarise(dropped, SCORING)
    with pytest.raises(UserError, match="clip_region-seed1 are missing"):
        summarise(scores[scores["model"] != "clip_region-seed1"], SCORING)
    with pytest.raises(UserError, match="no images of diffusion_only"):
        summarise(scores[scores["arm"] != "diffusion_only"], SCORING)


def test_readings_must_fit_their_images():
    manifests, readings = experiment({"base": TARGETS}, ("rapidocr",))
    key = ("rapidocr", "base", "held_out")
    with pytest.raises(UserError, match=r"p0-0\.png is missing in the readings"):
        score_images(manifests, {key: readings[key][1:]}, SCORING)
    with pytest.raises(UserError, match=r"p0-0\.png is missing in the manifest"):
        score_images({("base", "held_out"): manifests["base", "held_out"][1:]}, readings, SCORING)
    with pytest.raises(UserError, match="occurs twice"):
        score_images(manifests, {key: [*readings[key], readings[key][0]]}, SCORING)
    with pytest.raises(UserError, match="prompt or seed differ"):
        score_images(manifests, {key: [readings[key][0] | {"image_seed": 7}, *readings[key][1:]]}, SCORING)
    with pytest.raises(UserError, match="there are no readings"):
        score_images(manifests | {("base", "other"): manifests["base", "held_out"]}, readings, SCORING)
    row = {k: v for k, v in manifests["base", "held_out"][0].items() if k != "targets"}
    with pytest.raises(UserError, match="lacks the key targets"):
        score_images({("base", "held_out"): [row]}, {key: readings[key][:1]}, SCORING)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("open", "letters"),
        ("the e\u0301nd", "letters"),
        ("24 7", "digits"),
        ("a1", "mixed"),
        ("a-b", "mixed"),
        ("€5", "mixed"),
    ],
)
def test_the_kind_of_a_targets_characters(text, kind):
    assert kind_of_characters(text) == kind


def test_the_font_is_the_manifests_or_any():
    def font_of(row: dict) -> str:
        manifests, readings = {("base", "s"): [row]}, {("rapidocr", "base", "s"): [read(row, piece("OPEN"))]}
        return score_images(manifests, readings, SCORING)["font"].item()

    row = image(0, 0)
    assert font_of(row | {"font": "cmr10"}) == "cmr10"
    assert font_of(row | {"font": None}) == font_of({k: v for k, v in row.items() if k != "font"}) == "any"


def test_which_characters_go_wrong_and_what_stands_there_instead():
    def one(target: str, text: str, number: int) -> tuple[dict, dict]:
        row = image(number, 0, [target])
        return row, read(row, *([piece(text)] if text else []))

    pairs = [one("OPEN", "0PN", 0), one("OO", "0Q", 1), one("O", "Q", 2), one("NO ON", "NO ONX", 3), one("12", "", 4)]
    images, read_rows = zip(*pairs, strict=True)
    scores = score_images({("base", "s"): images}, {("rapidocr", "base", "s"): read_rows}, SCORING)
    table = character_errors(scores, "lenient")
    assert set(table[["arm", "engine", "prompt_set"]].itertuples(index=False, name=None)) == {("base", "rapidocr", "s")}
    found = table.set_index("character")[["asked", "wrong", "substitute", "substituted"]]
    # O: 1 + 2 + 1 + 2 times; read as 0 twice and as q twice, of which 0 comes first.
    assert found.T.to_dict("list") == {
        "1": [1, 1, "", 0],
        "2": [1, 1, "", 0],
        "e": [1, 1, "", 0],
        "n": [3, 0, "", 0],
        "o": [6, 4, "0", 2],
        "p": [1, 0, "", 0],
    }
    assert table.set_index("character")["error_rate"]["o"] == pytest.approx(4 / 6)


def test_the_edits_of_the_characters_are_those_of_the_scores(scores):
    table = character_errors(scores, "lenient")
    both = scores.groupby(["arm", "engine"])[["substitutions", "deletions", "reference_length"]].sum()
    sums = table.groupby(["arm", "engine"])[["wrong", "asked"]].sum()
    assert (sums["wrong"] == both["substitutions"] + both["deletions"]).all()
    assert (sums["asked"] == both["reference_length"]).all()  # no target has a space


def test_models_must_have_been_asked_for_the_same():
    manifests, readings = experiment({"base": TARGETS, "diffusion_only-seed0": TARGETS}, ("rapidocr",))
    manifests["base", "held_out"][0] = manifests["base", "held_out"][0] | {"targets": ["CLOSED"]}
    with pytest.raises(UserError, match="p0: models were asked for different targets"):
        score_images(manifests, readings, SCORING)
    manifests["base", "held_out"][0] |= {"targets": TARGETS[:1], "font": "cmr10"}
    with pytest.raises(UserError, match="p0: models were asked for different targets or fonts"):
        score_images(manifests, readings, SCORING)


def run_script(folder: Path, spelling: dict[str, list[str]], arms: list[str]) -> subprocess.CompletedProcess:
    manifests, readings = experiment(spelling)
    images = [folder / "images" / model / prompt_set / "manifest.jsonl" for model, prompt_set in manifests]
    files = [folder / "ocr" / engine / model / f"{prompt_set}.jsonl" for engine, model, prompt_set in readings]
    for path, rows in zip([*images, *files], [*manifests.values(), *readings.values()], strict=True):
        write_jsonl(path, rows)
    config = json.dumps({"scoring": {"resamples": 100}, "arms": arms, "seeds": [0, 1]})
    # The order of the files must not matter: they are paired by their paths.
    command = [sys.executable, "scripts/score_readings.py", "--config", config, "--output-dir", str(folder / "scores")]
    command += ["--images", *map(str, images), "--readings", *map(str, reversed(files))]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_script_writes_scores_summary_and_seeds(tmp_path, scores):
    done = run_script(tmp_path, SPELLING, ["diffusion_only", "clip_region"])
    assert done.returncode == 0, done.stderr
    written = pd.read_parquet(tmp_path / "scores" / "scores.parquet")
    pd.testing.assert_frame_equal(written, scores, check_dtype=False)
    assert written["training_seed"].isna().sum() == 2 * (12 + 6)
    summary = pd.read_csv(tmp_path / "scores" / "summary.csv")
    assert pick(summary, "clip_region", "cer_micro")["delta_vs_control"] == pytest.approx(-1.5 / 18, abs=1e-6)
    assert len(pd.read_csv(tmp_path / "scores" / "seeds.csv")) == 10 * 6 * 2 * len(METRICS)
    characters = pd.read_csv(tmp_path / "scores" / "characters.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(characters, character_errors(scores, "lenient"), check_dtype=False, rtol=1e-5)
    assert "clip_region" in done.stdout


def test_the_script_names_what_is_missing(tmp_path):
    spelling = {model: texts for model, texts in SPELLING.items() if model != "clip_region-seed1"}
    done = run_script(tmp_path, spelling, ["diffusion_only", "clip_region"])
    assert done.returncode == 2
    assert "images of clip_region-seed1 are missing" in done.stderr
    assert not (tmp_path / "scores").exists()
    done = run_script(tmp_path, SPELLING, ["diffusion_only"])
    assert (done.returncode, "no configured arm" in done.stderr) == (2, True)
