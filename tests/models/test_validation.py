"""Spelling watched while training: training does not notice, a kill changes nothing, and what is kept was the best."""

import importlib
import itertools
import json
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_group import finished, start
from training import Killed, equal, killed_at, metrics, model_of, settings, small_data

from legible.config import EasyOcr, Generation, Ocr, Scoring, Training, Validation
from legible.errors import UserError
from legible.io import read_jsonl, sha256_file, write_jsonl
from legible.models.family import open_model
from legible.ocr import Engine, to_reading, whole_image
from legible.tensors import load_tensors
from legible.train.adapters import save_weights, select_parameters
from legible.train.data import TrainingData
from legible.train.loop import train
from legible.train.session import Place, Task
from legible.train.validation import Validator, Watch, check_apart, in_place, networks, open_validator

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = [
    {"id": f"v{n}", "prompt": f'a sign that says "{word}"', "targets": [word]}
    for n, word in enumerate(("OPEN", "4711", "XQ", "ZEBRA"))
]
VARIANTS = {
    "full": {"modules": None},
    "ema": {"ema": 0.5},
    "lora": {"method": "lora", "lora": {"rank": 2, "alpha": 6.0}},
    "text": {"parts": ["denoiser", "text_encoder"]},
}


@pytest.fixture(scope="module")
def data(folders) -> TrainingData:
    return small_data(folders.zimage)


