"""The workflow, for real: one tiny run of everything, the evidence in miniature, and what stops it."""

import json
import re
from datetime import UTC, datetime

import pandas as pd
import pytest
import torch
import yaml
from project import CATALOGUE, FIGURES, MODELS, OPTIONAL, RESULTS, ROOT, TARGETS
from safetensors.torch import load_file

from legible.config import validate
from legible.train.checkpoint import load_checkpoint

pytestmark = pytest.mark.workflow


def test_one_command_makes_every_file_that_a_user_can_rely_on(project):
    results = project.folder / RESULTS
    expected = [
        "config.yaml", "fonts/manifest.json", "data/train.parquet", "data/test.parquet",
        "runs/diffusion_only/seed0/weights/transformer/diffusion_pytorch_model.safetensors",
        "runs/clip_region/seed0/metrics.jsonl", "runs/clip_region/seed0/run.json",
        *(f"images/{model}/short/manifest.jsonl" for model in MODELS),
        *(f"ocr/rapidocr/{model}/short.jsonl" for model in MODELS),
        "scores/scores.parquet", "scores/summary.csv", "report.html",
        *(f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "pdf")),
    ]  # fmt: skip
    assert [name for name in expected if not (results / name).is_file()] == []
    assert len(list((results / "images" / "base" / "short").glob("*.png"))) == 3
    scores = pd.read_parquet(results / "scores" / "scores.parquet")
    assert len(scores) == len(MODELS) * 3
    assert not [path for path in results.rglob(".*") if path.is_file() and path.name != ".snakemake_timestamp"]
    assert validate(yaml.safe_load((results / "config.yaml").read_text()), "written").experiment == "tiny"
    run = json.loads((results / "runs" / "clip_region" / "seed0" / "run.json").read_text())
    assert run["training"]["aux"]["lambda"] == 0.2
    report = (results / "report.html").read_text()
    assert "clip_region" in report
    assert not re.search(r"""(?:src|href)=["'](?!data:|#|https?:)""", report)  # self-contained


def test_a_second_run_has_nothing_to_do(project):
    before = {path: path.stat().st_mtime_ns for path in (project.folder / RESULTS).rglob("*") if path.is_file()}
    assert "Nothing to be done" in project.snakemake()
    after = {path: path.stat().st_mtime_ns for path in (project.folder / RESULTS).rglob("*") if path.is_file()}
    assert after == before
    assert "Nothing to be done" in project.snakemake("--dry-run", *TARGETS[1:])


def test_snakemakes_own_report_holds_figures_and_captions(project):
    project.snakemake("--report", "own.html")
    page = (project.folder / "own.html").read_text()
    captions = {name: CATALOGUE[name].caption for name in FIGURES}
    captions |= {name: (ROOT / "resources" / "report" / f"{name}.rst").read_text() for name in ("summary", "report")}
    for name, caption in captions.items():
        assert " ".join(caption.split()[:4]) in page, name
    assert all(category in page for category in ("Figures", "Scores", "Report"))


def test_every_job_tells_its_progress_in_its_log(project):
    logs = project.folder / RESULTS / "logs"
    said = (logs / "train_clip_region_seed0.log").read_text()
    assert re.search(r"clip_region seed 0: 2/2 step, [\d.]+ step/s, 0 s left", said)
    assert "sample base: 1/1 batch" in (logs / "generate_base.short.log").read_text()
    assert "0 s left" in project.first  # and on the terminal


def test_no_two_jobs_share_a_log_however_arms_and_prompt_sets_are_called(project):
    """Each would overwrite what the other says, and on a cluster ask for the memory that the other lacked."""
    prompts = project.folder / "resources" / "prompts" / "held_out.jsonl"
    arm = {"aux": {"loss": "clip_region", "lambda": 0.2, "every": 2}, "snapshots": [1]}
    overlay = {
        "arms": {name: arm for name in ("a", "a_b", "base_c")},
        "prompt_sets": {name: {"path": str(prompts), "limit": 1} for name in ("c", "b_c", "c_c", "base_no_text")},
        "drift": {"limit": 2},
    }
    (project.folder / "names.yaml").write_text(yaml.safe_dump(overlay))
    said = project.snakemake("--dry-run", "--forceall", "--configfile", "names.yaml")
    for kind in ("log", "benchmark"):
        files = re.findall(rf"^    {kind}: (.+)$", said, flags=re.MULTILINE)
        assert len(files) > 30
        assert [file for file in set(files) if files.count(file) > 1] == []


