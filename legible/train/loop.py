"""The training loop: L_total = L_diffusion + λ · L_aux, resumable bit for bit.

Every random number comes from a generator seeded with (seed, step, sample of the step): a run that was killed and
resumed draws what an unbroken run draws, however its samples are split into forward passes. Arms share data order,
noise and levels per seed: they differ in the loss and in nothing else.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from legible.train.anchor import anchor_loss
from legible.train.budget import Clock
from legible.train.combine import Gradients, limit_gradients
from legible.train.group import ALONE, Group
from legible.train.optimizer import take_step
from legible.train.session import Place, Session, Task
from legible.train.step import Losses, add_gradient, by_sigma, norms_and_cosine


def train(
    task: Task, place: Place, stopping: Callable[[], bool] = lambda: False, group: Group = ALONE,
    clock: Clock | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Train the task's parameters in place; return the weights to keep, by name (averaged if EMA is on).

    In a group of processes all of them call this; sharded weights the first one gets back, whole and on the CPU.

    Args:
        stopping: asked after every step whether to write a checkpoint and stop.
        group: the processes that share each step's samples.
        clock: the time that this attempt has; None = as long as it takes.

    Raises:
        UserError: the loss or its gradient is not finite; the last good checkpoint stays in the place's folder.
        Stopped: `stopping` said so, or the time is nearly over; what was done is in the checkpoint.
    """
    session, training = Session(task, place, group, clock or Clock()), task.training
    balance, trained = session.balance, session.trained
    session.validate(0)
    for step in session.steps():
        learning_rate = training.learning_rate * min(1.0, (step + 1) / max(training.warmup, 1))
        aux = session.auxiliary(step)
        measures = aux is not None and balance.measures(step)
        weight = balance.at(step)

        rows, extra = [], [None] * len(trained)
        for positions in session.passes:
            losses = session.forward(step, positions, aux)
            extra = backward(losses, weight, measures, len(session.passes), trained, extra)
            rows.append(losses.detached())
            del losses  # and with it its graph: a decoder's must not outlive its forward pass
        rows = group.collect([row.read() for row in rows])
        norms, weight, extra = combine_gradients(session, step, extra, measures)
        anchor = backward_anchor(task, step)
        norm, limited = limit_gradients(trained, extra, weight, training)

        found = losses_of(task, rows, weight, anchor)
        session.check_finite(step, found["loss_total"], norm)
        take_step(session.optimizer, learning_rate, task.seed, step)
        session.optimizer.zero_grad(set_to_none=True)
        session.average_weights()
        if found["loss_aux"] is not None:
            balance.observe_losses(found["loss_diffusion"], found["loss_aux"])
        session.log.write(
            step=step,
            **found,
            grad_norm_diffusion=norms and norms[0],
            grad_norm_aux=norms and norms[1],
            grad_cosine=norms and norms[2],
            grad_norm=norm,
            **limited,
            learning_rate=learning_rate,
            seconds=round(session.seconds(), 3),
            processor_seconds=round(session.processor_seconds(), 3),
        )
        session.validate(step + 1)
        session.keep(step, stopping)
    return session.chosen_weights()


def losses_of(task: Task, rows: list[Losses], weight: float, anchor: float | None) -> dict[str, Any]:
    """A step's losses as its log has them, from all its forward passes; with rewards theirs is no diffusion loss."""
    diffusion, auxiliary = mean([row.diffusion for row in rows]), mean([row.aux for row in rows])
    total = diffusion + (0.0 if auxiliary is None else weight * auxiliary)
    total += 0.0 if anchor is None else task.training.anchor.weight * anchor
    sigma = torch.cat([row.sigma for row in rows])
    return {
        "loss_total": total,
        "loss_diffusion": None if task.rewards else diffusion,
        **(
            {"rewards": {name: mean([row.rewards[name] for row in rows]) for name in task.rewards}}
            if task.rewards
            else {}
        ),
        **(
            {"measured": {name: mean([row.measured[name] for row in rows]) for name in rows[0].measured}}
            if rows[0].measured
            else {}
        ),
        "loss_aux": auxiliary,
        "loss_anchor": anchor,
        "sigma_mean": sigma.mean().item() if len(sigma) else None,
        "sigma_diffusion": by_sigma(sigma, torch.cat([row.per_sample for row in rows])),
        "sigma_aux": by_sigma(sigma, torch.cat([row.weighted for row in rows])),
        "lambda": weight if auxiliary is not None else None,
    }


def mean(values: list[float | None]) -> float | None:
    """The mean of those that are there; None where none is."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def backward(
    losses: Losses, weight: float, measures: bool, passes: int, trained: list[torch.nn.Parameter], extra: Gradients
) -> Gradients:
    """Add the gradient of one of `passes` forward passes; where `measures`, the auxiliary one to `extra`, unweighted.

    Returns:
        `extra`, with what was added.
    """
    total = losses.diffusion
    if losses.aux is not None and measures:
        extra = add_gradient(losses.aux / passes, trained, extra)
    elif losses.aux is not None:
        total = total + weight * losses.aux
    (total / passes).backward()
    return extra


def combine_gradients(
    session: Session, step: int, extra: Gradients, measures: bool
) -> tuple[tuple[float, float, float] | None, float, Gradients]:
    """Average the gradients over the processes, and add λ times the auxiliary one where it was measured apart.

    Returns:
        ‖∇L_diffusion‖, ‖∇L_aux‖ and their cosine, where they were measured, and λ, which may follow from them; and the
        auxiliary gradient where it is to stay apart until the anchor's is there too (`limit_gradients`).
    """
    group, trained, balance = session.group, session.trained, session.balance
    for parameter, gradient in zip(trained, group.average([p.grad for p in trained], trained), strict=True):
        parameter.grad = gradient
    extra = group.average(extra, trained) if measures else extra
    if all(gradient is None for gradient in extra):
        return None, balance.at(step), extra
    norms = norms_and_cosine(trained, extra)
    balance.observe_norms(*norms[:2])
    if balance.aux.apart:
        return norms, balance.at(step), extra
    for parameter, gradient in zip(trained, extra, strict=True):
        if gradient is not None:
            added = balance.at(step) * gradient
            parameter.grad = added if parameter.grad is None else parameter.grad + added
    return norms, balance.at(step), []


def backward_anchor(task: Task, step: int) -> float | None:
    """Add the velocity anchor's gradient; its loss, or None where it is off."""
    if task.reference is None:
        return None
    settings = task.training.anchor
    loss = anchor_loss(task.model, task.reference, settings, task.seed, step)
    (settings.weight * loss).backward()
    return loss.item()
