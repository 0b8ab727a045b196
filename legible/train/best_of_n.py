"""`best_of_n`: rejection sampling (RAFT: Dong et al. 2023, arXiv 2304.06767, its Algorithm 1, on one batch at a time).

The model as it is now draws G pictures a prompt; on the best of them by the rewards it is trained with the ordinary
diffusion loss. Nothing holds it to the base but the velocity anchor, where that is on.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from legible.seeds import Stream
from legible.train.policy import Weights, errors, noised, outcome, predict, rate, sample_group, words_now
from legible.train.session import Task
from legible.train.step import Batch, Losses


def reference(task: Task) -> Weights:
    """None is needed."""
    return {}


def best(latents: Tensor, values: Tensor) -> Tensor:
    """The picture of highest value of each group [1, B, C, h, w], of pictures [G, B, C, h, w] and values [G, B]."""
    return latents[values.argmax(0), torch.arange(values.shape[1], device=values.device)][None]


def method_pass(task: Task, base: Weights, state: dict[str, Any], batch: Batch) -> Losses:
    """Losses of one forward pass; its diffusion loss is logged by level, as an ordinary training's is.

    Raises:
        UserError: see `rate`.
    """
    with torch.no_grad():
        clean = sample_group(task, batch, words_now(task, batch.picked))
    values, means = rate(task, batch, clean)
    noisy, target, levels = noised(task, batch, best(clean, values), Stream.GROUP_LEVELS)
    losses = errors(predict(task, noisy, levels, words_now(task, batch.picked)), target)
    found = outcome(losses.mean(), means, values, {"best": values.amax(0).mean().item()})
    nothing = torch.full_like(losses.detach(), float("nan"))
    return replace(found, sigma=task.model.process.sigma(levels), per_sample=losses.detach(), weighted=nothing)