def test_every_job_says_what_it_needs(project):
    said = project.snakemake("--dry-run", "--forceall")
    blocks = re.split(r"^(?=(?:local)?rule \w+:$)", said, flags=re.MULTILINE)[1:]
    jobs = {}
    for block in blocks:
        name = re.match(r"(?:local)?rule (\w+):", block)[1]
        jobs.setdefault(name, re.findall(r"resources: (.*)", block))
    unsaid = [
        name
        for name, asked in jobs.items()
        if name not in TARGETS and not re.search("runtime=.*mem_mb=|mem_mb=.*runtime=", asked[0])
    ]
    assert unsaid == []
    assert "mem_mb=4000" in said  # nobody counts


def test_where_memory_is_counted_the_pre_flight_says_how_much(project):
    said = project.snakemake("--dry-run", "--forceall", "--resources", "mem_mb=64000")
    (kept,) = (project.folder / "results" / "cache" / "memory").glob("*.json")
    planned = json.loads(kept.read_text())
    assert planned["train_clip_region"] > planned["train_diffusion_only"] > planned["encode"] > 3000
    assert {"encode", "sample", "gradients", "train_clip_region", "train_diffusion_only"} == set(planned)
    for stage in ("encode", "sample", "train_clip_region", "train_diffusion_only"):
        assert re.search(rf"mem_mb={planned[stage]}\b", said), stage


def test_single_stages_exist_and_stop_where_they_should(project):
    listed = project.snakemake("--list-target-rules").split()
    assert {*TARGETS, "nano"} <= set(listed)
    prepared = {"inspect_fonts", "render_dataset", "encode_dataset"}
    for target, rules in {
        "data": prepared,
        "baseline": {"generate_baseline"},
        "train": prepared | {"train_arm"},
    }.items():
        assert {rule for rule, _ in project.would_run("--forceall", target)} == rules


EVIDENCE = {
    "experiment": "evidence",
    "results_page": "pages/RESULTS.md",
    "drift": {"limit": 2},
    "gradients": 2,
    "cer_levels": [0.9, 0.1],
    "timing": {"steps": 2, "rounds": 2},
    "segmenter": {"steps": 2, "width": 16},
    "arms": {
        "diffusion_only": {"snapshots": [1]},
        "clip_region": {"snapshots": [1], "aux": {"every": 1}},
        "sum": {"aux": {"loss": {"glyph_mask": 1.0, "char_segmentation": 0.5}, "lambda": 1.0, "every": 1,
                        "balance": "gradient_norm"}},
    },
}  # fmt: skip


