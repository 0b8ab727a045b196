"""Learning curves of snapshots: by hand, and every way in which a point can be missing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from legible.io import write_json, write_jsonl
from legible.metrics.curve import steps_to_levels

pytestmark = pytest.mark.slow  # whole pages, figures and bootstraps

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("OPEN", "LATE", "EX")
# What every model writes: 10 characters are asked for.
SPELLING = {
    "base": ("XXEN", "LATX", "EX"),
    "diffusion_only-seed0-step2": ("XPEN", "LATX", "EX"),
    "diffusion_only-seed0-step4": ("OPEN", "LATX", "EX"),
    "diffusion_only-seed0": ("OPEN", "LATX", "EX"),
    "ctc-seed0-step2": ("OPEN", "LATX", "EX"),
    "ctc-seed0": ("OPEN", "LATE", "EX"),
    "never_snapped-seed0": ("OPEN", "LATE", "EX"),
}
CONFIG = {"scoring": {}, "arms": ["diffusion_only", "never_snapped", "ctc"], "seeds": [0]}


def write_model(folder: Path, model: str, texts: tuple[str, ...]) -> None:
    images, readings = [], []
    for number, (target, text) in enumerate(zip(TARGETS, texts, strict=True)):
        row = {"file": f"p{number}_s3.png", "prompt_id": f"p{number}", "image_seed": 3}
        images.append(row | {"targets": [target], "kind": "word", "font": None})
        piece = {"polygon": [[0, 0], [9, 0], [9, 9], [0, 9]], "text": text, "confidence": 1.0}
        readings.append(row | {"engine": "rapidocr", "engine_version": "1", "readings": [piece]})
    write_jsonl(folder / "images" / model / "held_out" / "manifest.jsonl", images)
    write_jsonl(folder / "ocr" / "rapidocr" / model / "held_out.jsonl", readings)


def write_run(folder: Path, arm: str, steps: int) -> None:
    own = folder / "runs" / arm / "seed0"
    write_json(own / "run.json", {"arm": arm, "seed": 0, "training": {"steps": steps}})
    write_jsonl(own / "metrics.jsonl", [{"step": k, "seconds": 0.5 * (k + 1)} for k in range(steps)])


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    for model, texts in SPELLING.items():
        write_model(tmp_path, model, texts)
    for arm, steps in {"diffusion_only": 6, "ctc": 6, "never_snapped": 6}.items():
        write_run(tmp_path, arm, steps)
    return tmp_path


def run_script(
    folder: Path, without: str = "nothing", config: dict = CONFIG, timing: Path | None = None
) -> subprocess.CompletedProcess:
    command = [sys.executable, "scripts/score_curve.py", "--config", json.dumps(config)]
    for option, pattern in (
        ("--images", "images/*/*/manifest.jsonl"),
        ("--readings", "ocr/*/*/*.jsonl"),
        ("--runs", "runs/*/*/run.json"),
    ):
        # The order of the files must not matter.
        found = sorted(folder.glob(pattern), reverse=option == "--readings")
        command += [option, *(str(path) for path in found if without not in path.parts)]
    command += ["--output", str(folder / "curve.csv"), *(["--timing", str(timing)] if timing else [])]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_curve_by_hand(experiment):
    done = run_script(experiment)
    assert done.returncode == 0, done.stderr
    curve = pd.read_csv(experiment / "curve.csv")
    assert list(curve.columns) == [
        *("arm", "training_seed", "step", "seconds", "clock", "engine", "prompt_set", "value", "delta_vs_control"),
        "n_images",
    ]
    points = curve[["arm", "step", "seconds", "value"]].itertuples(index=False, name=None)
    assert list(points) == [
        ("diffusion_only", 0, 0.0, 0.3),
        ("diffusion_only", 2, 1.0, 0.2),
        ("diffusion_only", 4, 2.0, 0.1),
        ("diffusion_only", 6, 3.0, 0.1),
        ("ctc", 0, 0.0, 0.3),
        ("ctc", 2, 1.0, 0.1),
        ("ctc", 6, 3.0, 0.0),
    ]
    assert curve.loc[curve["arm"] == "diffusion_only", "delta_vs_control"].isna().all()
    assert curve.loc[curve["arm"] == "ctc", "delta_vs_control"].tolist() == pytest.approx([0, -0.1, -0.1])
    assert set(curve["n_images"]) == {3}
    assert set(curve["training_seed"]) == {0}
    assert set(curve["clock"]) == {"wall seconds, other work beside"}


def test_seconds_measured_alone_take_the_place_of_those_of_the_runs(experiment):
    def timed(arm: str, number: int, processor: float, device: str = "cpu") -> dict:
        seconds = {"steps": 4, "processor_seconds": processor, "wall_seconds": 3 * processor, "device": device}
        return {"arm": arm, "round": number} | seconds

    rows = [timed("diffusion_only", i, p) for i, p in enumerate((4.0, 8.0, 40.0))] + [timed("ctc", 0, 12.0)]
    path = experiment / "timing.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    done = run_script(experiment, timing=path)
    assert done.returncode == 0, done.stderr
    curve = pd.read_csv(experiment / "curve.csv")
    # The median of 1, 2 and 10 seconds a step, and 3.
    assert curve["seconds"].tolist() == [0, 4, 8, 12, 0, 6, 18]
    assert set(curve["clock"]) == {"processor seconds, measured alone"}
    pd.DataFrame([row | {"device": "cuda"} for row in rows]).to_csv(path, index=False)
    assert run_script(experiment, timing=path).returncode == 0
    curve = pd.read_csv(experiment / "curve.csv")
    assert curve["seconds"].tolist() == [0, 12, 24, 36, 0, 18, 54]
    assert set(curve["clock"]) == {"wall seconds, measured alone"}
    for broken, message in (
        (pd.DataFrame(rows[:3]), "--timing: the arm ctc is not in it"),
        (pd.DataFrame(rows).drop(columns="wall_seconds"), "timing.csv: the column wall_seconds is missing"),
        (pd.DataFrame([*rows, timed("ctc", 1, 1.0, "cuda")]), "timing.csv: rows of one device, cpu or cuda"),
    ):
        broken.to_csv(path, index=False)
        done = run_script(experiment, timing=path)
        assert (done.returncode, message in done.stderr, done.stderr.count("error:")) == (2, True, 1), done.stderr


def test_what_is_missing_is_named(experiment):
    for without, message in (
        ("base", "images of base and of at least one snapshot"),
        ("ctc-seed0", "ctc-seed0-step2: the images of the finished run ctc-seed0 are missing"),
        ("ctc", "ctc-seed0-step2: the run.json of ctc-seed0 is missing in --runs"),
    ):
        done = run_script(experiment, without)
        assert done.returncode == 2
        assert message in done.stderr
    done = run_script(experiment, config=CONFIG | {"arms": ["diffusion_only", "never_snapped"]})
    assert (done.returncode, "is no configured arm and seed" in done.stderr) == (2, True)
    assert not (experiment / "curve.csv").exists()


def test_a_point_with_other_images_a_lost_log_and_a_snapshot_after_the_end(experiment):
    path = experiment / "images" / "ctc-seed0-step2" / "held_out" / "manifest.jsonl"
    readings = experiment / "ocr" / "rapidocr" / "ctc-seed0-step2" / "held_out.jsonl"
    for file in (path, readings):
        file.write_text("\n".join(file.read_text().splitlines()[1:]))
    done = run_script(experiment)
    assert done.returncode == 2
    assert "ctc-seed0-step2 and base do not hold the same images: held_out, rapidocr, p0, 3" in done.stderr
    write_run(experiment, "ctc", 2)
    assert "a snapshot lies between step 0 and the last one, 2" in run_script(experiment).stderr
    write_run(experiment, "ctc", 6)
    write_jsonl(experiment / "runs" / "ctc" / "seed0" / "metrics.jsonl", [{"step": 1, "seconds": 1.0}])
    assert "the metrics.jsonl of ctc-seed0 has no row of step 5" in run_script(experiment).stderr


def test_steps_to_levels_between_snapshots_and_never():
    rows = [
        {
            "prompt_set": "p",
            "engine": "e",
            "arm": arm,
            "training_seed": seed,
            "step": step,
            "seconds": 2 * step,
            "value": v,
        }
        for arm, seed, values in (("a", 0, [0.9, 0.7, 0.3, 0.35]), ("a", 1, [0.9, 0.9, 0.9, 0.8]), ("b", 0, [0.4] * 4))
        for step, v in zip((0, 10, 20, 40), values, strict=True)
    ]
    found = steps_to_levels(pd.DataFrame(rows).sample(frac=1, random_state=0), [0.5, 0.3]).set_index(
        ["arm", "training_seed", "level"]
    )
    assert found["step"]["a", 0, 0.5] == pytest.approx(15)
    assert found["seconds"]["a", 0, 0.5] == pytest.approx(30)
    assert found["step"]["a", 0, 0.3] == 20
    assert found["step"].isna()["a", 1, 0.5]
    assert found["step"]["b", 0, 0.5] == 0
    assert found["step"].isna()["b", 0, 0.3]
    assert steps_to_levels(pd.DataFrame(rows), []).empty


def test_the_control_has_a_curve_without_snapshots_too(experiment):
    for step in (2, 4):
        shutil.rmtree(experiment / "images" / f"diffusion_only-seed0-step{step}")
        shutil.rmtree(experiment / "ocr" / "rapidocr" / f"diffusion_only-seed0-step{step}")
    done = run_script(experiment)
    assert done.returncode == 0, done.stderr
    curve = pd.read_csv(experiment / "curve.csv")
    assert curve[curve["arm"] == "diffusion_only"]["step"].tolist() == [0, 6]
    assert curve[curve["arm"] == "ctc"]["step"].tolist() == [0, 2, 6]
    assert "never_snapped" not in set(curve["arm"])
