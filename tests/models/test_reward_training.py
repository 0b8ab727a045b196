"""Fine-tuning by rewards through the real loop, on both kinds of families: what is trained, what stays, resuming."""

import json

import pytest
import torch
from training import Killed, equal, killed_at, metrics, model_of, same_conditioning, settings, small_data
from transformers import CLIPTextModel

from legible.config import Config, Reader, Training
from legible.errors import UserError
from legible.models.family import ROLES, Family, open_model
from legible.models.reader import open_reader
from legible.rewards.reward import build_rewards
from legible.seeds import stateless_generator
from legible.train import session
from legible.train.adapters import keep_weights, save_weights, select_parameters
from legible.train.data import TrainingData
from legible.train.group import ALONE
from legible.train.loop import train
from legible.train.prepare import data_from, open_for_training
from legible.train.reward import reward_pass, tuned_encoder
from legible.train.session import Place, Task

REWARD = {"weights": {"reading": 1.0}, "steps": 3, "last": 2}
PARTS = {"text encoder": ["text_encoder"], "denoiser": ["denoiser"]}
GUIDANCE = {"stable_diffusion": 2.0, "zimage": 1.0}


@pytest.fixture(scope="module", params=GUIDANCE)
def family(request, folders, stable_diffusion) -> tuple:
    """Folder, data and guidance of a tiny model."""
    folder = folders.zimage if request.param == "zimage" else stable_diffusion
    return folder, small_data(folder), GUIDANCE[request.param]


@pytest.fixture(scope="module")
def reader(folders, tmp_path_factory):
    return open_reader(Reader(network=str(folders.recognizer)), tmp_path_factory.mktemp("ocr"), torch.device("cpu"))


def rewarded(guidance: float, parts=("text_encoder",), **reward) -> Training:
    return settings(parts=list(parts), reward=REWARD | {"guidance_scale": guidance} | reward)


def task_of(folder, data: TrainingData, training: Training, reader) -> Task:
    model = open_model(model_of(folder), ROLES)
    parameters = select_parameters(model, training, 0)
    rewards = build_rewards(training.reward, {"reader": reader}, tuned_encoder(model, training))
    return Task(model, parameters, data, training, model.level_grid(8), None, None, 0, rewards)


def run(task: Task, work) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in train(task, Place(work, "key", "test")).items()}


def losses_of(task: Task, model: Family | None = None, goals=None, rows=range(4)):
    generators = [stateless_generator(0, sample) for sample in rows]
    picked, grid = torch.tensor(list(rows)), task.grid
    return reward_pass(model or task.model, task.data, picked, goals, task.training, grid, task.rewards, generators)


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("method", ["prompt", "direct"])
def test_what_is_configured_is_trained_and_all_else_stays(family, reader, tmp_path, parts, method):
    folder, data, guidance = family
    task = task_of(folder, data, rewarded(guidance, PARTS[parts], method=method), reader)
    before = {
        part: {n: w.clone() for n, w in task.model.module(part).named_parameters()}
        for part in ("denoiser", "text_encoder")
    }
    run(task, tmp_path)
    for part, weights in before.items():
        moved = [not torch.equal(w, weights[n]) for n, w in task.model.module(part).named_parameters()]
        assert any(moved) == ([part] == PARTS[parts])
    for row in metrics(tmp_path):
        assert row["loss_total"] == pytest.approx(-row["rewards"]["reading"], rel=1e-4)
        assert row["loss_diffusion"] is None
        assert row["grad_norm"] > 0
        assert row["sigma_mean"] is None
    assert all(p.grad is None for p in task.model.vae.parameters())


def test_a_killed_run_ends_like_an_unbroken_one(family, reader, tmp_path, monkeypatch):
    folder, data, guidance = family
    training = rewarded(guidance)
    whole = run(task_of(folder, data, training, reader), tmp_path / "whole")
    original, calls = session.reward_pass, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(session, "reward_pass", killed)
        with pytest.raises(Killed):
            run(task_of(folder, data, training, reader), tmp_path / "broken")
    resumed = run(task_of(folder, data, training, reader), tmp_path / "broken")
    assert equal(whole, resumed)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "broken")


def test_a_training_by_rewards_never_asks_for_diffusions_loss(family, reader, tmp_path, monkeypatch):
    folder, data, guidance = family
    run(task_of(folder, data, rewarded(guidance), reader), tmp_path / "one")
    run(task_of(folder, data, rewarded(guidance), reader), killed_at(monkeypatch, 1) and tmp_path / "two")
    assert metrics(tmp_path / "one") == metrics(tmp_path / "two")


def test_pictures_of_the_data_are_not_looked_at(family, reader):
    """Method `prompt` learns from captions alone; `direct` noises real pictures."""
    folder, data, guidance = family
    other = TrainingData(**{**vars(data), "latents": data.latents.flip(0)})
    for method, same in (("prompt", True), ("direct", False)):
        training = rewarded(guidance, method=method)
        one, two = (losses_of(task_of(folder, d, training, reader)).diffusion for d in (data, other))
        assert torch.equal(one, two) == same


def test_a_placebo_is_rewarded_for_another_prompt(family, reader):
    folder, data, guidance = family
    task = task_of(folder, data, rewarded(guidance), reader)
    own, other = losses_of(task), losses_of(task, goals=torch.tensor([1, 2, 3, 4]))
    assert own.diffusion != other.diffusion
    assert torch.equal(own.diffusion, losses_of(task, goals=torch.arange(4)).diffusion)