def by_pixels(image: Image.Image) -> list:
    """What a judge might read: letters that any change of a pixel may change."""
    number = int(np.asarray(image, dtype=np.int64).sum())
    text = "".join("OPENXQZBRA4711"[number // 7**place % 14] for place in range(4))
    return [to_reading(whole_image(image), text, 1.0)]


class Run:
    """Trainings of the tiny model with a judge that reads by pixels."""

    def __init__(self, folder: Path, data: TrainingData, prompts: Path) -> None:
        self.folder, self.data, self.prompts = folder, data, prompts

    def validator(self, model, training: Training, judge: Callable = by_pixels, **keys) -> Validator:
        """As scripts/train_arm.py opens it, but for the judge."""
        section = Validation.model_validate({"prompts": str(self.prompts), "every": 2} | keys)
        config = {"model": model_of(self.folder), "generation": Generation(steps=2, batch_size=3)}
        config |= {"validation": section, "ocr": Ocr(), "scoring": Scoring()}
        shape = tuple(self.data.latents.shape[1:])
        opened = open_validator(config, model, training, shape, None, Path("unused"), {})
        return replace(opened, judge=Engine("pixels", "1", judge))

    def opened(self, training: Training, judge: Callable = by_pixels, **keys) -> Task:
        """A task as a run begins with it; `keys` of validation: without any there is none."""
        roles = ("denoiser", "scheduler", *(("text",) if training.text_trained else ()))
        model = open_model(model_of(self.folder), roles)
        parameters = select_parameters(model, training, 0)
        grid = model.level_grid(2, tuple(self.data.latents.shape[1:]))
        validator = self.validator(model, training, judge, **keys) if keys else None
        return Task(model, parameters, self.data, training, grid, validator=validator)

    def __call__(self, training: Training, work: Path, judge: Callable = by_pixels, **keys) -> dict[str, torch.Tensor]:
        weights = train(self.opened(training, judge, **keys), Place(work, "key", "test"))
        return {name: weight.clone() for name, weight in weights.items()}


@pytest.fixture(scope="module")
def run(folders, data, tmp_path_factory) -> Run:
    prompts = tmp_path_factory.mktemp("prompts") / "validation.jsonl"
    write_jsonl(prompts, PROMPTS)
    return Run(folders.zimage, data, prompts)


def evaluations(work: Path) -> list[dict]:
    return [row for row in metrics(work) if "validation" in row]


def trained(work: Path) -> list[dict]:
    return [row for row in metrics(work) if "validation" not in row]


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_is_the_same_bit_for_bit_with_and_without(run, tmp_path, variant):
    training = settings(**VARIANTS[variant])
    found, states = [], []
    for name, keys in (("plain", {}), ("watched", {"every": 2})):
        random.seed(3)
        torch.manual_seed(3)
        found.append(run(training, tmp_path / name, **keys))
        states.append((random.getstate(), torch.get_rng_state().tolist()))
    plain, watched = found
    assert states[0] == states[1]  # what opening models drew is equal, and nothing else was drawn
    assert equal(plain, watched)
    assert trained(tmp_path / "watched") == metrics(tmp_path / "plain")
    assert [row["step"] for row in evaluations(tmp_path / "watched")] == [0, 2, 4, 6]
    assert len({row["validation"]["cer"] for row in evaluations(tmp_path / "watched")}) > 1  # the pictures change


def test_an_evaluation_leaves_states_modes_gradients_and_weights_alone(run):
    task = run.opened(settings(), every=2)
    noisy = by_pixels

    def judge(image):
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002 (as judges do)
        torch.set_num_threads(2)
        return noisy(image)

    validator = replace(task.validator, judge=Engine("noisy", "1", judge))
    module = task.model.module("denoiser").train()
    parameter = next(iter(task.parameters.values()))
    parameter.grad = torch.ones_like(parameter)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    kept = {name: p.detach().clone() for name, p in task.parameters.items()}
    found = validator.evaluate(SimpleNamespace(rank=0, size=1, collect=list))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert torch.get_num_threads() == 1
    assert all(part.training for part in module.modules())
    assert torch.equal(parameter.grad, torch.ones_like(parameter))
    assert all(p.requires_grad and torch.equal(p, kept[name]) for name, p in task.parameters.items())
    assert (found["prompts"], found["pictures"]) == (4, 4)
    assert task.model.pixels_per_latent == 1  # training does not see the decoder
    assert len(networks(validator.model)) == 2  # it and the network that is trained


@pytest.mark.parametrize("keys", [{"keep": "best"}, {"keep": "best", "patience": 1, "weights": "current"}])
def test_interrupted_equals_unbroken_bit_for_bit_best_weights_included(run, tmp_path, keys):
    training = settings(ema=0.5, checkpoint_every=3)
    whole = run(training, tmp_path / "whole", every=1, **keys)
    done = len(trained(tmp_path / "whole"))
    for first in (1, 3, 5):
        work = tmp_path / f"killed{first}"
        with pytest.MonkeyPatch.context() as patch:
            killed_at(patch, min(first, done))
            with pytest.raises(Killed):
                run(training, work, every=1, **keys)
        assert equal(run(training, work, every=1, **keys), whole)
        assert metrics(work) == metrics(tmp_path / "whole")
        assert {path.name for path in work.glob("best-*")} == {
            path.name for path in (tmp_path / "whole").glob("best-*")
        }
    assert equal(run(training, tmp_path / "whole", every=1, **keys), whole)  # finished: nothing is repeated


def test_a_kill_between_the_best_weights_and_their_checkpoint_loses_nothing(run, tmp_path):
    """The checkpoint still names the earlier best: its file must be there."""

    def better_and_better(image):
        log = tmp_path / "work" / "metrics.jsonl"
        evaluated = log.read_text().count('"validation"') if log.exists() else 0
        return [to_reading(whole_image(image), "A" * (20 - evaluated), 1.0)]

    training = settings(checkpoint_every=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, "tidy", lambda self, folder, over: None)
        killed_at(patch, 6)
        with pytest.raises(Killed):
            run(training, tmp_path / "work", better_and_better, every=1, keep="best")
    assert len(list((tmp_path / "work").glob("best-*"))) > 1
    state = json.loads((tmp_path / "work" / "checkpoint.json").read_text())
    outline = (tmp_path / "work" / state["folder"] / "part0.json").read_text()
    assert any(path.name in outline for path in (tmp_path / "work").glob("best-*"))
    run(training, tmp_path / "work", better_and_better, every=1, keep="best")
    assert len(list((tmp_path / "work").glob("best-*"))) == 1


@pytest.mark.parametrize("which", ["averaged", "current"])
def test_the_best_weights_are_those_that_were_judged(run, tmp_path, which):
    training = settings(ema=0.5)
    weights = run(training, tmp_path / "best", every=1, keep="best", weights=which)
    rows = evaluations(tmp_path / "best")
    best = min(rows, key=lambda row: (row["validation"]["cer"], row["step"]))
    (path,) = (tmp_path / "best").glob("best-*.safetensors")
    assert path.name == f"best-{best['step']}.safetensors"
    assert equal(weights, load_tensors(path, "x")[0])
    task = run.opened(training, every=1)
    views = {name: parameter.detach() for name, parameter in task.parameters.items()}
    start = {name: view.clone() for name, view in views.items()}
    alone = SimpleNamespace(rank=0, size=1, collect=list)
    with in_place(views, weights):
        assert task.validator.evaluate(alone) == best["validation"]
    assert equal(views, start)
    last = run(training, tmp_path / "last", every=1, keep="last", weights=which)
    assert not equal(last, weights) or best["step"] == 6
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"best weights are damaged or gone; delete .* to start this run again"):
        run(training, tmp_path / "best", every=1, keep="best", weights=which)


def test_averaged_and_current_weights_draw_different_pictures(run, tmp_path):
    seen: dict[str, list[bytes]] = {"averaged": [], "current": []}
    for which, own in seen.items():
        judge = lambda image, own=own: own.append(image.tobytes()) or by_pixels(image)  # noqa: E731
        run(settings(ema=0.9), tmp_path / which, judge, every=6, weights=which)
    averaged, current = seen.values()
    assert averaged[:4] == current[:4]
    assert averaged[4:] != current[4:]
    assert averaged[4:] != averaged[:4]
    assert trained(tmp_path / "averaged") == trained(tmp_path / "current")


def test_a_run_that_spells_no_better_ends_early(run, tmp_path):
    def worse(image):
        return [to_reading(whole_image(image), "", 1.0)]

    training = settings(steps=9, checkpoint_every=4)
    weights = run(training, tmp_path / "early", worse, every=2, patience=2, keep="best")
    assert [row["step"] for row in trained(tmp_path / "early")] == [0, 1, 2, 3]
    assert [row["step"] for row in evaluations(tmp_path / "early")] == [0, 2, 4]
    start = {name: p.detach() for name, p in run.opened(training).parameters.items()}
    assert equal(weights, start)  # of equal ones the earlier: nothing was better than the base
    before = metrics(tmp_path / "early")
    assert equal(run(training, tmp_path / "early", worse, every=2, patience=2, keep="best"), start)
    assert metrics(tmp_path / "early") == before
    task = run.opened(training, worse, every=2, patience=2)
    about = task.validator.outcome(read_jsonl(tmp_path / "early" / "metrics.jsonl"), 9)
    assert (about["steps"], about["stopped_early"], about["best_step"], about["best_cer"]) == (4, True, 0, 1.0)
    assert about["validation_judge"] == {"engine": "pixels", "version": "1"}


def test_evaluating_is_no_training_time(run, tmp_path):
    def slow(image):
        time.sleep(0.25)
        return by_pixels(image)

    began = time.monotonic()
    run(settings(), tmp_path, slow, every=1)
    taken, rows = time.monotonic() - began, read_jsonl(tmp_path / "metrics.jsonl")
    slept = 0.25 * 4 * 7
    assert taken > slept
    assert rows[-1]["seconds"] < taken - slept
    assert all(one["seconds"] <= two["seconds"] for one, two in itertools.pairwise(rows))


@pytest.mark.parametrize("variant", ["full", "lora", "text"])
def test_the_pictures_are_those_of_the_finished_run(run, folders, tmp_path, monkeypatch, variant):
    training = settings(**VARIANTS[variant])
    task = run.opened(training, every=6)
    seen = []
    validator = replace(task.validator, judge=Engine("p", "1", lambda image: seen.append(np.asarray(image)) or []))
    weights = train(replace(task, validator=validator), Place(tmp_path / "work", "key", "test"))
    save_weights(task.model, weights, training, tmp_path / "weights")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    script = importlib.import_module("generate_images")
    config = {"model": model_of(run.folder), "generation": Generation(steps=2, batch_size=3, seeds=(0,))}
    config["data"] = SimpleNamespace(height=32, width=64)
    rows = script.draw(config, list(validator.prompts), "x", tmp_path / "weights", tmp_path / "pictures", 1)
    assert len(seen) == 8  # before and after
    for row, pixels in zip(rows, seen[4:], strict=True):
        assert (np.asarray(Image.open(tmp_path / "pictures" / row["file"])) == pixels).all()
    assert any((one != two).any() for one, two in zip(seen[:4], seen[4:], strict=True))


def test_a_judge_that_the_loss_listens_to_is_refused_wherever_its_copy_lies(folders, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folders.recognizer, copy)
    heard = {path.name: sha256_file(path) for path in folders.recognizer.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=r"validation\.judge: easyocr reads with the network that this arm listens to"):
        check_apart("easyocr", EasyOcr(network=str(copy)), heard)
    check_apart("easyocr", EasyOcr(network=str(copy)), {})
    (weights,) = copy.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes() + b" ")
    check_apart("easyocr", EasyOcr(network=str(copy)), heard)  # the same program, other weights


