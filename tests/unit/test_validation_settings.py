"""What validation may be configured to do, when it stops and what is best, and what pages say of what it chose."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legible.config import Config, Figures, Generation, Model, Ocr, Scoring, Training, Validation, validate
from legible.errors import UserError
from legible.figures import inputs, validation_curves
from legible.io import read_jsonl, write_json, write_jsonl
from legible.metrics.curve import read_times
from legible.names import Run
from legible.provenance import decides_training
from legible.report.aim import by_one_rule, chosen_best
from legible.report.describe import describe_validation
from legible.train.key import run_key, used_files
from legible.train.log import RunLog, evaluations_of, steps_of
from legible.train.validation import Watch

ROOT = Path(__file__).resolve().parents[2]
CONTROL = {"diffusion_only": {"aux": {"loss": "none", "lambda": 0.0}}}
READER = "resources/nano/recognizer_conv"
CTC = CONTROL | {"ctc": {"aux": {"loss": "ctc", "lambda": 1.0, "every": 1}}}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"validation": {"judge": "tesseract"}},
            r"validation\.judge: 'tesseract' is no engine of `ocr`; there are rapid",
        ),
        (
            {"validation": {"judge": "easyocr"}, "arms": CTC, "ocr": {"easyocr": {"network": READER}}},
            r"validation\.judge: arms\.ctc listens to its network",
        ),
        (
            {"validation": {}, "training": {"processes": 2, "parallel": "shard", "aux": {"measure_every": 0}}},
            r"arms\.diffusion_only\.parallel: shard cannot draw pictures; choose replicate, or no validation",
        ),
        (
            {"validation": {}, "training": {"method": "lora", "quantization": "nf4"}},
            r"arms\.diffusion_only: with an assistant_lora or a quantised base, pictures drawn while training are not",
        ),
        (
            {"validation": {"keep": "best"}, "arms": {"diffusion_only": {"snapshots": [8]}}},
            r"arms\.diffusion_only\.snapshots: learning curves end with the last step, but validation chooses another",
        ),
        (
            {"validation": {"patience": 2}, "arms": {"diffusion_only": {"snapshots": [8]}}},
            r"arms\.diffusion_only\.snapshots: ",
        ),
        ({"validation": {"seeds": [1, 1]}}, r"validation.*seeds: every value may be given once only"),
        ({"validation": {"every": 0}}, r"validation.*every: .*above 0"),
        ({"trackers": ["mlflow"]}, r"trackers, entry 1: .*'tensorboard' or 'wandb'"),
    ],
)
def test_what_cannot_be_watched_is_refused_in_one_sentence(raw, message):
    with pytest.raises(UserError, match=message) as caught:
        validate(raw, "c.yaml")
    assert "\n" not in str(caught.value)


def test_off_by_default_and_snapshots_are_allowed_where_it_only_watches():
    assert (Config().validation, Config().trackers) == (None, ())
    validate({"validation": {}, "arms": {"diffusion_only": {"snapshots": [8]}}}, "c.yaml")
    validate({"validation": {"judge": "easyocr"}, "arms": CTC}, "c.yaml")  # another network than the reader


def watched(**keys) -> Watch:
    return Watch(SimpleNamespace(settings=Validation(**keys)))


@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=12),
    st.one_of(st.none(), st.integers(min_value=1, max_value=4)),
)
def test_the_best_is_the_earliest_lowest_and_patience_counts_from_it(errors, patience):
    watch = watched(every=5, patience=patience)
    for number, cer in enumerate(errors):
        assert watch.due(5 * number, 1000)
        watch.observed(5 * number, cer)
        assert not watch.due(5 * number, 1000)
        seen = errors[: number + 1]
        since = number - seen.index(min(seen))
        assert (watch.state["best_step"], watch.state["best_cer"]) == (5 * seen.index(min(seen)), min(seen))
        assert watch.state["stopped"] == (patience is not None and since >= patience)


@given(st.integers(1, 40), st.integers(1, 12))
def test_it_is_due_before_all_every_few_steps_and_at_the_last(steps, every):
    watch, due = watched(every=every), []
    for done in range(steps + 1):
        if watch.due(done, steps):
            due.append(done)
            watch.observed(done, 0.5)
    assert due == sorted({*range(0, steps + 1, every), steps})


def test_a_log_is_cut_back_to_a_checkpoint_with_the_evaluation_before_it(tmp_path):
    log = RunLog(tmp_path / "metrics.jsonl")
    log.write(step=0, validation={"cer": 1.0})
    for step in range(4):
        log.write(step=step, seconds=float(step))
        if step % 2:
            log.write(step=step + 1, validation={"cer": 0.5})
    log.rewind(2)
    rows = read_jsonl(log.path)
    assert [row["step"] for row in steps_of(rows)] == [0, 1]
    assert [row["step"] for row in evaluations_of(rows)] == [0, 2]
    log.rewind(1)  # an evaluation of a step that the checkpoint does not know is made again
    assert [row["step"] for row in evaluations_of(read_jsonl(log.path))] == [0]
    log.rewind(0)  # without a checkpoint everything is
    assert read_jsonl(log.path) == []


def test_readers_of_a_log_do_not_take_evaluations_for_steps(tmp_path):
    folder = tmp_path / "runs" / "diffusion_only" / "seed0"
    row = dict.fromkeys(inputs.METRICS, 1.0)
    evaluation = {"step": 2, "seconds": 9.0, "validation": {"cer": 0.5, "exact": 0.25, "prompts": 4}}
    write_jsonl(folder / "metrics.jsonl", [*(row | {"step": n, "seconds": n + 1.0} for n in range(2)), evaluation])
    write_json(folder / "run.json", {"arm": "diffusion_only", "seed": 0, "training": {"steps": 2}})
    assert read_times([folder / "run.json"]) == {Run("diffusion_only", 0): (2, {0: 0.0, 1: 1.0, 2: 2.0})}
    assert len(inputs.read_metrics(tmp_path, ["diffusion_only"])["diffusion_only", 0]) == 2
    (found,) = inputs.read_validation(tmp_path, ["diffusion_only"]).to_dict("records")
    assert found == {"arm": "diffusion_only", "training_seed": 0, "step": 2, "seconds": 9.0} | evaluation["validation"]
    write_jsonl(folder / "metrics.jsonl", [row])
    with pytest.raises(UserError, match=r"metrics\.jsonl: the column step is missing; run the train stage again"):
        inputs.read_validation(tmp_path, ["diffusion_only"])


def key_of(tmp_path: Path, **more) -> str:
    training, prompts = Training(), tmp_path / "validation.jsonl"
    config = {"model": Model(path=str(tmp_path)), "training": training, "generation": Generation(), "reader": None}
    config |= {"reader": Config().reader, "clip": Config().clip}
    if more:
        settings = Validation.model_validate({"prompts": str(prompts)} | more.get("validation", {}))
        config |= {"validation": settings, "ocr": Ocr(), "scoring": Scoring()} | more.get("sections", {})
    return run_key(config, 0, "data", used_files(config, None, None), {"code": "code"})


def test_a_key_holds_validation_only_where_it_is_on_and_then_all_that_decides_it(tmp_path):
    (tmp_path / "validation.jsonl").write_text("one")
    off = key_of(tmp_path)
    on = {
        "on": key_of(tmp_path, validation={"every": 16}),
        "every": key_of(tmp_path, validation={"every": 8}),
        "keep": key_of(tmp_path, validation={"keep": "best"}),
        "judge": key_of(tmp_path, validation={}, sections={"ocr": Ocr.model_validate({"rapidocr": {"scale": 3}})}),
        "scoring": key_of(tmp_path, validation={}, sections={"scoring": Scoring(normalization="strict")}),
    }
    assert len({off, *on.values()}) == 6
    assert key_of(tmp_path, validation={}, sections={"ocr": Ocr.model_validate({"easyocr": {"scale": 3}})}) == on["on"]
    (tmp_path / "validation.jsonl").write_text("two")
    assert key_of(tmp_path, validation={}) not in on.values()
    assert key_of(tmp_path) == off


def test_code_of_validation_and_its_judge_counts_only_where_it_is_on():
    model, training = Config().model, Config().training
    off, on = (decides_training(model, training, each) for each in (None, Validation()))
    assert off["code"] != on["code"]
    assert {"rapidocr", "onnxruntime", "rapidfuzz"} <= set(on) - set(off)
    assert decides_training(model, training) == off


def test_without_validation_its_module_and_the_judges_are_not_imported():
    """They take seconds to import, and would decide every arm's weights."""
    program = (
        "import sys; sys.path.insert(0, 'scripts'); import train_arm; "
        "print([n for n in ('legible.train.validation', 'legible.train.trackers', 'rapidocr') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_dataset_refuses_validation_prompts_that_share_a_target(tmp_path):
    for name, words in (("validation", ("AHA", "E\u0301xit")), ("scored", ("OPEN", "\u00c9XIT"))):
        rows = [{"id": f"p{n}", "prompt": f'a sign "{word}"', "targets": [word]} for n, word in enumerate(words)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    fonts = {"train": ["DejaVu Sans"]}
    command = [sys.executable, "scripts/render_dataset.py", "--config", json.dumps({"fonts": fonts, "data": {}})]
    command += ["--fonts", "none.json", "--prompts", tmp_path / "scored.jsonl", "--output-dir", tmp_path / "out"]
    command += ["--validation", tmp_path / "validation.jsonl"]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    sentence = done.stderr.splitlines()[-1]
    assert f"{tmp_path / 'validation.jsonl'} and {tmp_path / 'scored.jsonl'} both ask for '\u00c9XIT'" in sentence


RULE = {"keep": "best", "patience": 2}


def record(steps: int, best: int, rule: dict | None = None, planned: int = 64) -> dict:
    found = {"steps": steps, "training": {"steps": planned}}
    return found if rule is None else found | {"best_step": best, "validation": rule}


def test_unequal_steps_are_of_one_rule_only_where_all_runs_could_end_early_by_it():
    assert by_one_rule([record(64, 8, RULE), record(32, 16, RULE)])
    assert not by_one_rule([record(64, 8, RULE), record(32, 16, RULE | {"patience": 3})])
    assert not by_one_rule([record(64, 8, RULE), record(32, 16, RULE, planned=32)])
    assert not by_one_rule([record(64, 8, {"keep": "best", "patience": None})] * 2)
    assert not by_one_rule([record(64, 8), record(32, 16, RULE)])
    assert chosen_best([record(64, 8), record(64, 8, RULE)])
    assert not chosen_best([record(64, 8), record(64, 8, {"keep": "last"})])


def test_pages_say_which_steps_validation_chose():
    runs = {("diffusion_only", 0): record(64, 16, RULE), ("ctc", 0): record(32, 32, RULE)}
    said = describe_validation(validate({"validation": RULE}, "c"), runs)
    assert "16; ctc 32)" in said
    assert "not at equal steps" in said
    assert "RapidOCR read for that choice" in said
    assert "ended early, too" in said
    assert "steps: " in describe_validation(validate({"validation": {"patience": 2}}, "c"), runs)
    assert describe_validation(validate({"validation": {}}, "c"), runs) == ""
    assert describe_validation(Config(), runs) == ""


def curves() -> pd.DataFrame:
    rows = [
        (arm, seed, step, float(step), cer, 0.1, 4)
        for arm, ends in (("diffusion_only", (4, 4)), ("ctc", (4, 2)))
        for seed, last in enumerate(ends)
        for step, cer in ((0, 0.5), (2, 0.25 + 0.1 * seed), (4, 0.25 + 0.2 * seed))
        if step <= last
    ]
    return pd.DataFrame(rows, columns=inputs.VALIDATION)


def test_the_figure_shows_every_seed_their_mean_and_the_best_of_each():
    best = validation_curves.best_of(curves()).set_index(["arm", "training_seed"])["step"].to_dict()
    assert best == {("diffusion_only", 0): 2, ("diffusion_only", 1): 2, ("ctc", 0): 2, ("ctc", 1): 2}
    figure = validation_curves.draw(curves(), ["diffusion_only", "ctc"], Figures().validation_curves)
    (axes,) = figure.axes
    lines = [[tuple(map(float, point)) for point in line.get_xydata()] for line in axes.lines]
    assert [(0.0, 0.5), (2.0, 0.25), (4.0, 0.25)] in lines  # a seed
    assert [(0.0, 0.5), (2.0, pytest.approx(0.3)), (4.0, pytest.approx(0.35))] in lines  # a mean
    assert [(0.0, 0.5), (2.0, pytest.approx(0.3))] in lines  # … only as far as both seeds came
    rings = [line for line in axes.lines if line.get_marker() == "o"]
    assert [sorted(map(float, ring.get_xdata())) for ring in rings] == [[2.0, 2.0], [2.0, 2.0]]