def test_samples_do_not_depend_on_their_batch(family, reader):
    folder, data, guidance = family
    task = task_of(folder, data, rewarded(guidance), reader)
    together = losses_of(task).rewards["reading"]
    apart = [losses_of(task, rows=[row]).rewards["reading"] for row in range(4)]
    assert together == pytest.approx(sum(apart) / 4, rel=1e-4)


def test_rewards_add_up_by_their_weights(family, reader):
    folder, data, guidance = family
    one, two = (task_of(folder, data, rewarded(guidance, weights={"reading": w}), reader) for w in (1.0, 2.5))
    assert losses_of(two).diffusion.item() == pytest.approx(2.5 * losses_of(one).diffusion.item())


def test_the_tuned_encoder_opens_in_plain_transformers(stable_diffusion, reader, tmp_path):
    data = small_data(stable_diffusion)
    training = rewarded(2.0)
    task = task_of(stable_diffusion, data, training, reader)
    weights = run(task, tmp_path / "work")
    save_weights(task.model, weights, training, tmp_path / "out")
    encoder = CLIPTextModel.from_pretrained(tmp_path / "out" / "text_encoder")
    for name, value in task.model.text_encoder.named_parameters():
        assert torch.equal(dict(encoder.named_parameters())[name], value)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ({"weights": {"beauty": 1.0}}, "'beauty' is no reward; allowed are reading, caption, aesthetic"),
        ({"weights": {"reading": 0.0}}, "greater than 0"),
        ({"weights": {"reading": 1.0}, "steps": 2, "last": 3}, r"last: 3 is more than steps \(2\)"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(reward, message):
    with pytest.raises(ValueError, match=message):
        settings(reward=reward)


def test_an_arm_has_rewards_or_an_auxiliary_loss():
    with pytest.raises(ValueError, match=r"reward\.weights: an arm has rewards or an auxiliary loss"):
        settings(reward=REWARD, aux={"loss": "ctc", "lambda": 1.0})
    with pytest.raises(ValueError, match="parallel: shard cannot sample"):
        settings(reward=REWARD, processes=2, parallel="shard")


def test_a_text_that_the_reader_does_not_know_is_named(stable_diffusion, reader):
    data = small_data(stable_diffusion)
    strange = TrainingData(**{**vars(data), "captions": tuple(c.replace("OPEN", "ÄPEN") for c in data.captions)})
    with pytest.raises(UserError, match="does not know the character"):
        losses_of(task_of(stable_diffusion, strange, rewarded(2.0), reader))
    json.dumps(rewarded(2.0).model_dump(mode="json", by_alias=True))


def test_the_denoiser_goes_on_from_a_tuned_encoder_and_leaves_it_alone(family, reader, tmp_path):
    """TextCraftor's second stage: T_φ frozen, its words instead of the cache's, both parts in what is saved."""
    folder, data, guidance = family
    first = rewarded(guidance)
    task = task_of(folder, data, first, reader)
    keep_weights(task.model, run(task, tmp_path / "one"), first, tmp_path / "first")
    start, second = tmp_path / "first", rewarded(guidance, ["denoiser"])
    model, parameters, _, _ = open_for_training(model_of(folder), second, 0, ALONE, start)
    own = data_from(model_of(folder), second, data, start)
    captions = [*data.captions, ""]
    tuned = open_model(model_of(folder), ("text",), weights=start).encode_prompts(captions)
    assert not same_conditioning(own.conditioning, data.conditioning)
    assert same_conditioning(own.conditioning, tuned.pick(range(len(data.captions))))
    assert same_conditioning(own.empty, tuned.pick([len(data.captions)]))
    rewards = build_rewards(second.reward, {"reader": reader}, tuned_encoder(model, second))
    assert tuned_encoder(model, second) is None
    weights = run(Task(model, parameters, own, second, model.level_grid(8), None, None, 0, rewards), tmp_path / "two")
    keep_weights(model, weights, second, tmp_path / "second", start)
    assert {path.name for path in (tmp_path / "second").iterdir()} == set(model.spec.folders("denoiser")) | {
        "text_encoder"
    }
    for file in (start / "text_encoder").iterdir():
        assert file.read_bytes() == (tmp_path / "second" / "text_encoder" / file.name).read_bytes()
    opened = open_model(model_of(folder), ROLES, weights=tmp_path / "second")
    assert equal(dict(opened.module("denoiser").named_parameters()), dict(model.module("denoiser").named_parameters()))


def test_a_trained_encoder_that_goes_on_keeps_the_caches_words_for_the_first_steps(family, reader, tmp_path):
    folder, data, guidance = family
    training = rewarded(guidance)
    task = task_of(folder, data, training, reader)
    keep_weights(task.model, run(task, tmp_path / "one"), training, tmp_path / "first")
    assert data_from(model_of(folder), training, data, tmp_path / "first") is data
    assert data_from(model_of(folder), rewarded(guidance, ["denoiser"]), data, None) is data


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({"b": {"start": "nobody"}}, r"arms\.b\.start: no arm is called 'nobody'; there are diffusion_only, b"),
        ({"b": {"start": "c"}, "c": {"start": "b"}}, r"arms\.b\.start: b → c → b is a circle"),
        ({"b": {"start": "c"}, "c": {"method": "lora"}}, r"arms\.b\.start: 'c' leaves adapters"),
        ({"b": {"start": "diffusion_only", "method": "lora"}}, "start: adapters need the base beneath them"),
        ({"b": {"start": "diffusion_only", "anchor": {"weight": 1.0}}}, "start: the velocity anchor holds to the base"),
    ],
)
def test_a_start_that_cannot_be_gone_on_from_is_refused(arms, message):
    with pytest.raises(ValueError, match=message):
        Config.model_validate({"arms": {"diffusion_only": {}} | arms})
