"""What the methods that train by the values of rewards share: groups of pictures, their scores, and exchanged weights.

No gradient goes through a reward here, nor through the sampler. Every picture has its own generator, so that pictures
do not depend on how the samples are split into forward passes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from legible.losses.regions import soft_limit
from legible.models.rollout import Words, guided_prediction, roll_out
from legible.rewards.reward import score
from legible.seeds import Stream, stateless_generator
from legible.train.session import Task
from legible.train.step import Batch, Losses

Weights = dict[str, Tensor]  # by the names of the trained parameters


def copies(parameters: dict[str, nn.Parameter]) -> Weights:
    """The parameters as they are now. Of LoRA these are the adapters, which add nothing at the start: the base."""
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


@contextmanager
def swapped(parameters: dict[str, nn.Parameter], weights: Weights) -> Iterator[None]:
    """The model with other trained weights, without gradients.

    The parameters' memory is exchanged, not written: a graph that was built with the own weights stays valid.
    """
    own = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = weights[name].to(parameter.dtype)
        with torch.no_grad():
            yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = own[name]


def words_now(task: Task, picked: Tensor) -> Words:
    """What the captions of the samples `picked` [B] and the empty prompt say to the model as it is now.

    By a text encoder that is trained, with its gradient where gradients are on; otherwise from the cache.
    """
    model, data, rows = task.model, task.data, picked.tolist()
    guided = task.training.reward.guidance_scale > model.spec.guidance_off
    if not task.training.text_trained:
        return Words(data.conditioning.pick(rows), data.empty if guided else None)
    encode = partial(model.encode_prompts, gradient=torch.is_grad_enabled())
    return Words(encode([data.captions[row] for row in rows]), encode([""]) if guided else None)


def predict(task: Task, latents: Tensor, levels: Tensor, words: Words, guided: bool = False) -> Tensor:
    """The network's answer [P, C, h, w] at noisy latents of M · B = P pictures; `words` of the B prompts.

    Args:
        levels: [P].
        guided: with the guidance of the rewards' sampler; otherwise the prompts alone, as training asks.
    """
    repeated = Words(
        words.prompts.pick([*range(len(words.prompts))] * (len(latents) // len(words.prompts))), words.empty
    )
    scale = task.training.reward.guidance_scale if guided else task.model.spec.guidance_off
    return guided_prediction(task.model, latents, levels, repeated, scale)


def generators(task: Task, batch: Batch, stream: Stream, member: int) -> list[torch.Generator]:
    """One for the `member`-th picture of each of the B prompts."""
    return [stateless_generator(task.seed, stream, batch.step, place, member) for place in batch.positions]


def normal(task: Task, streams: list[torch.Generator]) -> Tensor:
    """Standard normal noise [B, C, h, w], on the model's device."""
    shape = task.data.latents.shape[1:]
    return torch.stack([torch.randn(shape, generator=stream) for stream in streams]).to(task.model.device)


@torch.no_grad()
def sample_group(task: Task, batch: Batch, words: Words) -> Tensor:
    """Clean latents [G, B, C, h, w], G pictures of each prompt by the family's sampler and the model as it is now.

    One member of all groups at a time: no more memory is needed than for B pictures.
    """
    settings = task.training.reward
    found = []
    for member in range(settings.group):
        noise = normal(task, generators(task, batch, Stream.GROUP_NOISE, member))
        found.append(roll_out(task.model, noise, settings.steps, 0, words, words, settings.guidance_scale))
    return torch.stack(found)


@torch.no_grad()
def rate(task: Task, batch: Batch, latents: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Σ γ·R [G, B] of clean latents [G, B, C, h, w], and the mean of every reward.

    They are judged for the placebo's captions where `batch.goals` names some.
    """
    rows = batch.picked if batch.goals is None else batch.goals
    prompts = [task.data.captions[row] for row in rows.tolist()]
    found = [score(task.rewards, soft_limit(task.model.decode(member)), prompts) for member in latents]
    values = {name: torch.stack([own[name].float() for own in found]) for name in task.rewards}
    weights = task.training.reward.weights
    return sum(weights[name] * value for name, value in values.items()), {n: v.mean().item() for n, v in values.items()}


def normalized(values: Tensor) -> Tensor:
    """Values [G, B] less their group's mean, in units of its standard deviation; 0 where all G are equal.

    The deviation is that of the G values (not an estimate from them), 1e-4 is added as Flow-GRPO's code does.
    """
    return (values - values.mean(0)) / (values.std(0, correction=0) + 1e-4)


def noised(task: Task, batch: Batch, clean: Tensor, stream: Stream) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures [M, B, C, h, w] with noise, `reward.levels` times each.

    Levels are drawn as training draws them; noise and levels are the member's own.

    Returns:
        Noisy latents and the network's targets [L · M · B, C, h, w], levels [L · M · B].
    """
    process, sigma, members = task.model.process, task.training.sigma, range(len(clean))
    streams = [generators(task, batch, stream, member) for member in members]
    noise, levels = [], []
    for _ in range(task.training.reward.levels):
        for member in members:
            noise.append(normal(task, streams[member]))
            levels += [process.draw(sigma, task.grid, 1, own) for own in streams[member]]
    at, all_noise = torch.cat(levels).to(task.model.device), torch.cat(noise)
    pictures = clean.flatten(0, 1).repeat(task.training.reward.levels, 1, 1, 1)
    return process.noised(pictures, all_noise, at), process.target(pictures, all_noise, at), at


def errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error [P] of each picture."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def outcome(
    loss: Tensor, rewards: dict[str, float], values: Tensor, measured: dict[str, float | None] | None = None
) -> Losses:
    """A method's loss as the loop takes it.

    Args:
        values: Σ γ·R [G, B], whose spread within a group is logged: without one there is nothing to learn.
        measured: what else is logged.
    """
    nothing = torch.zeros(0)
    spread = {"group_std": values.std(0, correction=0).mean().item()}
    return Losses(loss, None, nothing, nothing, nothing, rewards, spread | (measured or {}))
