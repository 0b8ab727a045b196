"""`grpo`: Flow-GRPO (Liu et al. 2025, arXiv 2505.05470), policy gradient on the steps of a noisy sampler.

The flow's ODE becomes an SDE with the same marginals (its Eq. 9, t = 1 is noise):

    dx = [v + σ_t² / (2t) · (x + (1 − t)·v)] dt + σ_t dw,   σ_t = a·√(t / (1 − t)),

solved from t = 1 to 0 by Euler and Maruyama, on the sampler's own levels. At t = 1 σ_t has no bound: 1 − t is replaced
by the length of the step where that is larger, which at t = 1 is what the published code does (it puts the next level
there). The last step, to t = 0, is Euler's without noise, and nothing is learnt from it: pictures that are judged have
no noise left. Each of the other T − 1 steps is a Gaussian, so its probability and its divergence from the base's have
closed forms. Both are means over the latents' values, not sums, as in the published code.

Fewer steps than in generation ("denoising reduction") are `reward.steps`.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from legible.errors import UserError
from legible.models.flow import Flow, expand
from legible.models.rollout import Words, guided_prediction
from legible.seeds import Stream, stateless_generator
from legible.train.policy import (
    Weights,
    copies,
    generators,
    normal,
    normalized,
    outcome,
    predict,
    rate,
    swapped,
    words_now,
)  # fmt: skip
from legible.train.session import Task
from legible.train.step import Batch, Losses


@dataclass(frozen=True)
class Pictures:
    """P = G · B sampled pictures, and how they came about."""

    path: Tensor  # [T, P, C, h, w], before every step of the sampler
    log_probs: Tensor  # [T − 1, P], of the noisy steps under the weights that took them
    advantages: Tensor  # [P]
    values: Tensor  # [G, B], Σ γ·R
    rewards: dict[str, float]  # mean of each


def transition(latents: Tensor, velocity: Tensor, level: Tensor, after: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Mean [P, C, h, w] and standard deviation [P] of a noisy step.

    Args:
        level, after: [P], t before and after it; t > after > 0.
        noise: a.
    """
    length = level - after
    sigma = noise * (level / torch.maximum(1 - level, length)).sqrt()
    t, pull, dt = (expand(value, latents) for value in (level, sigma.square() / (2 * level), -length))
    mean = latents + (velocity + pull * (latents + (1 - t) * velocity)) * dt
    return mean, sigma * length.sqrt()


def log_probability(value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(value; mean, std²) [P], the mean over a picture's values."""
    away = (value - mean).square().flatten(1).mean(1)
    return -away / (2 * std.square()) - std.log() - math.log(2 * math.pi) / 2


def divergence(mean: Tensor, other: Tensor, std: Tensor) -> Tensor:
    """KL of two Gaussians of equal variance [P], the mean over a picture's values."""
    return (mean - other).square().flatten(1).mean(1) / (2 * std.square())


def surrogate(log_probs: Tensor, before: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """PPO's clipped loss (Schulman et al. 2017, arXiv 1707.06347, Eq. 7), to be made small; all of one shape.

    Where `before` equals `log_probs` it is −A, and its gradient −A·∇log p.
    """
    ratio = (log_probs - before).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip_range, 1 + clip_range) * advantages)


@torch.no_grad()
def draw_pictures(task: Task, batch: Batch) -> Pictures:
    """G pictures of each prompt by the noisy sampler and the model as it is now."""
    settings, words = task.training.reward, words_now(task, batch.picked)
    levels = task.model.sampler(settings.steps, tuple(task.data.latents.shape[1:])).levels
    ways, chances, clean = [], [], []
    for member in range(settings.group):
        streams = generators(task, batch, Stream.GROUP_NOISE, member)
        path, log_probs, last = walk(task, levels, streams, words)
        ways.append(path)
        chances.append(log_probs)
        clean.append(last)
    values, means = rate(task, batch, torch.stack(clean))
    return Pictures(torch.cat(ways, 1), torch.cat(chances, 1), normalized(values).flatten(), values, means)


