"""One forward pass of training: what it sees, what it costs, and which way each loss pulls."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from legible.config import Aux, Training
from legible.losses.auxiliary import sample_weights
from legible.losses.view import AuxLoss, View
from legible.models.conditioning import Conditioning
from legible.models.family import Family
from legible.seeds import Stream, stateless_generator
from legible.train.combine import product
from legible.train.data import TrainingData

SIGMA_EDGES = (0.0, 0.3, 0.5, 0.7, 0.9, 1.0)  # of the bins (shares of noise) in which losses are logged


@dataclass(frozen=True)
class Batch:
    """The samples of one forward pass, as the methods see them that train by the values of rewards."""

    step: int  # in which their pictures are drawn
    update: int  # optimiser steps since then
    positions: range  # of the samples in the step
    picked: Tensor  # [B], their numbers
    goals: Tensor | None  # [B], the samples whose captions the rewards judge by (the placebo's); None = their own


@dataclass(frozen=True)
class Losses:
    """The losses of one micro-step; `aux` is None on steps without the auxiliary loss, or where no sample has it."""

    diffusion: Tensor | float  # mean over samples, with gradient; with rewards −Σ γ·R in its place
    aux: Tensor | float | None  # weighted sum over samples / B, with gradient
    sigma: Tensor  # [B], shares of noise 0 … 1
    per_sample: Tensor  # [B], diffusion
    weighted: Tensor  # [B], auxiliary; NaN where it does not count
    rewards: dict[str, float] | None = None  # mean of each reward over samples, where these train
    measured: dict[str, float | None] | None = None  # what else such a method logs

    def detached(self) -> "Losses":
        """The same without gradients."""
        return replace(self, diffusion=self.diffusion.detach(), aux=None if self.aux is None else self.aux.detach())

    def read(self) -> "Losses":
        """The same as plain numbers and tensors on the CPU. This waits for the GPU: once a step, not once a pass."""
        aux = None if self.aux is None else self.aux.item()
        rest = (self.sigma.cpu(), self.per_sample.cpu(), self.weighted.cpu(), self.rewards, self.measured)
        return Losses(self.diffusion.item(), aux, *rest)


def dropped_prompts(training: Training, seed: int, step: int, positions: range) -> list[bool]:
    """Which samples of a step see the empty prompt (training.prompt_dropout), by their positions in it."""
    if training.prompt_dropout == 0:
        return [False] * len(positions)
    streams = (stateless_generator(seed, Stream.PROMPT_DROPOUT, step, position) for position in positions)
    return [torch.rand((), generator=stream).item() < training.prompt_dropout for stream in streams]


def condition(
    model: Family, data: TrainingData, picked: Tensor, training: Training, dropped: list[bool]
) -> Conditioning:
    """What the captions of the samples `picked` [B] say: from the cache, or by the text encoder that is trained.

    Args:
        dropped: B flags: this sample sees the empty prompt.
    """
    rows = picked.tolist()
    if training.text_trained:
        captions = ["" if drop else data.captions[row] for row, drop in zip(rows, dropped, strict=True)]
        return model.encode_prompts(captions, gradient=True)
    found = data.conditioning.pick(rows)
    return found.replaced(dropped, data.empty) if any(dropped) else found


def forward_pass(
    model: Family, data: TrainingData, picked: Tensor, goals: Tensor | None, aux: Aux, noise: Tensor, levels: Tensor,
    conditioning: Conditioning,
) -> tuple[Tensor, Callable[[Tensor], View]]:  # fmt: skip
    """One forward pass over the samples `picked` [B]: (diffusion loss [B], rows → what auxiliary losses see of them).

    Args:
        goals: [B], the samples whose text is to be drawn; None = their own.
        noise: [B, C, h, w]; levels: [B]; conditioning: of B captions.
    """
    clean = data.latents[picked].to(model.device)
    noise, levels = noise.to(model.device), levels.to(model.device)
    noisy = model.process.noised(clean, noise, levels)
    prediction = model.predict(noisy, levels, conditioning)
    target = model.process.target(clean, noise, levels)

    def view(rows: Tensor) -> View:
        wanted = (picked if goals is None else goals)[rows]
        samples, boxes, texts = data.regions(picked[rows], None if goals is None else goals[rows])
        here = rows.to(model.device)
        return View(
            prediction=prediction[here],
            target=target[here],
            predicted=model.process.predicted_clean(noisy, prediction, levels)[here],
            clean=data.latents[wanted].to(model.device),
            samples=samples.to(model.device),
            regions=boxes.to(model.device),
            rows=data.region_rows(picked[rows]),
            texts=texts,
            masks=data.masks[wanted].to(model.device).float() / 255,
            characters=data.characters[wanted].to(model.device).long(),
            decode=model.decode,
            factor=model.pixels_per_latent,
            crop=aux.region == "crop",
            soft_range=aux.soft_range,
            margin=aux.margin,
        )

    return (prediction.float() - target.float()).square().flatten(1).mean(1), view


def micro_step(
    model: Family, data: TrainingData, picked: Tensor, goals: Tensor | None, training: Training, grid: Tensor,
    aux: AuxLoss | None, generators: list[torch.Generator], dropped: list[bool],
) -> Losses:  # fmt: skip
    """Losses of one forward pass over the samples `picked` [B], each with its own generator; nothing is changed.

    Args:
        grid: the sampler's levels [S].
        dropped: B flags: this sample sees the empty prompt.
    """
    settings, shape = training.aux, data.latents.shape[1:]
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    levels = torch.cat([model.process.draw(training.sigma, grid, 1, generator) for generator in generators])
    if aux is not None and settings.sigma_sampling == "window":
        low, high = settings.sigma_window
        even = torch.cat([torch.rand(1, generator=generator) for generator in generators])
        levels = model.process.levels(low + (high - low) * even)
    conditioning = condition(model, data, picked, training, dropped)
    diffusion, view = forward_pass(model, data, picked, goals, settings, noise, levels, conditioning)
    sigma = model.process.sigma(levels)
    weighted, total = torch.full((len(picked),), float("nan"), device=model.device), None
    if aux is not None:
        weights = sample_weights(settings, sigma)
        if settings.targets == "permuted":  # a sample whose letters have no other order has no region
            weights = weights * torch.isin(picked, data.owners)
        rows = torch.nonzero(weights > 0).flatten()
        if len(rows):
            losses = weights[rows].to(model.device) * aux(view(rows))
            weighted[rows.to(model.device)], total = losses.detach().float(), losses.sum() / len(picked)
    return Losses(diffusion.mean(), total, sigma, diffusion.detach(), weighted)


def by_sigma(sigma: Tensor, losses: Tensor) -> list[float | None]:
    """Mean loss in each bin of SIGMA_EDGES; NaN entries do not count, an empty bin is None."""
    bins = torch.bucketize(sigma, torch.tensor(SIGMA_EDGES[1:-1]))
    found = [losses[(bins == i) & ~losses.isnan()] for i in range(len(SIGMA_EDGES) - 1)]
    return [round(part.mean().item(), 6) if len(part) else None for part in found]


def add_gradient(loss: Tensor, parameters: list[torch.nn.Parameter], sums: list[Tensor | None]) -> list[Tensor | None]:
    """`sums` plus the gradient of `loss`, parameter by parameter, leaving `.grad` alone and the graph intact."""
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [s if g is None else g if s is None else s + g for s, g in zip(sums, gradients, strict=True)]


def norms_and_cosine(parameters: list[torch.nn.Parameter], extra: list[Tensor | None]) -> tuple[float, float, float]:
    """‖∇L_diffusion‖ (in `.grad`), ‖∇L_aux‖ (`extra`) and the cosine between them (0 where one vanishes)."""
    own = [parameter.grad for parameter in parameters]
    one, two = math.sqrt(product(own, own)), math.sqrt(product(extra, extra))
    return one, two, product(own, extra) / (one * two) if one and two else 0.0
