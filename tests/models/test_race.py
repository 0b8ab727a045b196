"""Reinforcement and preference methods: their mathematics by hand, and trainings through the real loop."""

import json
import math
from dataclasses import dataclass, replace
from importlib import import_module

import pytest
import torch
from gradients import assert_gradient
from torch.distributions import Normal, kl_divergence
from training import Killed, equal, metrics, model_of, settings, small_data

from legible.config import SAMPLED, Config, Training
from legible.errors import UserError
from legible.losses.regions import soft_limit
from legible.models.family import ROLES, open_model
from legible.models.flow import EulerSteps, Flow
from legible.models.spec import Spec
from legible.models.zimage import SPEC
from legible.seeds import Stream
from legible.train import best_of_n, dpo, grpo, nft, policy
from legible.train.adapters import select_parameters
from legible.train.anchor import Trajectories
from legible.train.data import TrainingData
from legible.train.loop import train
from legible.train.session import Place, Task
from legible.train.step import Batch, micro_step

METHODS = sorted(SAMPLED)
LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8.0}}
CPU, FLOW = torch.device("cpu"), Flow()
MEAN, SPREAD = 1.5, 0.4  # of the data whose velocity is known


def brightness(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """A reward that is easily learnt, −1 … 1."""
    return images.mean((1, 2, 3))


@pytest.fixture(scope="module")
def data(folders) -> TrainingData:
    return small_data(folders.zimage)


@pytest.fixture(scope="module")
def sd_data(stable_diffusion) -> TrainingData:
    return small_data(stable_diffusion)


def rewarded(by: str, group: int = 4, **override) -> Training:
    own = override.pop("reward", {})
    reward = {"weights": {"reading": 1.0}, "method": by, "steps": 4, "group": group} | own
    return settings(**{"batch_size": 2} | override, reward=reward)


def task_of(folder, data: TrainingData, training: Training, reward=brightness, reference=None) -> Task:
    model = open_model(model_of(folder), ROLES)
    parameters = select_parameters(model, training, 0)
    grid = model.level_grid(8)
    return Task(model, parameters, data, training, grid, None, reference, 0, {"reading": reward})


def run(task: Task, work) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in train(task, Place(work, "key", "test")).items()}


def batch_of(count: int = 2, step: int = 0, goals: torch.Tensor | None = None) -> Batch:
    return Batch(step, 0, range(count), torch.arange(count), goals)


# The noisy sampler


def true_velocity(x: torch.Tensor, t: torch.Tensor, mean: float | torch.Tensor = MEAN) -> torch.Tensor:
    """E[ε − x0 | x_t] for x0 ~ N(mean, SPREAD²) and x_t = (1 − t)·x0 + t·ε, in closed form."""
    variance = (1 - t) ** 2 * SPREAD**2 + t**2
    away = (x - (1 - t) * mean) / variance
    return t * away - (mean + (1 - t) * SPREAD**2 * away)