def test_the_evidence_in_miniature(project):
    """Snapshots, drift, gradients, the latent segmenter and the page of results, all at once."""
    (project.folder / "evidence.yaml").write_text(yaml.safe_dump(EVIDENCE))
    project.snakemake("--configfile", "evidence.yaml")
    results = project.folder / "results" / "evidence"
    assert all((results / "figures" / f"{name}.png").is_file() for name in OPTIONAL - {"race", "validation_curves"})
    curve = pd.read_csv(results / "scores" / "curve.csv")
    assert set(zip(curve["arm"], curve["step"], strict=True)) == {
        (arm, step) for arm in ("diffusion_only", "clip_region") for step in (0, 1, 2)
    }
    # A step of each arm took so many processor seconds, measured while nothing else of the workflow ran.
    timing = pd.read_csv(results / "timing.csv")
    arms = timing["arm"].tolist()[:3]
    assert set(arms) == {"diffusion_only", "clip_region", "sum"}
    assert timing["arm"].tolist() == [*arms, *arms[1:], arms[0]]  # the second round begins with another one
    assert set(timing["device"]) == {"cpu"}
    assert timing.groupby("arm")["steps"].first().to_dict() == {"diffusion_only": 2, "clip_region": 8, "sum": 8}
    assert (timing["processor_seconds"] > 0).all()
    pace = (timing["processor_seconds"] / timing["steps"]).groupby(timing["arm"]).median()
    assert curve["seconds"].tolist() == pytest.approx((curve["step"] * curve["arm"].map(pace)).tolist(), rel=1e-4)
    assert set(curve["clock"]) == {"processor seconds, measured alone"}
    # The last checkpoint knows what the final weights are; a snapshot's are others.
    (checkpoint,) = results.glob("checkpoints/clip_region-seed0-*/checkpoint.json")
    final = load_checkpoint(checkpoint, json.loads(checkpoint.read_text())["key"])["parameters"]
    kept = {
        name: load_file(results / f"runs/clip_region/seed0/{name}/transformer/diffusion_pytorch_model.safetensors")
        for name in ("weights", "snapshots/step1")
    }
    assert all(torch.equal(kept["weights"][name], value) for name, value in final.items())
    assert not all(torch.equal(kept["snapshots/step1"][name], value) for name, value in final.items())
    drift = pd.read_csv(results / "scores" / "drift.csv")
    assert {"diffusion_only", "clip_region", "sum"} <= set(drift["arm"])
    assert (drift[drift["metric"] == "rmse"]["value"] > 0).all()
    gradients = pd.read_csv(results / "gradients.csv")
    assert set(gradients["loss"]) == {"clip_region", "glyph_mask", "char_segmentation"}
    assert gradients.groupby("loss")["sigma"].nunique().tolist() == [2, 2, 2]
    rows = [json.loads(line) for line in (results / "runs/sum/seed0/metrics.jsonl").read_text().splitlines()]
    assert all(row["grad_norm_aux"] > 0 for row in rows)
    page = (project.folder / "pages" / "RESULTS.md").read_text()
    assert all(arm in page for arm in EVIDENCE["arms"])
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", page)
    assert pictures
    assert all((project.folder / "pages" / name).is_file() for name in pictures)
    links = re.findall(r"[^!]\[[^]]*\]\((results/evidence/[^)]+)\)", page)
    assert {"results/evidence/timing.csv", "results/evidence/runs.json", "results/evidence/summary.csv"} <= set(links)
    assert all((project.folder / "pages" / name).is_file() for name in links)
    (began,) = {run["started"][:10] for run in json.loads((project.folder / "pages" / links[-1]).read_text())}
    assert began == datetime.now(UTC).date().isoformat()
    assert "Nothing to be done" in project.snakemake("--configfile", "evidence.yaml")


def test_a_regime_is_the_whole_workflow_once_more(project):
    overlay = {"regimes": {"shift": {"data": {"length": [3, 5]}, "arms": {"clip_region": None}}}}
    (project.folder / "regimes.yaml").write_text(yaml.safe_dump(overlay))
    jobs = project.would_run("--configfile", "regimes.yaml")
    assert {rule for rule, _ in jobs if not rule.startswith("shift_")} == {"write_config", "build_report"}
    assert {job for job in jobs if job[0] == "shift_train_arm"} == {("shift_train_arm", "arm=diffusion_only, seed=0")}
    assert {"shift_render_dataset", "shift_score_readings", "shift_build_report"} <= {rule for rule, _ in jobs}


@pytest.mark.parametrize(
    ("overlay", "sentence"),
    [
        ("regimes: {shift: {data: {length: [5, 3]}}}", "regimes.shift.data.length: the first number must not exceed"),
        ("regimes: {shift: {regimes: {}}}", "regimes.shift.regimes: a regime cannot set this"),
        ("training: {learning_rate: 1e-4}", "training.learning_rate: '1e-4' is text, a number is needed"),
        ("trainign: {steps: 3}", "trainign: unknown key"),
        ("arms: {clip_region: {aux: {lambda: -1}}}", "arms.clip_region.aux.lambda: it must be 0 or more"),
        ("seeds: [0, 0]", "seeds: every value may be given once only"),
    ],
)
def test_a_bad_configuration_stops_with_one_sentence(project, overlay, sentence):
    (project.folder / "bad.yaml").write_text(overlay)
    said = project.snakemake("--dry-run", "--configfile", "bad.yaml", check=False)
    assert len([line for line in said.splitlines() if sentence in line]) == 1
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) <= 5


