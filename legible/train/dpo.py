"""`dpo`: Diffusion-DPO (Wallace et al. 2023, arXiv 2311.12908, Eq. 14) on pairs that the rewards rank.

The base draws G pictures a prompt; the best by the rewards is w, the worst is l. With the errors e = ‖v_θ − v‖² of the
trained model and e_ref of the base, at one noise and one level for both pictures,

    L = −log σ(−β/2 · [(e^w − e^w_ref) − (e^l − e^l_ref)]).

For a flow e is the velocity's error (Flow-DPO: Liu et al. 2025, arXiv 2501.13918, with a constant β), for other
families that of what they predict. Errors are means over the latents' values, as in Diffusion-DPO's code. The base does
not change, so the pairs do not depend on the training: it learns from no picture of its own.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from legible.seeds import Stream
from legible.train.policy import (
    Weights,
    copies,
    errors,
    noised,
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
    """The base: it draws the pairs, and is held to."""
    return copies(task.parameters)


def margins(own: Tensor, base: Tensor) -> Tensor:
    """(e^l − e^l_ref) − (e^w − e^w_ref) [n] of errors [2, n] of (better, worse); > 0 where θ tells them apart rightly.

    Args:
        own, base: of the trained model and of the base.
    """
    better, worse = own - base
    return worse - better


def dpo_losses(margin: Tensor, beta: float) -> Tensor:
    """−log σ(β/2 · margin) [n]; log 2 where θ is the base."""
    return -F.logsigmoid(beta / 2 * margin)


def pairs(latents: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """(better, worse) [2, B, C, h, w] of pictures [G, B, C, h, w] by values [G, B], and whether they differ [B]."""
    columns = torch.arange(values.shape[1], device=values.device)
    best, worst = values.argmax(0), values.argmin(0)
    counts = values[best, columns] > values[worst, columns]
    return torch.stack([latents[best, columns], latents[worst, columns]]), counts


def method_pass(task: Task, base: Weights, state: dict[str, Any], batch: Batch) -> Losses:
    """Losses of one forward pass; prompts whose pictures are all worth the same count as 0.

    Raises:
        UserError: see `rate`.
    """
    settings = task.training.reward
    with swapped(task.parameters, base):
        words = words_now(task, batch.picked)
        clean = sample_group(task, batch, words)
        values, means = rate(task, batch, clean)
        both, counts = pairs(clean, values)
        noisy, target, levels = noised(task, batch, both, Stream.GROUP_LEVELS)
        before = errors(predict(task, noisy, levels, words), target)
    after = errors(predict(task, noisy, levels, words_now(task, batch.picked)), target)

    def paired(values: Tensor) -> Tensor:  # [L · 2 · B] as [2, L · B]
        return values.view(settings.levels, 2, -1).transpose(0, 1).flatten(1)

    margin, counted = margins(paired(after), paired(before)), counts.repeat(settings.levels)
    loss = (dpo_losses(margin, settings.dpo.beta) * counted).mean()
    right = (margin[counted] > 0).float().mean().item() if counted.any() else None
    return outcome(loss, means, values, {"implicit_accuracy": right, "pairs": counts.float().mean().item()})