def walk(task: Task, levels: Tensor, streams: list[torch.Generator], words: Words) -> tuple[Tensor, Tensor, Tensor]:
    """One picture a stream: latents before each step [T, B, C, h, w], log-probabilities [T − 1, B], clean latents."""
    settings, latents = task.training.reward, normal(task, streams)
    path, log_probs = [latents], []
    for place, level in enumerate(levels):
        velocity = guided_prediction(task.model, latents, level, words, settings.guidance_scale)
        if place + 1 == len(levels):
            return torch.stack(path), torch.stack(log_probs), latents - level * velocity
        at, after = level.expand(len(latents)), levels[place + 1].expand(len(latents))
        mean, std = transition(latents, velocity, at, after, settings.grpo.noise)
        latents = mean + expand(std, mean) * normal(task, streams)
        log_probs.append(log_probability(latents, mean, std))
        path.append(latents)
    raise ValueError("a sampler without levels")


def chosen_steps(task: Task, batch: Batch, noisy: int) -> Tensor:
    """Which of the `noisy` steps are trained on, [K, P]: for each prompt others, all members of its group alike."""
    settings, places = task.training.reward, []
    for position in batch.positions:
        stream = stateless_generator(task.seed, Stream.GROUP_STEPS, batch.step + batch.update, position)
        order = torch.randperm(noisy, generator=stream)
        places.append(order[: settings.grpo.train_steps].sort().values)
    return torch.stack(places, 1).repeat(1, settings.group).to(task.model.device)


def reference(task: Task) -> Weights:
    """The base, where the divergence from it counts."""
    if not isinstance(task.model.process, Flow):
        raise UserError("training.reward.method: grpo needs a flow; choose nft, dpo or best_of_n")
    return copies(task.parameters) if task.training.reward.grpo.kl else {}


def method_pass(task: Task, base: Weights, state: dict[str, Any], batch: Batch) -> Losses:
    """Losses of one forward pass; `state` keeps the pictures where several steps learn from them.

    Raises:
        UserError: see `rate`.
    """
    grpo, kept = task.training.reward.grpo, f"pictures-{batch.positions.start}"
    first = batch.update == 0
    pictures = draw_pictures(task, batch) if first else Pictures(**state[kept])
    if grpo.updates > 1:
        state[kept] = vars(pictures)
    levels = task.model.sampler(task.training.reward.steps, tuple(pictures.path.shape[2:])).levels
    places = chosen_steps(task, batch, len(levels) - 1)  # [K, P]
    rows = torch.arange(places.shape[1], device=places.device).expand_as(places)
    path, device = pictures.path.to(task.model.device), task.model.device
    here, there = path[places, rows].flatten(0, 1), path[places + 1, rows].flatten(0, 1)
    at, after = levels[places].flatten(), levels[places + 1].flatten()
    velocity = predict(task, here, at, words_now(task, batch.picked), guided=True)
    mean, std = transition(here, velocity, at, after, grpo.noise)
    log_probs = log_probability(there, mean, std)
    # Fresh pictures' own probabilities once more: computed in other batches they would differ by rounding.
    before = log_probs.detach() if first else pictures.log_probs.to(device)[places, rows].flatten()
    advantages = pictures.advantages.to(device).repeat(len(places))
    loss, away = surrogate(log_probs, before, advantages, grpo.clip_range).mean(), None
    if grpo.kl:
        with swapped(task.parameters, base):
            other = predict(task, here, at, words_now(task, batch.picked), guided=True)
        away = divergence(mean, transition(here, other, at, after, grpo.noise)[0], std).mean()
        loss = loss + grpo.kl * away
    clipped = ((log_probs - before).exp() - 1).abs() > grpo.clip_range
    measured = {"kl": None if away is None else away.item(), "clipped": clipped.float().mean().item()}
    return outcome(loss, pictures.rewards, pictures.values, measured)