def test_a_job_whose_script_fails_has_failed(project):
    # The scripts' output goes through tee, whose own success must not count.
    row = {"id": "a", "prompt": "a sign that says GO", "targets": ["GO"], "font": "Nobody"}  # found out by the job only
    (project.folder / "font.jsonl").write_text(json.dumps(row))
    overlay = {"experiment": "failing", "prompt_sets": {"short": {"path": "font.jsonl"}}}
    (project.folder / "failing.yaml").write_text(yaml.safe_dump(overlay))
    target = "results/failing/images/ceiling_render/short"
    said = project.snakemake("--configfile", "failing.yaml", "--", target, check=False)
    assert "error: prompt 'a': the font 'Nobody' was not found" in said
    assert "completed successfully" not in said


def test_a_number_that_snakemake_turned_into_text_is_explained(project):
    said = project.snakemake("--dry-run", "--config", 'training={"steps": 3}', check=False)
    assert "training.steps: '3' is text, a whole number is needed" in said
    assert "give it in a file (--configfile) instead of --config" in said


def test_arms_are_trained_by_rewards_and_go_on_from_one_another(project):
    reward = {"weights": {"reading": 1.0}, "steps": 2, "last": 1}
    arms = {
        "clip_region": None,
        "reading": {"parts": ["text_encoder"], "reward": reward},
        "both": {"start": "reading", "parts": ["denoiser"], "reward": reward},
    }
    overlay = project.folder / "rewards.yaml"
    scored = {"reward_scores": ["reading"], "experiment": "rewards", "arms": arms}
    overlay.write_text(yaml.safe_dump(scored))
    files = ["runs/both/seed0/run.json", "images/both-seed0/short", "scores/guards.csv"]
    targets = [*(f"results/rewards/{file}" for file in files), "--configfile", "rewards.yaml"]
    project.snakemake(*targets)
    results = project.folder / "results" / "rewards"
    weights = [results / "runs" / arm / "seed0" / "weights" for arm in ("reading", "both")]
    first, second = ({path.name for path in folder.iterdir() if path.is_dir()} for folder in weights)
    assert first == {"text_encoder"}
    assert second == {"text_encoder", "transformer"}
    encoders = [load_file(folder / "text_encoder" / "model.safetensors") for folder in weights]
    assert all(torch.equal(value, encoders[1][name]) for name, value in encoders[0].items())
    assert len(list((results / "images" / "both-seed0" / "short").glob("*.png"))) == 3
    rewards, guards = (pd.read_csv(results / "scores" / f"{name}.csv") for name in ("rewards", "guards"))
    measured = {"reading", "likelihood", "colour_entropy", "edge_density", "distance_to_others"}
    assert measured <= set(rewards["metric"])
    assert {"base", *arms} - {"clip_region"} <= set(rewards["arm"])
    assert rewards["value"].notna().all()
    assert set(guards[guards["guard"] == "held_out_rewards"]["arm"]) == {"reading", "both"}
    assert "Nothing to be done" in project.snakemake(*targets)
    overlay.write_text(overlay.read_text().replace("reading: 1.0", "reading: 2.0"))
    again = project.would_run(*targets)
    assert {("train_arm", f"arm={arm}, seed=0") for arm in ("reading", "both")} <= again
    assert not any("diffusion_only" in wildcards for _, wildcards in again)


