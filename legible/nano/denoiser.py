"""Nano's denoiser, with its text encoder or on top of it, trained on the pool's latents; any family."""

import copy
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from legible.config import SigmaSampling
from legible.models.family import Family
from legible.nano.pointing import letter_places, pointer
from legible.nano.pool import Pool
from legible.nano.recipe import DenoiserRecipe
from legible.progress import progress
from legible.seeds import stateless_generator
from legible.train.checkpoint import load_parts, save_parts
from legible.train.log import RunLog


def builder(family: str) -> ModuleType:
    """The module with the family's `SIZES`, `TINY`, `build` and `save`."""
    return import_module(f"legible.models.{family}.nano")


def names_of(model: Family, text: bool = True) -> list[str]:
    """The folders of the denoiser and, with `text`, of the text encoders."""
    return [model.spec.folder(part) for part in ("denoiser", *(model.spec.text_encoders if text else ()))]


def parts_of(model: Family, text: bool = True) -> nn.ModuleList:
    """The denoiser and, with `text`, the text encoders."""
    return nn.ModuleList([getattr(model, name) for name in names_of(model, text)])


def learning_rate(recipe: DenoiserRecipe, step: int) -> float:
    """Linear warm-up, then constant until the last `decay` steps of a cycle; each of `restarts` begins a new cycle."""
    end = next(end for end in (*recipe.restarts, recipe.steps) if step < end)
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup) * min(1.0, (end - step) / recipe.decay)


def train_denoiser(
    recipe: DenoiserRecipe,
    model: Family,
    pool: Pool,
    latents: torch.Tensor,
    seed: int,
    key: str,
    work: Path,
    measure_cer: Callable[[Family], float],
    cer_every: int = 600,
    compiled: bool = False,
    name: str = "denoiser",
) -> Family:
    """Train an untrained model on `latents` [N, C, h, w] (scaled); return it with averaged weights.

    Args:
        measure_cer: reads sampled held-out signs and returns their CER; it only draws the learning curve.
        name: of the checkpoint and the curve in `work`, from which it resumes.
    """
    # Convolutions over a pool's small latents take a quarter less time with channels last.
    networks = parts_of(model, recipe.text).to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(networks).requires_grad_(False).eval()
    smooth = replace(model, **dict(zip(names_of(model, recipe.text), averaged, strict=True)))
    if compiled:
        model.compile_blocks()
    optimizer = torch.optim.AdamW(networks.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
    short = torch.tensor([i for i, text in enumerate(pool.texts) if 0 < len(text) <= recipe.short_length])
    everything = torch.arange(len(pool.texts))
    drawn = SigmaSampling(distribution="logit_normal", mean=recipe.sigma_mean, std=recipe.sigma_std)
    grid = model.level_grid(recipe.sampling_steps, tuple(latents.shape[1:]))
    parts = {"models": networks, "averaged": averaged, "optimizer": optimizer}
    pointed = None
    if recipe.pointing_weight:
        places = letter_places(model.tokenizer, pool.captions, pool.texts, pool.boxes.shape[1])
        pointed = pointer(networks[0], recipe.pointing_heads, places, pool.boxes, tuple(pool.images.shape[-2:]))
    log = RunLog(work / f"{name}.jsonl")
    first = log.rewind(load_parts(work / f"{name}.ckpt", key, parts))
    for step in progress(range(first, recipe.steps), name, start=first, total=recipe.steps):
        rate = learning_rate(recipe, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        generator = stateless_generator(seed, 3, step)
        candidates = short if step < recipe.short_until else everything
        picked = candidates[torch.randint(len(candidates), (recipe.batch,), generator=generator)]
        clean = latents[picked]
        noise = torch.randn(clean.shape, generator=generator)
        levels = model.process.draw(drawn, grid, recipe.batch, generator)
        kept = torch.rand(recipe.batch, generator=generator) >= recipe.prompt_dropout
        rows = zip(picked.tolist(), kept.tolist(), strict=True)
        captions = [pool.captions[row] if keep else "" for row, keep in rows]
        conditioning = model.encode_prompts(captions, gradient=recipe.text)
        prediction = model.predict(model.process.noised(clean, noise, levels), levels, conditioning)
        loss = (prediction - model.process.target(clean, noise, levels)).square().mean()
        pointing = pointed and pointed(picked, kept, clean.shape[-2:])
        (loss if pointing is None else loss + recipe.pointing_weight * pointing).backward()
        norm = torch.nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        decay = min(recipe.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for target, source in zip(averaged.parameters(), networks.parameters(), strict=True):
                target.lerp_(source, 1 - decay)
        further = {} if pointing is None else {"pointing": pointing.item()}
        log.write(step=step, loss=loss.item(), grad_norm=norm.item(), learning_rate=rate, **further)
        if (step + 1) % cer_every == 0:  # before the checkpoint: a kill between the two repeats it, never drops it
            log.write(step=step, cer=measure_cer(smooth))
        if (step + 1) % 200 == 0 or step + 1 == recipe.steps:
            save_parts(work / f"{name}.ckpt", key, step + 1, parts)
    averaged.to(memory_format=torch.contiguous_format)  # as files are
    return smooth