def test_the_script_watches_with_one_or_two_processes_alike(run, folders, data, tmp_path, monkeypatch):
    """With RapidOCR; run.json says what was chosen, and by whom."""
    from legible.train.data import save_training_data

    save_training_data(tmp_path / "cache", data)
    dumps = json.dumps
    validation = {"prompts": str(run.prompts), "every": 3, "keep": "best"}
    more = {"validation": validation, "ocr": {"rapidocr": {}, "easyocr": None}, "scoring": {}}

    def with_validation(value):
        return dumps(value | more if "training" in value else value)

    monkeypatch.setattr("test_group.json.dumps", with_validation)
    jobs = {
        count: start(folders, tmp_path / "cache", tmp_path / str(count), count, parallel="replicate")
        for count in (1, 2)
    }
    monkeypatch.undo()
    for job in jobs.values():
        finished(job)
    rows = {count: evaluations(tmp_path / str(count) / "run") for count in jobs}
    assert [row["step"] for row in rows[1]] == [row["step"] for row in rows[2]] == [0, 3, 6]
    assert rows[1][0] == rows[2][0]  # before training: the same bits, whoever draws them
    for count in jobs:
        record = json.loads((tmp_path / str(count) / "run" / "run.json").read_text())
        best = min(rows[count], key=lambda row: (row["validation"]["cer"], row["step"]))
        assert (record["steps"], record["stopped_early"]) == (6, False)
        assert (record["best_step"], record["best_cer"]) == (best["step"], best["validation"]["cer"])
        assert record["validation"]["keep"] == "best"
        assert record["validation_judge"]["engine"] == "rapidocr"
        assert "prompts" in record["files"]["validation"]