def test_spelling_is_watched_and_what_only_scores_is_refused_as_its_prompts(project):
    """From the dataset without its targets to the best weights and the figure; afterwards nothing is left to do."""
    validation = {"limit": 2, "every": 1, "keep": "best"}
    overlay = project.folder / "watched.yaml"
    overlay.write_text(yaml.safe_dump({"experiment": "watched", "validation": validation}))
    results = project.folder / "results" / "watched"
    targets = ["results/watched/figures/validation_curves.png", "--configfile", "watched.yaml"]
    project.snakemake(*targets)
    assert "Nothing to be done" in project.snakemake(*targets)
    for arm in ("diffusion_only", "clip_region"):
        folder = results / "runs" / arm / "seed0"
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        run = json.loads((folder / "run.json").read_text())
        assert [(row["step"], "validation" in row) for row in rows] == [
            (0, True),
            (0, False),
            (1, True),
            (1, False),
            (2, True),
        ]
        assert run["best_cer"] == min(row["validation"]["cer"] for row in rows if "validation" in row)
        assert (run["steps"], run["validation_judge"]["engine"]) == (2, "rapidocr")
    excluded = {
        name: json.loads((project.folder / "results" / name / "data" / "summary.json").read_text())["excluded_targets"]
        for name in ("tiny", "watched")
    }
    assert excluded == {"tiny": 160, "watched": 224}
    prompts = validation | {"prompts": "resources/prompts/held_out.jsonl"}
    overlay.write_text(yaml.safe_dump({"experiment": "watched", "validation": prompts}))
    said = project.snakemake(*targets, check=False)
    assert "held_out.jsonl and resources/prompts/held_out.jsonl both ask for '" in said


ENGINE = {
    "experiment": "engine",
    "data": {"train": 12, "test": 2, "height": 32, "width": 64},
    "render": {
        "stages": [{"preset": "pure"}, {"preset": "scenes"}],
        "recipe": {"scripts": {"hebrew": 1.0}, "texts": [1, 1], "words": [1, 1], "size": [10, 20], "margin": 2},
    },
    "prompt_sets": {"short": None, "hebrew": {"path": "hebrew.jsonl"}},
    "segmenter": {"steps": 2, "width": 16},
    "training": {"order": "stages"},
    "arms": {
        "clip_region": None,
        "letters": {"aux": {"loss": {"glyph_mask": 1.0, "char_segmentation": 1.0}, "lambda": 1.0, "every": 1}},
    },
    "scoring": {"judge_limit": None},
}


def test_the_text_engine_draws_the_data_and_a_judge_that_cannot_read_them_is_refused(project):
    """From rendering to the report in a script that runs to the left, in two stages; RapidOCR knows no Hebrew."""
    words = ["שלום", "ספר", "עיר"]
    rows = [{"id": f"h{n}", "prompt": f'a sign that says "{w}"', "targets": [w]} for n, w in enumerate(words)]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (project.folder / "hebrew.jsonl").write_text(text, encoding="utf-8")
    (project.folder / "engine.yaml").write_text(yaml.safe_dump(ENGINE))
    project.snakemake("--configfile", "engine.yaml")
    results = project.folder / "results" / "engine"
    data = pd.read_parquet(results / "data" / "train.parquet")
    assert data["stage"].tolist() == [0] * 6 + [1] * 6
    assert set("\n".join(data["kind"]).split("\n")) == {"hebrew"}
    assert not any(word in text for word in words for text in data["text"])
    summary = pd.read_csv(results / "scores" / "summary.csv")
    assert {"diffusion_only", "letters"} <= set(summary["arm"])
    assert (results / "report.html").is_file()
    judge = pd.read_csv(results / "scores" / "judges" / "rapidocr.csv")
    assert judge["errors"].sum() > 0.5 * judge["characters"].sum()

    strict = ENGINE | {"experiment": "refused", "scoring": {"judge_limit": 0.03}}
    (project.folder / "refused.yaml").write_text(yaml.safe_dump(strict))
    said = project.snakemake("--configfile", "refused.yaml", "--", "results/refused/report.html", check=False)
    assert "ocr.rapidocr: it cannot judge the prompt set hebrew: of our own clean renders it gets" in said
    assert "scoring.judge_limit is 0.03" in said
    assert not (project.folder / "results" / "refused" / "report.html").exists()
