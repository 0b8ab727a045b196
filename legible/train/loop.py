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
from legible.models.zimage import ZImage
from legible.progress import progress
from legible.train.anchor import AdapterOff, Trajectories, anchor_loss
from legible.train.balance import Balance
from legible.train.checkpoint import load_checkpoint, save_checkpoint, shuffled_batches, stateless_generator
from legible.train.data import TrainingData, other_samples
from legible.train.log import RunLog
from legible.train.optimizer import build_optimizer, take_step
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
) -> dict[str, Tensor]:
    """Train `parameters` (name → parameter of `model`) in place; return the weights to keep (averaged if EMA is on).

    Args:
        grid: the sampler's σ values.
        paths: what the velocity anchor compares with, if it is on.
        folder: where checkpoint and metrics live between attempts.
        key: identifies configuration, data, base model and code; a checkpoint of another key is refused.
        stopping: asked after every step whether to write a checkpoint and stop.

    Raises:
        UserError: the loss or its gradient is not finite; the last good checkpoint stays in `folder`.
        Stopped: `stopping` said so; what was done is in the checkpoint.
    """
    trained = list(parameters.values())
    optimizer = build_optimizer(trained, training)
    averaged = (
        {name: parameter.detach().float().clone() for name, parameter in parameters.items()} if training.ema else {}
    )
    batches = shuffled_batches(len(data.latents), training.batch_size, seed)
    others = other_samples(len(data.latents), seed) if training.aux.targets == "shuffled" else None
    balance = Balance(training.aux, training.steps)
    log, first, spent = RunLog(folder / "metrics.jsonl"), 0, 0.0
    checkpoint = folder / "checkpoint.pt"
    if state := load_checkpoint(checkpoint, key):
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state["parameters"][name])
        averaged = {name: value.to(model.device) for name, value in state["averaged"].items()}
        optimizer.load_state_dict(state["optimizer"])
        balance.state = state["balance"]
        first, spent = log.rewind(state["step"]), state["seconds"]
    else:
        log.rewind(0)
    began = time.monotonic()
    for step in progress(range(first, training.steps), label, start=first, total=training.steps, unit="step"):
        learning_rate = training.learning_rate * min(1.0, (step + 1) / max(training.warmup, 1))
        # Counted in optimiser steps, so accumulation cannot move it; on such a step every micro-step takes part.
        wanted = aux if training.aux.lambda_aux > 0 and (step + 1) % training.aux.every == 0 else None
        measured = wanted is not None and balance.measures(step)
        rows, extra = [], [None] * len(trained)
        for micro in range(training.accumulation):
            picked = batches(step * training.accumulation + micro)
            goals = None if others is None else others[picked]
            samples = range(micro * training.batch_size, (micro + 1) * training.batch_size)
            generators = [stateless_generator(seed, 2, step, sample) for sample in samples]
            losses = micro_step(model, data, picked, goals, training, grid, wanted, generators)
            total = losses.diffusion
            if losses.aux is not None and measured:
                extra = apart(losses.aux / training.accumulation, trained, extra)
            elif losses.aux is not None:
                total = total + balance.at(step) * losses.aux
            (total / training.accumulation).backward()
            rows.append(losses)
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
        norm = torch.nn.utils.clip_grad_norm_(trained, training.max_grad_norm).item()
        diffusion = sum(row.diffusion.item() for row in rows) / len(rows)
        auxiliary = [row.aux.item() for row in rows if row.aux is not None]
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
                value.lerp_(parameters[name].float(), 1 - training.ema)
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
            kept = averaged or {name: parameter.detach() for name, parameter in parameters.items()}
            with atomic_path(folder / f"snapshot-{step + 1}.safetensors") as temporary:
                save_file({name: value.contiguous() for name, value in kept.items()}, temporary)
        stop = stopping() and step + 1 < training.steps
        if stop or (step + 1) % training.checkpoint_every == 0 or step + 1 == training.steps:
            state = {
                "parameters": {name: parameter.detach() for name, parameter in parameters.items()},
                "averaged": averaged,
                "optimizer": optimizer.state_dict(),
                "balance": balance.state,
                "step": step + 1,
                "seconds": spent + time.monotonic() - began,
            }
            save_checkpoint(checkpoint, key, state)
        if stop:
            raise Stopped(f"{label}: after step {step + 1} of {training.steps}; the same command goes on from there")
    # Copies: the caller may go on using the model, for example to write its snapshots.
    return averaged or {name: parameter.detach().clone() for name, parameter in parameters.items()}
