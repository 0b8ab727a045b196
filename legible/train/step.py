"""One forward pass of training: what it sees, what it costs, and which way each loss pulls."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from legible.config import Aux, Training
from legible.losses import flow
from legible.losses.auxiliary import AuxLoss, sample_weights
from legible.losses.view import View
from legible.models.zimage.model import ZImage
from legible.train.data import TrainingData

SIGMA_EDGES = (0.0, 0.3, 0.5, 0.7, 0.9, 1.0)  # of the bins in which losses are logged


@dataclass(frozen=True)
class Losses:
    """The losses of one micro-step; `aux` is None on steps without the auxiliary loss, or where no sample has it."""

    diffusion: Tensor | float  # mean over samples, with gradient
    aux: Tensor | float | None  # weighted sum over samples / B, with gradient
    sigma: Tensor  # [B]
    per_sample: Tensor  # [B], diffusion
    weighted: Tensor  # [B], auxiliary; NaN where it does not count

    def detached(self) -> "Losses":
        """The same without gradients."""
        return replace(self, diffusion=self.diffusion.detach(), aux=None if self.aux is None else self.aux.detach())

    def read(self) -> "Losses":
        """The same as plain numbers and tensors on the CPU. This waits for the GPU: once a step, not once a pass."""
        aux = None if self.aux is None else self.aux.item()
        return Losses(self.diffusion.item(), aux, self.sigma.cpu(), self.per_sample.cpu(), self.weighted.cpu())


def look(
    model: ZImage, data: TrainingData, picked: Tensor, goals: Tensor | None, aux: Aux, noise: Tensor, sigma: Tensor
) -> tuple[Tensor, Callable[[Tensor], View]]:
    """One forward pass over the samples `picked` [B]: (diffusion loss [B], rows → what auxiliary losses see of them).

    Args:
        goals: [B], the samples whose text is to be drawn; None = their own.
        noise: [B, C, h, w]; sigma: [B].
    """
    clean = data.latents[picked].to(model.device)
    noise, sigma = noise.to(model.device), sigma.to(model.device)
    noisy = flow.noised(clean, noise, sigma)
    captions = [data.caption(index).to(model.device, model.transformer.dtype) for index in picked.tolist()]
    velocity = model.predict(noisy, sigma, captions)

    def view(rows: Tensor) -> View:
        wanted = (picked if goals is None else goals)[rows]
        samples, boxes, texts = data.regions(picked[rows], None if goals is None else goals[rows])
        here = rows.to(model.device)
        return View(
            velocity=velocity[here],
            target=flow.velocity(clean, noise)[here],
            predicted=model.predicted_clean(noisy, velocity, sigma)[here],
            clean=data.latents[wanted].to(model.device),
            samples=samples.to(model.device),
            regions=boxes.to(model.device),
            texts=texts,
            masks=data.masks[wanted].to(model.device).float() / 255,
            characters=data.characters[wanted].to(model.device).long(),
            decode=model.decode,
            factor=model.pixels_per_latent,
            crop=aux.region == "crop",
            soft_range=aux.soft_range,
            margin=aux.margin,
        )

    return flow.flow_loss(velocity, clean, noise), view


def micro_step(
    model: ZImage, data: TrainingData, picked: Tensor, goals: Tensor | None, training: Training, grid: Tensor,
    aux: AuxLoss | None, generators: list[torch.Generator],
) -> Losses:  # fmt: skip
    """Losses of one forward pass over the samples `picked` [B], each with its own generator; nothing is changed."""
    settings, draw, shape = training.aux, training.sigma, data.latents.shape[1:]
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    levels = [flow.draw_sigma(draw.distribution, draw.mean, draw.std, grid, 1, generator) for generator in generators]
    sigma = torch.cat(levels)
    if aux is not None and settings.sigma_sampling == "window":
        low, high = settings.sigma_window
        even = torch.cat([torch.rand(1, generator=generator) for generator in generators])
        sigma = (low + (high - low) * even).clamp(min=1e-6)
    diffusion, view = look(model, data, picked, goals, settings, noise, sigma)
    weighted, total = torch.full((len(picked),), float("nan"), device=model.device), None
    if aux is not None:
        weights = sample_weights(settings, sigma)
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


def apart(loss: Tensor, parameters: list[torch.nn.Parameter], sums: list[Tensor | None]) -> list[Tensor | None]:
    """`sums` plus the gradient of `loss`, parameter by parameter, leaving `.grad` alone and the graph intact."""
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [s if g is None else g if s is None else s + g for s, g in zip(sums, gradients, strict=True)]


def norms_and_cosine(parameters: list[torch.nn.Parameter], extra: list[Tensor | None]) -> tuple[float, float, float]:
    """‖∇L_diffusion‖ (in `.grad`), ‖∇L_aux‖ (`extra`) and the cosine between them (0 where one vanishes)."""
    own = [parameter.grad for parameter in parameters]
    one = math.sqrt(sum(g.double().square().sum().item() for g in own if g is not None))
    two = math.sqrt(sum(g.double().square().sum().item() for g in extra if g is not None))
    pairs = [(g, e) for g, e in zip(own, extra, strict=True) if g is not None and e is not None]
    product = sum((g.double() * e.double()).sum().item() for g, e in pairs)
    return one, two, product / (one * two) if one and two else 0.0