@pytest.mark.parametrize("noise", [0.3, 0.7, 1.0])
def test_the_noisy_sampler_keeps_the_flows_marginals(noise):
    """At every level mean and deviation are those of the noised data, as the ODE's are; also right after t = 1."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.linspace(1, 0, 401, dtype=torch.float64)[:-1]
    x = torch.randn(20000, 1, 1, 1, generator=generator, dtype=torch.float64)
    ode, steps = x.clone(), EulerSteps(levels)
    for place, t in enumerate(levels[:-1]):
        after = levels[place + 1].expand(len(x))
        mean, std = grpo.transition(x, true_velocity(x, t), t.expand(len(x)), after, noise)
        x = mean + std.view(-1, 1, 1, 1) * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        ode = steps.step(ode, true_velocity(ode, t), place)
        assert x.isfinite().all()
        if place in (100, 200, 300, 398):
            t = levels[place + 1].item()
            wanted = ((1 - t) * MEAN, math.sqrt((1 - t) ** 2 * SPREAD**2 + t**2))
            for found in (x, ode):
                assert found.mean().item() == pytest.approx(wanted[0], abs=0.02)
                assert found.std().item() == pytest.approx(wanted[1], rel=0.025)
    assert not torch.allclose(x, ode, atol=0.1)  # other pictures, of the same distribution


def test_a_step_is_equation_9_by_hand():
    """a = .5, from t = .8 to .6: σ = .5·√(.8 / .2) = 1; the drift is v + (x + .2·v) / 1.6."""
    x, v = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -3.0)
    mean, std = grpo.transition(x, v, torch.tensor([0.8]), torch.tensor([0.6]), 0.5)
    assert mean.item() == pytest.approx(2.0 + (-3.0 + (2.0 - 0.6) / 1.6) * -0.2)
    assert std.item() == pytest.approx(math.sqrt(0.2))
    mean, std = grpo.transition(x, v, torch.tensor([1.0]), torch.tensor([0.9]), 0.5)  # 1 − t is the step's length
    assert std.item() == pytest.approx(0.5 * math.sqrt(1 / 0.1) * math.sqrt(0.1))
    assert mean.item() == pytest.approx(2.0 + (-3.0 + 2.5 * 2.0 / 2) * -0.1)


def test_probabilities_and_divergences_are_those_of_gaussians():
    generator = torch.Generator().manual_seed(1)
    value, mean, other = (torch.randn(3, 2, 4, 4, generator=generator) for _ in range(3))
    std = torch.tensor([0.3, 1.0, 2.0])
    spread = std.view(-1, 1, 1, 1).expand_as(mean)
    one, two = Normal(mean, spread), Normal(other, spread)
    torch.testing.assert_close(grpo.log_probability(value, mean, std), one.log_prob(value).flatten(1).mean(1))
    torch.testing.assert_close(grpo.divergence(mean, other, std), kl_divergence(one, two).flatten(1).mean(1))


def test_the_clipped_surrogate_by_hand_and_by_finite_differences():
    generator = torch.Generator().manual_seed(2)
    before = torch.randn(6, generator=generator, dtype=torch.float64)
    advantages = torch.tensor([1.0, -2.0, 0.5, 1.0, -1.0, 3.0], dtype=torch.float64)
    now = before + torch.tensor([0.0, 0.0, 0.0, 0.5, -0.5, -0.5], dtype=torch.float64)
    found = grpo.surrogate(now, before, advantages, 0.2)
    wanted = [-1.0, 2.0, -0.5, -1.2, 0.8, -3 * math.exp(-0.5)]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))
    fresh = before.clone().requires_grad_(True)  # fresh pictures: the ratio is 1, its gradient is not 0
    grpo.surrogate(fresh, fresh.detach(), advantages, 1e-4).sum().backward()
    torch.testing.assert_close(fresh.grad, -advantages)
    assert_gradient(lambda x: grpo.surrogate(x, before, advantages, 0.2).sum(), before + 0.01, 1e-5, 1e-4)


def test_grpos_gradient_is_that_of_the_surrogate(folders, data):
    """−A · log p and the divergence from another base, along random directions of all weights, pictures held fixed."""
    training = rewarded("grpo", reward={"grpo": {"kl": 0.5, "updates": 2, "clip_range": 0.5}})
    task = task_of(folders.zimage, data, training)
    base = {name: p.detach() + 0.01 * torch.randn(p.shape) for name, p in task.parameters.items()}
    state: dict = {}
    grpo.method_pass(task, base, state, batch_of())
    again = replace(batch_of(), update=1)  # of the same pictures

    def loss() -> torch.Tensor:
        return grpo.method_pass(task, base, state, again).diffusion

    slopes_match(task, loss, step=3e-3)


def slopes_match(task: Task, loss, step: float, tolerance: float = 0.05) -> None:
    """Derivatives of `loss()` along random directions of the trained weights, against central differences."""
    parameters = list(task.parameters.values())
    gradients = torch.autograd.grad(loss(), parameters)
    generator = torch.Generator().manual_seed(4)
    for _ in range(3):
        # Half along the gradient: a slope that stands out of float32's rounding.
        noise = [
            torch.randn(p.shape, generator=generator) * g.abs().mean()
            for p, g in zip(parameters, gradients, strict=True)
        ]
        direction = [g + n for g, n in zip(gradients, noise, strict=True)]
        size = math.sqrt(sum(d.square().sum().item() for d in direction))
        own, found = policy.copies(task.parameters), []
        for sign in (1, -1):
            moved = {n: p + sign * step / size * d for (n, p), d in zip(own.items(), direction, strict=True)}
            with policy.swapped(task.parameters, moved):
                found.append(loss().item())
        slope = sum((g * d).sum().item() for g, d in zip(gradients, direction, strict=True)) / size
        assert slope > 1e-4
        assert (found[0] - found[1]) / (2 * step) == pytest.approx(slope, rel=tolerance)


def test_several_updates_learn_from_the_same_pictures(folders, data, tmp_path):
    training = rewarded("grpo", reward={"grpo": {"updates": 3, "kl": 0.0}}, learning_rate=3e-3)
    run(task_of(folders.zimage, data, training), tmp_path)
    rows = metrics(tmp_path)
    rewards = [row["rewards"]["reading"] for row in rows]
    assert rewards[0] == rewards[1] == rewards[2] != rewards[3] == rewards[4]
    assert rows[0]["measured"]["clipped"] == 0.0  # the ratio is exactly 1
    assert rows[2]["measured"]["clipped"] > 0
    assert rows[0]["measured"]["kl"] is None


def test_train_steps_are_chosen_for_each_prompt(folders, data):
    task = task_of(folders.zimage, data, rewarded("grpo", reward={"steps": 7, "grpo": {"train_steps": 2}}))
    places = grpo.chosen_steps(task, batch_of(3), 6)
    assert places.shape == (2, 12)
    assert torch.equal(places[:, :3], places[:, 3:6])  # all members of a prompt's group alike
    assert (places[0] < places[1]).all()
    assert len({tuple(own) for own in places[:, :3].T.tolist()}) > 1
    every = grpo.chosen_steps(task_of(folders.zimage, data, rewarded("grpo")), batch_of(2), 3)
    assert every[:, 0].tolist() == [0, 1, 2]


# Shared parts


def test_advantages_are_normalised_within_their_group():
    values = torch.tensor([[1.0, 5.0, 2.0], [3.0, 5.0, 2.5]])
    torch.testing.assert_close(policy.normalized(values), torch.tensor([[-1.0, 0, -1], [1, 0, 1]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(nft.optimality(values), torch.tensor([[0.0, 0.5, 0], [1, 0.5, 1]]), atol=1e-3, rtol=0)
    assert (nft.optimality(torch.tensor([[-9.0], [0.0], [0.1]])) >= 0).all()


def test_other_weights_are_there_for_a_while_and_graphs_stay_valid(folders, data):
    task = task_of(folders.zimage, data, rewarded("dpo"))
    own, other = policy.copies(task.parameters), {n: torch.zeros_like(p) for n, p in task.parameters.items()}
    words, levels = policy.words_now(task, torch.arange(2)), torch.full((2,), 0.5)
    latents = data.latents[:2]
    before = policy.predict(task, latents, levels, words)
    with policy.swapped(task.parameters, other):
        assert equal(policy.copies(task.parameters), other)
        inside = policy.predict(task, latents, levels, words)
        assert not inside.requires_grad
    assert equal(policy.copies(task.parameters), own)
    assert not torch.equal(before, inside)
    before.square().mean().backward()
    with pytest.raises(Killed), policy.swapped(task.parameters, other):
        raise Killed
    assert equal(policy.copies(task.parameters), own)
    assert torch.equal(policy.predict(task, latents, levels, words), before)


def test_pictures_do_not_depend_on_how_samples_are_split(folders, data):
    task = task_of(folders.zimage, data, rewarded("nft"))
    whole = policy.sample_group(task, batch_of(3), policy.words_now(task, torch.arange(3)))
    last = Batch(0, 0, range(2, 3), torch.tensor([2]), None)
    alone = policy.sample_group(task, last, policy.words_now(task, last.picked))
    torch.testing.assert_close(whole[:, 2:], alone, atol=1e-4, rtol=1e-3)
    assert len({tuple(picture.flatten()[:3].tolist()) for picture in whole.flatten(0, 1)}) == 12  # none twice


def test_noise_and_levels_go_with_their_pictures(folders, data):
    task = task_of(folders.zimage, data, rewarded("nft", reward={"levels": 3}))
    clean = torch.randn(4, 2, *data.latents.shape[1:])
    noisy, target, levels = policy.noised(task, batch_of(), clean, Stream.GROUP_LEVELS)
    pictures = clean.flatten(0, 1).repeat(3, 1, 1, 1)
    torch.testing.assert_close(noisy - levels.view(-1, 1, 1, 1) * target, pictures, atol=1e-5, rtol=1e-4)
    assert len(set(levels.tolist())) == 24


# Negative-aware fine-tuning


def test_nft_of_a_perfect_picture_is_flow_matching():
    generator = torch.Generator().manual_seed(3)
    prediction, old, target = (torch.randn(5, 2, 4, 4, generator=generator) for _ in range(3))
    perfect, awful = torch.ones(5), torch.zeros(5)
    plain = policy.errors(prediction, target)
    torch.testing.assert_close(nft.nft_losses(prediction, old, target, perfect, 1.0), plain)
    mirrored = policy.errors(2 * old - prediction, target)  # v⁻ at β = 1
    torch.testing.assert_close(nft.nft_losses(prediction, old, target, awful, 1.0), mirrored)
    for r in (perfect, awful):  # at v_θ = v_old all mixtures are the same
        torch.testing.assert_close(nft.nft_losses(old, old, target, r, 0.3), policy.errors(old, target))


def test_nfts_gradient_points_to_good_pictures_and_away_from_bad_ones():
    """At v_θ = v_old it is 2β·(2r − 1)·(v_old − v) / n."""
    old, target = torch.zeros(2, 1, 1, 2), torch.ones(2, 1, 1, 2)
    prediction = old.clone().requires_grad_(True)
    nft.nft_losses(prediction, old, target, torch.tensor([1.0, 0.25]), 0.5).sum().backward()
    torch.testing.assert_close(prediction.grad[:, 0, 0, 0], torch.tensor([-0.5, 0.25]))


def test_the_old_policy_follows_slowly_and_once_a_step(folders, data):
    task = task_of(folders.zimage, data, rewarded("nft", reward={"nft": {"old_decay": 0.75}}))
    start, state = policy.copies(task.parameters), {}
    assert equal(nft.old_policy(task, state, 0), start)
    for parameter in task.parameters.values():
        parameter.data += 1.0
    for _ in range(2):  # two forward passes of one step
        found = nft.old_policy(task, state, 1)
    for name, value in found.items():
        torch.testing.assert_close(value, start[name] + 0.25)


# Preferences


def test_dpo_at_the_base_is_log_2_and_its_gradient_is_right(folders, data):
    training = rewarded("dpo", reward={"dpo": {"beta": 20.0}, "levels": 2})
    task = task_of(folders.zimage, data, training)
    base = policy.copies(task.parameters)
    found = dpo.method_pass(task, base, {}, batch_of())
    assert found.diffusion.item() == pytest.approx(math.log(2), abs=1e-5)
    assert found.measured["pairs"] == 1.0
    slopes_match(task, lambda: dpo.method_pass(task, base, {}, batch_of()).diffusion, step=3e-3)


def test_dpo_by_hand():
    own, base = torch.tensor([[0.2, 0.5], [0.9, 0.5]]), torch.tensor([[0.5, 0.5], [0.6, 0.5]])
    margin = dpo.margins(own, base)
    torch.testing.assert_close(margin, torch.tensor([0.6, 0.0]))
    torch.testing.assert_close(dpo.dpo_losses(margin, 4.0)[0].item(), math.log(1 + math.exp(-1.2)), atol=1e-6, rtol=0)
    values, latents = torch.tensor([[1.0, 3.0], [2.0, 3.0], [0.0, 3.0]]), torch.arange(6.0).view(3, 2, 1, 1, 1)
    both, counts = dpo.pairs(latents, values)
    assert both.flatten(1)[:, 0].tolist() == [2.0, 4.0]  # member 1 against member 2 of the first prompt
    assert counts.tolist() == [True, False]


def test_prompts_whose_pictures_are_worth_the_same_do_not_count(folders, data, tmp_path):
    task = task_of(folders.zimage, data, rewarded("dpo"), lambda images, prompts: torch.zeros(len(images)))
    before = policy.copies(task.parameters)
    run(task, tmp_path)
    assert equal(policy.copies(task.parameters), before)
    assert {(row["loss_total"], row["measured"]["implicit_accuracy"]) for row in metrics(tmp_path)} == {(0.0, None)}


def test_the_pairs_are_the_bases_however_far_the_training_is(folders, data):
    task = task_of(folders.zimage, data, rewarded("dpo"))
    base = policy.copies(task.parameters)
    first = dpo.method_pass(task, base, {}, batch_of()).rewards
    for parameter in task.parameters.values():
        parameter.data *= 1.3
    assert dpo.method_pass(task, base, {}, batch_of()).rewards == first
    assert best_of_n.method_pass(task, {}, {}, batch_of()).rewards != first


def test_the_best_is_picked_and_trained_on_by_the_diffusion_loss(folders, data):
    values, latents = torch.tensor([[1.0, 3.0], [2.0, -1.0]]), torch.arange(4.0).view(2, 2, 1, 1, 1)
    assert best_of_n.best(latents, values).flatten().tolist() == [2.0, 1.0]
    training = rewarded("best_of_n")
    task = task_of(folders.zimage, data, training)
    found = best_of_n.method_pass(task, {}, {}, batch_of())
    words = policy.words_now(task, torch.arange(2))
    clean = policy.sample_group(task, batch_of(), words)
    scores = torch.stack([brightness(soft_limit(task.model.decode(member)), []) for member in clean])
    chosen = torch.stack([clean[scores[:, b].argmax(), b] for b in range(2)])
    other = replace(data, latents=torch.cat([chosen, data.latents[2:]]))
    streams = policy.generators(task, batch_of(), Stream.GROUP_LEVELS, 0)
    plain = micro_step(task.model, other, torch.arange(2), None, training, task.grid, None, streams, [False] * 2)
    assert found.diffusion.item() == pytest.approx(plain.diffusion.item(), rel=1e-4)
    assert found.measured["best"] == pytest.approx(scores.amax(0).mean().item(), rel=1e-3)


# Trainings


@dataclass(frozen=True)
class Known:
    """A flow from noise to x0 ~ N(mean, SPREAD²), velocity in closed form; its mean is trained; latents are images."""

    mean: torch.nn.Parameter  # [3, 1, 1]
    device: torch.device = CPU
    process: Flow = FLOW
    spec: Spec = SPEC

    def predict(self, noisy, levels, conditioning):
        return true_velocity(noisy, levels.view(-1, 1, 1, 1), self.mean)

    def decode(self, latents):
        return latents

    def sampler(self, steps, shape=None):
        return EulerSteps(torch.linspace(1, 0, steps + 1)[:-1])


@pytest.mark.parametrize("method", METHODS)
def test_brightness_is_learnt(data, tmp_path, method):
    """By several deviations of single pictures in 40 steps, and the spread of a picture stays what it is."""
    own = {
        "grpo": {"grpo": {"kl": 0.0}},
        "nft": {"nft": {"old_decay": 0.5}, "levels": 2},
        "dpo": {"dpo": {"beta": 20.0}, "levels": 2},
        "best_of_n": {"levels": 2},
    }
    training = rewarded(method, group=6, steps=40, learning_rate=0.02, reward=own[method] | {"steps": 8})
    model = Known(torch.nn.Parameter(torch.full((3, 1, 1), -0.5)))
    small = replace(data, latents=torch.zeros(12, 3, 4, 4))
    grid = model.sampler(8).levels
    task = Task(model, {"mean": model.mean}, small, training, grid, None, None, 0, {"reading": brightness})
    run(task, tmp_path)
    rows = metrics(tmp_path)
    deviation = rows[0]["measured"]["group_std"]
    assert deviation == pytest.approx(SPREAD / math.sqrt(48), rel=0.5)
    assert (model.mean > -0.5 + 3 * deviation).all(), model.mean
    assert rows[0]["grad_norm"] > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lora", [False, True])
def test_a_killed_run_ends_like_an_unbroken_one(folders, data, tmp_path, monkeypatch, method, lora):
    own = {"reward": {"grpo": {"updates": 3}}} if method == "grpo" else {}
    training = rewarded(method, accumulation=2, **own, **(LORA if lora else {}))
    whole = run(task_of(folders.zimage, data, training), tmp_path / "whole")
    module, calls = import_module(SAMPLED[method]), []
    original = module.method_pass

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 10:  # in step 4 of 6; a checkpoint is written every 2 steps
            raise Killed
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "method_pass", killed)
        with pytest.raises(Killed):
            run(task_of(folders.zimage, data, training), tmp_path / "broken")
    assert equal(whole, run(task_of(folders.zimage, data, training), tmp_path / "broken"))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "broken")


@pytest.mark.parametrize("method", METHODS)
def test_the_anchor_is_heard_beside_it(folders, data, tmp_path, method):
    shape = data.latents.shape[1:]
    points = Trajectories(
        torch.randn(2, 2, *shape), torch.randn(2, 2, *shape), torch.tensor([1.0, 0.5]), data.conditioning.pick([0, 1])
    )
    training = rewarded(method, steps=2, anchor={"weight": 3.0, "batch_size": 2})
    run(task_of(folders.zimage, data, training, reference=points), tmp_path)
    plain = rewarded(method, steps=2)
    run(task_of(folders.zimage, data, plain), tmp_path / "plain")
    row, without = metrics(tmp_path)[0], metrics(tmp_path / "plain")[0]
    assert row["loss_anchor"] > 0
    assert row["loss_total"] == pytest.approx(without["loss_total"] + 3 * row["loss_anchor"], rel=1e-4)


@pytest.mark.parametrize("method", ["nft", "dpo", "best_of_n"])
@pytest.mark.parametrize("parts", [["unet"], ["text_encoder"]])
def test_other_families_and_text_encoders_are_trained_too(stable_diffusion, sd_data, tmp_path, method, parts):
    """ε is predicted, guidance is on while sampling; nothing but what is configured moves."""
    trained = ["denoiser"] if parts == ["unet"] else parts
    training = rewarded(method, parts=trained, steps=3, reward={"guidance_scale": 2.0})
    task = task_of(stable_diffusion, sd_data, training)
    modules = {"denoiser": task.model.unet, "text_encoder": task.model.text_encoder}
    before = {part: [p.detach().clone() for p in module.parameters()] for part, module in modules.items()}
    run(task, tmp_path)
    for part, module in modules.items():
        pairs = zip(module.parameters(), before[part], strict=True)
        assert any(not torch.equal(now, then) for now, then in pairs) == (part in trained)


def test_grpo_trains_a_text_encoder_of_a_flow(folders, data, tmp_path):
    task = task_of(folders.zimage, data, rewarded("grpo", parts=["text_encoder"], steps=2))
    before = policy.copies(task.parameters)
    run(task, tmp_path)
    assert not equal(policy.copies(task.parameters), before)
    assert metrics(tmp_path)[1]["measured"]["kl"] > 0


@pytest.mark.parametrize("method", METHODS)
def test_a_placebo_is_rewarded_for_another_prompt(folders, data, method):
    """A reward that counts a caption's letters sees the goal's caption."""
    heard: list[str] = []

    def listening(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        heard.extend(prompts)
        return brightness(images, prompts)

    training = rewarded(method)
    task, module = task_of(folders.zimage, data, training, listening), import_module(SAMPLED[method])
    module.method_pass(task, module.reference(task), {}, batch_of(goals=torch.tensor([3, 4])))
    assert set(heard) == {data.captions[3], data.captions[4]}


# Refusals


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ({"method": "nft", "dpo": {"beta": 1.0}}, "dpo: it belongs to method dpo, not to nft; leave it out"),
        ({"method": "grpo", "levels": 2}, "levels: it belongs to method nft or dpo or best_of_n, not to grpo"),
        ({"method": "dpo", "last": 3}, "last: it belongs to method prompt or direct, not to dpo"),
        ({"group": 4}, "group: it belongs to method grpo or nft or dpo or best_of_n, not to prompt"),
        ({"method": "dpo", "group": 1}, "greater than or equal to 2"),
        ({"method": "grpo", "steps": 4, "grpo": {"train_steps": 4}}, "train_steps: 4, but of 4 steps 3 are noisy"),
        ({"method": "grpo", "steps": 1}, "of 1 steps 0 are noisy"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(reward, message):
    with pytest.raises(ValueError, match=message):
        settings(reward={"weights": {"reading": 1.0}} | reward)


def test_grpo_needs_a_flow_and_one_process_for_several_updates(stable_diffusion, sd_data):
    with pytest.raises(UserError, match="grpo needs a flow; choose nft, dpo or best_of_n"):
        grpo.reference(task_of(stable_diffusion, sd_data, rewarded("grpo")))
    arms = {"a": {"reward": {"weights": {"reading": 1.0}, "method": "grpo"}}}
    Config.model_validate({"arms": {"diffusion_only": {}} | arms})
    model = {"family": "stable_diffusion", "path": str(stable_diffusion)}
    with pytest.raises(ValueError, match=r"arms\.a\.reward\.method: grpo needs a flow, and stable_diffusion is none"):
        Config.model_validate({"model": model, "arms": {"diffusion_only": {}} | arms})
    with pytest.raises(ValueError, match=r"reward\.grpo\.updates: pictures are kept by one process only"):
        rewarded("grpo", processes=2, parallel="replicate", reward={"grpo": {"updates": 2}})


def test_runs_without_such_a_method_log_and_keep_nothing_of_it(folders, data, tmp_path):
    """Files of other arms stay what they were."""
    training = settings(steps=2)
    task = replace(task_of(folders.zimage, data, training), rewards={})
    run(task, tmp_path)
    assert "measured" not in metrics(tmp_path)[0]
    outline = next(tmp_path.glob("checkpoint-*/part0.json")).read_text()
    assert '"kept"' not in outline
    json.loads(outline)
