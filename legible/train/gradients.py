"""How far does each loss reach, at which noise level? Gradients of the base model at the sampler's own levels."""

import torch

from legible.config import Training
from legible.losses.view import AuxLoss
from legible.models.family import Family
from legible.progress import progress
from legible.seeds import Stream, stateless_generator
from legible.train.data import TrainingData
from legible.train.step import add_gradient, forward_pass, norms_and_cosine


def measure_gradients(
    model: Family,
    parameters: list[torch.nn.Parameter],
    data: TrainingData,
    training: Training,
    name: str,
    aux: AuxLoss,
    grid: torch.Tensor,
    count: int,
) -> list[dict]:
    """Norms of ∇L_diffusion and ∇L_aux on `parameters` and their cosine, one row a level of `grid`.

    Args:
        training: with the settings of the loss in `aux`.
        name: of the loss, for the rows.
        count: samples, always the same ones, each with the same noise at every level.
    """
    picked = torch.randperm(len(data.latents), generator=stateless_generator(0, Stream.GRADIENT_SAMPLES))[:count]
    rows = []
    for level in progress(grid.tolist(), name, unit="level"):
        own, extra, value = [None] * len(parameters), [None] * len(parameters), 0.0
        for part in picked.split(training.batch_size):
            streams = [stateless_generator(0, Stream.GRADIENT_NOISE, int(sample)) for sample in part]
            noise = torch.stack([torch.randn(data.latents.shape[1:], generator=stream) for stream in streams])
            levels, conditioning = torch.full((len(part),), level), data.conditioning.pick(part.tolist())
            diffusion, view = forward_pass(model, data, part, None, training.aux, noise, levels, conditioning)
            loss = aux(view(torch.arange(len(part)))).sum() / len(picked)
            own = add_gradient(diffusion.sum() / len(picked), parameters, own)
            extra = add_gradient(loss, parameters, extra)
            value += loss.item()
        for parameter, gradient in zip(parameters, own, strict=True):
            parameter.grad = gradient
        one, two, cosine = norms_and_cosine(parameters, extra)
        sigma = model.process.sigma(torch.tensor([level])).item()
        rows.append({"loss": name, "sigma": sigma, "grad_norm_diffusion": one, "grad_norm_aux": two})
        rows[-1] |= {"cosine": cosine, "loss_aux": value, "samples": len(picked)}
    return rows
