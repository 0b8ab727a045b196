"""The training loop: L_total = L_diffusion + λ · L_aux, resumable bit for bit.

Every random number comes from a generator seeded with (seed, step, sample of the step): a run that was killed and
resumed draws what an unbroken run draws, however its samples are split into forward passes. Arms share data order,
noise and σ per seed: they differ in the loss and in nothing else.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from legible.config import Training
from legible.errors import Stopped, UserError
from legible.io import atomic_path
from legible.losses.auxiliary import AuxLoss
from legible.models.zimage.model import ZImage
from legible.progress import progress
from legible.train.anchor import AdapterOff, Trajectories, anchor_loss
from legible.train.balance import Balance
from legible.train.checkpoint import load_checkpoint, sample_order, save_checkpoint, stateless_generator
from legible.train.data import TrainingData, other_samples
from legible.train.group import ALONE, Group, full, local, whole_weights
from legible.train.log import RunLog
from legible.train.optimizer import build_optimizer, load_optimizer, take_step
from legible.train.step import apart, by_sigma, micro_step, norms_and_cosine


def train(
    model: ZImage,
    parameters: dict[str, torch.nn.Parameter],
    data: TrainingData,
    training: Training,
    grid: Tensor,
    aux: AuxLoss | None,
    paths: Trajectories | AdapterOff | None,
    seed: int,
    folder: Path,
    key: str,
    label: str,
    stopping: Callable[[], bool] = lambda: False,
    group: Group = ALONE,
) -> dict[str, Tensor]:
    """Train `parameters` (name → parameter of `model`) in place; return the weights to keep (averaged if EMA is on).

    In a group of processes all of them call this; sharded weights the first one gets back, whole and on the CPU.

    Args:
        grid: the sampler's σ values.
        paths: what the velocity anchor compares with, if it is on.
        folder: where checkpoint and metrics live between attempts.
        key: identifies configuration, data, base model and code; a checkpoint of another key is refused.
        stopping: asked after every step whether to write a checkpoint and stop.
        group: the processes that share each step's samples.

    Raises:
        UserError: the loss or its gradient is not finite; the last good checkpoint stays in `folder`.
        Stopped: `stopping` said so; what was done is in the checkpoint.
    """
    trained = list(parameters.values())
    optimizer = build_optimizer(trained, training)
    mine = {name: local(parameter.detach()) for name, parameter in parameters.items()}  # views: they follow training
    averaged = {name: part.float().clone() for name, part in mine.items()} if training.ema else {}
    lengths = data.padded_lengths() if training.bucket else None
    order = sample_order(len(data.latents), training.batch_size, seed, lengths)
    passes, samples_a_step = group.passes(training), training.batch_size * training.accumulation
    others = other_samples(len(data.latents), seed) if training.aux.targets == "shuffled" else None
    balance = Balance(training.aux, training.steps)
    log, first, spent = RunLog(folder / "metrics.jsonl", writes=group.rank == 0), 0, 0.0
    checkpoint = folder / "checkpoint.json"
    if state := load_checkpoint(checkpoint, key, group):
        for name, part in mine.items():
            part.copy_(state["parameters"][name])
        averaged = {name: value.to(model.device) for name, value in state["averaged"].items()}
        load_optimizer(optimizer, state["optimizer"])
        balance.state = state["balance"]
        first, spent = log.rewind(state["step"]), state["seconds"]
    else:
        log.rewind(0)
    began = time.monotonic()
    steps = range(first, training.steps)
    if group.rank == 0:
        steps = progress(steps, label, start=first, total=training.steps, unit="step")
    for step in steps:
        learning_rate = training.learning_rate * min(1.0, (step + 1) / max(training.warmup, 1))
        # Counted in optimiser steps, so accumulation cannot move it; on such a step every micro-step takes part.
        wanted = aux if training.aux.lambda_aux > 0 and (step + 1) % training.aux.every == 0 else None
        measured = wanted is not None and balance.measures(step)
        rows, extra = [], [None] * len(trained)
        for positions in passes:
            before = step * samples_a_step
            picked = order(range(before + positions.start, before + positions.stop))
            goals = None if others is None else others[picked]
            generators = [stateless_generator(seed, 2, step, sample) for sample in positions]
            losses = micro_step(model, data, picked, goals, training, grid, wanted, generators)
            total = losses.diffusion
            if losses.aux is not None and measured:
                extra = apart(losses.aux / len(passes), trained, extra)
            elif losses.aux is not None:
                total = total + balance.at(step) * losses.aux
            (total / len(passes)).backward()
            rows.append(losses.detached())
            del losses, total  # and with them their graphs: a decoder's must not outlive its forward pass
        rows = group.collect([row.read() for row in rows])
        for parameter, gradient in zip(trained, group.average([p.grad for p in trained], trained), strict=True):
            parameter.grad = gradient
        extra = group.average(extra, trained) if measured else extra
        taken = None
        if any(gradient is not None for gradient in extra):
            taken = norms_and_cosine(trained, extra)
            balance.observe_norms(*taken[:2])
            for parameter, gradient in zip(trained, extra, strict=True):
                if gradient is not None:
                    added = balance.at(step) * gradient
                    parameter.grad = added if parameter.grad is None else parameter.grad + added
        held = None
        if paths is not None:
            anchor = anchor_loss(model, paths, training.anchor, seed, step)
            (training.anchor.weight * anchor).backward()
            held = anchor.item()
        weight = balance.at(step)
        norm = full(torch.nn.utils.clip_grad_norm_(trained, training.max_grad_norm)).item()
        diffusion = sum(row.diffusion for row in rows) / len(rows)
        auxiliary = [row.aux for row in rows if row.aux is not None]
        auxiliary = sum(auxiliary) / len(auxiliary) if auxiliary else None
        total = diffusion + (0.0 if auxiliary is None else weight * auxiliary)
        total += 0.0 if held is None else training.anchor.weight * held
        if not (math.isfinite(total) and math.isfinite(norm)):
            kept = "no checkpoint was written yet" if not checkpoint.exists() else f"the last good one is {checkpoint}"
            raise UserError(
                f"{label}: the loss is not finite at step {step} ({kept}); lower training.learning_rate or lambda"
            )
        take_step(optimizer, learning_rate, seed, step)
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, value in averaged.items():
                value.lerp_(mine[name].float(), 1 - training.ema)
        if auxiliary is not None:
            balance.observe_losses(diffusion, auxiliary)
        sigma = torch.cat([row.sigma for row in rows])
        log.write(
            step=step,
            loss_total=total,
            loss_diffusion=diffusion,
            loss_aux=auxiliary,
            loss_anchor=held,
            sigma_mean=sigma.mean().item(),
            sigma_diffusion=by_sigma(sigma, torch.cat([row.per_sample for row in rows])),
            sigma_aux=by_sigma(sigma, torch.cat([row.weighted for row in rows])),
            **{"lambda": weight if auxiliary is not None else None},
            grad_norm_diffusion=taken and taken[0],
            grad_norm_aux=taken and taken[1],
            grad_cosine=taken and taken[2],
            grad_norm=norm,
            learning_rate=learning_rate,
            seconds=round(spent + time.monotonic() - began, 3),
        )
        if step + 1 in training.snapshots:
            kept = whole_weights(averaged or mine, parameters, group)
            if group.rank == 0:
                with atomic_path(folder / f"snapshot-{step + 1}.safetensors") as temporary:
                    save_file({name: value.contiguous() for name, value in kept.items()}, temporary)
        stop = group.any(stopping()) and step + 1 < training.steps
        if stop or (step + 1) % training.checkpoint_every == 0 or step + 1 == training.steps:
            state = {
                "parameters": mine,
                "averaged": averaged,
                "optimizer": optimizer.state_dict(),
                "balance": balance.state,
                "step": step + 1,
                "seconds": spent + time.monotonic() - began,
            }
            save_checkpoint(checkpoint, key, state, group)
        if stop:
            raise Stopped(f"{label}: after step {step + 1} of {training.steps}; the same command goes on from there")
    # Copies: the caller may go on using the model, for example to write its snapshots.
    return whole_weights(averaged or mine, parameters, group)
