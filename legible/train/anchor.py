"""The velocity anchor: where it is held, the fine-tuned model shall go on doing what the base model does.

`recorded`: the base model's sampling trajectories on prompts without text are recorded once; training then compares
velocities at their points, which are the very points at which a few-step sampler calls the network. No second copy of
the base is needed while training.

`adapter_off`: with LoRA the base is still there, under the adapters. Without a recording the points are training's own
(its samples with their captions, its noise levels, noise of their own), and the base answers at them with the adapters
off: what the model is taught is weighed against moving away from the base just there, as a KL term does elsewhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import ZImageTransformer2DModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from legible.config import Keep, SigmaSampling, Training
from legible.errors import UserError
from legible.io import atomic_path
from legible.losses import flow
from legible.models.zimage.model import ZImage
from legible.train.checkpoint import stateless_generator
from legible.train.data import TrainingData

TENSORS = ("latents", "velocities", "sigma", "captions", "offsets")


@dataclass(frozen=True)
class Points:
    """B points at which the model is held, on its device: noisy latents, σ, captions and the base's velocities."""

    latents: Tensor  # [B, C, h, w]
    sigma: Tensor  # [B]
    captions: list[Tensor]  # B × [T, D]
    velocities: Tensor  # [B, C, h, w], of the base, without gradient


@dataclass(frozen=True)
class Trajectories:
    """N sampling trajectories of the base model, S points each."""

    latents: Tensor  # [S, N, C, h, w]
    velocities: Tensor  # [S, N, C, h, w], of the base
    sigma: Tensor  # [S]
    captions: Tensor  # [ΣT, D], the embeddings of the N captions one after the other
    offsets: Tensor  # [N + 1], where each caption begins

    def points(self, model: ZImage, count: int, generator: torch.Generator) -> Points:
        """`count` of the recorded points, drawn at random."""
        places = torch.randint(len(self.sigma), (count,), generator=generator)
        rows = torch.randint(self.latents.shape[1], (count,), generator=generator)
        captions = [
            self.captions[self.offsets[row] : self.offsets[row + 1]].to(model.device, model.transformer.dtype)
            for row in rows.tolist()
        ]
        latents, sigma = self.latents[places, rows].to(model.device), self.sigma[places].to(model.device)
        return Points(latents, sigma, captions, self.velocities[places, rows].to(model.device))


@dataclass(frozen=True)
class AdapterOff:
    """The model under the adapters, asked at points of the training distribution."""

    data: TrainingData
    draw: SigmaSampling
    grid: Tensor  # [S], the sampler's σ values

    def points(self, model: ZImage, count: int, generator: torch.Generator) -> Points:
        """`count` training samples, drawn at random, with new noise and σ as training draws it."""
        rows = torch.randint(len(self.data.latents), (count,), generator=generator)
        sigma = flow.draw_sigma(self.draw.distribution, self.draw.mean, self.draw.std, self.grid, count, generator)
        noise = torch.randn((count, *self.data.latents.shape[1:]), generator=generator)
        latents = flow.noised(self.data.latents[rows], noise, sigma).to(model.device)
        sigma = sigma.to(model.device)
        captions = [self.data.caption(row).to(model.device, model.transformer.dtype) for row in rows.tolist()]
        with torch.no_grad(), adapters_off(model.transformer):
            velocities = model.predict(latents, sigma, captions)
        return Points(latents, sigma, captions, velocities)


@contextmanager
def adapters_off(transformer: ZImageTransformer2DModel) -> Iterator[None]:
    """The transformer without its adapters; what was merged into its weights stays."""
    transformer.disable_adapters()
    try:
        yield
    finally:
        transformer.enable_adapters()


def open_reference(
    training: Training, recording: Path | None, data: TrainingData, grid: Tensor
) -> Trajectories | AdapterOff | None:
    """What the anchor of `training` compares with; None where it is off.

    Args:
        recording: the base's trajectories, where they are what is compared with.
        grid: the sampler's σ values [S].

    Raises:
        UserError: the recording is needed, and missing or damaged.
    """
    if training.anchor.weight == 0:
        return None
    if training.anchor.reference == "adapter_off":
        return AdapterOff(data, training.sigma, grid)
    if recording is None:
        raise UserError("training.anchor.weight: the velocity anchor needs --anchor, the base's trajectories")
    return load_trajectories(recording)


def anchor_loss(model: ZImage, reference: Trajectories | AdapterOff, settings: Keep, seed: int, step: int) -> Tensor:
    """Mean squared difference of the model's velocity to the base's at `batch_size` random points, a scalar ≥ 0."""
    points = reference.points(model, settings.batch_size, stateless_generator(seed, 6, step))
    velocity = model.predict(points.latents, points.sigma, points.captions)
    return (velocity - points.velocities).square().mean()


def save_trajectories(path: Path, paths: Trajectories) -> None:
    """Write them as one safetensors file, atomically."""
    with atomic_path(path) as temporary:
        save_file({name: getattr(paths, name).cpu().contiguous() for name in TENSORS}, temporary)


def load_trajectories(path: Path) -> Trajectories:
    """Read what `save_trajectories` wrote.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as stored:
            return Trajectories(**{name: stored.get_tensor(name) for name in TENSORS})
    except (SafetensorError, FileNotFoundError) as error:
        raise UserError(f"{path}: no readable trajectories of the base ({error}); delete it and run again") from error
