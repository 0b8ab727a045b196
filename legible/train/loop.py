"""The training loop: L_total = L_diffusion + λ · L_aux, resumable bit for bit.

Every random number comes from a generator seeded with (seed, step, sample of the step): a run that was killed and
resumed draws what an unbroken run draws, however its samples are split into forward passes. Arms share data order,
noise and σ per seed: they differ in the loss and in nothing else.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from legible.config import Training
from legible.errors import UserError
from legible.losses import flow
from legible.models.zimage import ZImage
from legible.progress import progress
from legible.train.checkpoint import load_checkpoint, save_checkpoint, shuffled_batches, stateless_generator
from legible.train.data import TrainingData
from legible.train.log import RunLog

# (decoded x̂0 [B, 3, H, W], owners [R], boxes [R, 4], texts) → loss per region [R]
AuxLoss = Callable[[Tensor, Tensor, Tensor, list[str]], Tensor]


@dataclass(frozen=True)
class Losses:
    """The losses of one micro-step; `aux` is None on steps without the auxiliary loss."""

    total: Tensor
    diffusion: float
    aux: float | None
    sigma: float


def micro_step(
    model: ZImage, data: TrainingData, picked: Tensor, training: Training, grid: Tensor, aux: AuxLoss | None,
    generators: list[torch.Generator],
) -> Losses:  # fmt: skip
    """Losses of one forward pass over the samples `picked` [B], each with its own generator; nothing is changed."""
    clean = data.latents[picked].to(model.device)
    noise = torch.stack([torch.randn(clean.shape[1:], generator=generator) for generator in generators])
    draw = training.sigma
    levels = [flow.draw_sigma(draw.distribution, draw.mean, draw.std, grid, 1, generator) for generator in generators]
    noise, sigma = noise.to(model.device), torch.cat(levels).to(model.device)
    noisy = flow.noised(clean, noise, sigma)
    captions = [data.caption(index).to(model.device, model.transformer.dtype) for index in picked.tolist()]
    velocity = model.predict(noisy, sigma, captions)
    diffusion = flow.flow_loss(velocity, clean, noise).mean()
    if aux is None:
        return Losses(diffusion, diffusion.item(), None, sigma.mean().item())
    low, high = training.aux.sigma_window
    inside = torch.nonzero((sigma >= low) & (sigma <= high)).flatten().cpu()
    owners, boxes, texts = data.regions(picked[inside])
    if not texts:
        return Losses(diffusion, diffusion.item(), None, sigma.mean().item())
    images = model.decode(model.predicted_clean(noisy, velocity, sigma)[inside.to(model.device)])
    extra = aux(images, owners.to(model.device), boxes.to(model.device), texts).sum() / len(picked)
    total = diffusion + training.aux.lambda_aux * extra
    return Losses(total, diffusion.item(), extra.item(), sigma.mean().item())


def train(
    model: ZImage,
    parameters: dict[str, torch.nn.Parameter],
    data: TrainingData,
    training: Training,
    grid: Tensor,
    aux: AuxLoss | None,
    seed: int,
    folder: Path,
    key: str,
    label: str,
) -> dict[str, Tensor]:
    """Train `parameters` (name → parameter of `model`) in place; return the weights to keep (averaged if EMA is on).

    Args:
        grid: the sampler's σ values.
        folder: where checkpoint and metrics live between attempts.
        key: identifies configuration, data, base model and code; a checkpoint of another key is refused.

    Raises:
        UserError: the loss or its gradient is not finite; the last good checkpoint stays in `folder`.
    """
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=training.learning_rate, betas=(0.9, 0.999), weight_decay=training.weight_decay
    )
    averaged = {name: parameter.detach().clone() for name, parameter in parameters.items()} if training.ema else {}
    batches = shuffled_batches(len(data.latents), training.batch_size, seed)
    log, first, spent = RunLog(folder / "metrics.jsonl"), 0, 0.0
    checkpoint = folder / "checkpoint.pt"
    if state := load_checkpoint(checkpoint, key):
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state["parameters"][name])
        averaged = {name: value.to(model.device) for name, value in state["averaged"].items()}
        optimizer.load_state_dict(state["optimizer"])
        first, spent = log.rewind(state["step"]), state["seconds"]
    else:
        log.rewind(0)
    began = time.monotonic()
    for step in progress(range(first, training.steps), label, start=first, total=training.steps, unit="step"):
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * min(1.0, (step + 1) / max(training.warmup, 1))
        # Counted in optimiser steps, so accumulation cannot move it; on such a step every micro-step takes part.
        wanted = aux if training.aux.lambda_aux > 0 and (step + 1) % training.aux.every == 0 else None
        rows = []
        for micro in range(training.accumulation):
            picked = batches(step * training.accumulation + micro)
            samples = range(micro * training.batch_size, (micro + 1) * training.batch_size)
            generators = [stateless_generator(seed, 2, step, sample) for sample in samples]
            losses = micro_step(model, data, picked, training, grid, wanted, generators)
            (losses.total / training.accumulation).backward()
            rows.append((losses.total.item(), losses.diffusion, losses.aux, losses.sigma))
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), training.max_grad_norm).item()
        total = sum(row[0] for row in rows) / len(rows)
        if not (math.isfinite(total) and math.isfinite(norm)):
            kept = "no checkpoint was written yet" if not checkpoint.exists() else f"the last good one is {checkpoint}"
            raise UserError(
                f"{label}: the loss is not finite at step {step} ({kept}); lower training.learning_rate or lambda"
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, value in averaged.items():
                value.lerp_(parameters[name], 1 - training.ema)
        auxiliary = [row[2] for row in rows if row[2] is not None]
        log.write(
            step=step,
            loss_total=total,
            loss_diffusion=sum(row[1] for row in rows) / len(rows),
            loss_aux=sum(auxiliary) / len(auxiliary) if auxiliary else None,
            sigma_mean=sum(row[3] for row in rows) / len(rows),
            grad_norm=norm,
            learning_rate=optimizer.param_groups[0]["lr"],
            seconds=round(spent + time.monotonic() - began, 3),
        )
        if (step + 1) % training.checkpoint_every == 0 or step + 1 == training.steps:
            state = {
                "parameters": {name: parameter.detach() for name, parameter in parameters.items()},
                "averaged": averaged,
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
                "seconds": spent + time.monotonic() - began,
            }
            save_checkpoint(checkpoint, key, state)
    return averaged or {name: parameter.detach() for name, parameter in parameters.items()}
