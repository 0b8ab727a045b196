"""`nft`: DiffusionNFT (Zheng et al. 2025, arXiv 2509.16117, its Algorithm 1), reinforcement on the forward process.

The old policy, a slow average of the trained weights, draws G pictures a prompt with the family's sampler. A picture's
r in 0 … 1 says how good it is within its group: r = ½ + ½·clip((R − mean) / Z, −1, 1), Z the group's standard deviation
here. At noised pictures with the target v two mixtures of the old and the trained prediction are taught,

    L = r·‖v⁺ − v‖² + (1 − r)·‖v⁻ − v‖²,   v⁺ = (1 − β)·v_old + β·v_θ,   v⁻ = (1 + β)·v_old − β·v_θ,

so that v_θ goes towards good pictures and away from bad ones; with r = 1 and β = 1 it is the diffusion loss. The
paper's adaptive weight over t is left out: levels count as in this project's diffusion loss, drawn as `sigma` says.
"""

from typing import Any

import torch
from torch import Tensor

from legible.seeds import Stream
from legible.train.policy import (
    Weights,
    copies,
    errors,
    noised,
    normalized,
    outcome,
    predict,
    rate,
    sample_group,
    swapped,
    words_now,
)  # fmt: skip
from legible.train.session import Task
from legible.train.step import Batch, Losses


def reference(task: Task) -> Weights:
    """None: the old policy, which begins as the base, is part of the state."""
    return {}


def optimality(values: Tensor) -> Tensor:
    """r [G, B] in 0 … 1 of values [G, B]; ½ where all of a group are equal."""
    return 0.5 + 0.5 * normalized(values).clamp(-1, 1)


def nft_losses(prediction: Tensor, old: Tensor, target: Tensor, r: Tensor, beta: float) -> Tensor:
    """L [P] of predictions and targets [P, C, h, w] and r [P]."""
    positive = (1 - beta) * old + beta * prediction
    negative = (1 + beta) * old - beta * prediction
    return r * errors(positive, target) + (1 - r) * errors(negative, target)


@torch.no_grad()
def old_policy(task: Task, state: dict[str, Any], step: int) -> Weights:
    """The old policy's weights, float32, brought up to this step once; `state` keeps them."""
    if "old" not in state:  # the first step: nothing has been learnt yet
        state["old"], state["step"] = {name: value.float() for name, value in copies(task.parameters).items()}, step
    if state["step"] != step:  # the weights have moved since
        for name, value in state["old"].items():
            value.lerp_(task.parameters[name].float(), 1 - task.training.reward.nft.old_decay)
        state["step"] = step
    return state["old"]


def method_pass(task: Task, base: Weights, state: dict[str, Any], batch: Batch) -> Losses:
    """Losses of one forward pass; `state` is brought up to its step.

    Raises:
        UserError: see `rate`.
    """
    settings, old = task.training.reward, old_policy(task, state, batch.step)
    with swapped(task.parameters, old):
        words = words_now(task, batch.picked)
        clean = sample_group(task, batch, words)
        values, means = rate(task, batch, clean)
        noisy, target, levels = noised(task, batch, clean, Stream.GROUP_LEVELS)
        before = predict(task, noisy, levels, words)
    prediction = predict(task, noisy, levels, words_now(task, batch.picked))
    r = optimality(values).flatten().repeat(settings.levels)
    loss = nft_losses(prediction, before, target, r, settings.nft.beta).mean()
    return outcome(loss, means, values, {"from_old": errors(prediction.detach(), before).mean().item()})
