"""The velocity anchor: where it is held, the fine-tuned model shall go on doing what the base model does.

`recorded`: the base model's sampling trajectories on prompts without text are recorded once; training then compares
predictions at their points, which are the very points at which a few-step sampler calls the network. No second copy of
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
from torch import Tensor, nn

from legible.config import AnchorTerm, SigmaSampling, Training
from legible.errors import UserError
from legible.models.conditioning import Conditioning, unpacked
from legible.models.family import Family
from legible.seeds import Stream, stateless_generator
from legible.tensors import load_tensors, save_tensors
from legible.train.data import TrainingData

TENSORS = ("latents", "predictions", "levels")


@dataclass(frozen=True)
class Points:
    """B points at which the model is held, on its device."""

    latents: Tensor  # [B, C, h, w], noisy
    levels: Tensor  # [B]
    conditioning: Conditioning  # B captions
    predictions: Tensor  # [B, C, h, w], the base's, without gradient


@dataclass(frozen=True)
class Trajectories:
    """N sampling trajectories of the base model, S points each."""

    latents: Tensor  # [S, N, C, h, w]
    predictions: Tensor  # [S, N, C, h, w], of the base
    levels: Tensor  # [S]
    conditioning: Conditioning  # N captions

    def points(self, model: Family, count: int, generator: torch.Generator) -> Points:
        """`count` of the recorded points, drawn at random."""
        places = torch.randint(len(self.levels), (count,), generator=generator)
        rows = torch.randint(self.latents.shape[1], (count,), generator=generator)
        return Points(
            self.latents[places, rows].to(model.device),
            self.levels[places].to(model.device),
            self.conditioning.pick(rows.tolist()).to(model.device),
            self.predictions[places, rows].to(model.device),
        )


@dataclass(frozen=True)
class AdapterOff:
    """The model under the adapters, asked at points of the training distribution."""

    data: TrainingData
    draw: SigmaSampling
    grid: Tensor  # [S], the sampler's levels

    def points(self, model: Family, count: int, generator: torch.Generator) -> Points:
        """`count` training samples, drawn at random, with new noise and levels as training draws them."""
        rows = torch.randint(len(self.data.latents), (count,), generator=generator)
        levels = model.process.draw(self.draw, self.grid, count, generator)
        noise = torch.randn((count, *self.data.latents.shape[1:]), generator=generator)
        latents = model.process.noised(self.data.latents[rows], noise, levels).to(model.device)
        levels, conditioning = levels.to(model.device), self.data.conditioning.pick(rows.tolist()).to(model.device)
        with torch.no_grad(), adapters_off(model.module("denoiser")):
            predictions = model.predict(latents, levels, conditioning)
        return Points(latents, levels, conditioning, predictions)


Reference = Trajectories | AdapterOff


@contextmanager
def adapters_off(denoiser: nn.Module) -> Iterator[None]:
    """The denoiser without its adapters; what was merged into its weights stays."""
    denoiser.disable_adapters()
    try:
        yield
    finally:
        denoiser.enable_adapters()


def open_reference(training: Training, recording: Path | None, data: TrainingData, grid: Tensor) -> Reference | None:
    """What the anchor of `training` compares with; None where it is off.

    Args:
        recording: the base's trajectories, where they are what is compared with.
        grid: the sampler's levels [S].

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


def anchor_loss(model: Family, reference: Reference, settings: AnchorTerm, seed: int, step: int) -> Tensor:
    """Mean squared difference of the model's prediction to the base's at `batch_size` random points, a scalar ≥ 0."""
    points = reference.points(model, settings.batch_size, stateless_generator(seed, Stream.ANCHOR_POINTS, step))
    prediction = model.predict(points.latents, points.levels, points.conditioning)
    return (prediction - points.predictions).square().mean()


def save_trajectories(path: Path, paths: Trajectories) -> None:
    """Write them as one safetensors file, atomically."""
    tensors = {name: getattr(paths, name) for name in TENSORS}
    save_tensors(path, tensors | paths.conditioning.packed("conditioning"))


def load_trajectories(path: Path) -> Trajectories:
    """Read what `save_trajectories` wrote.

    Raises:
        UserError: the file is missing or damaged, if only by one bit.
    """
    tensors, _ = load_tensors(path, "the recording of the base's trajectories")
    try:
        own = {name: tensors[name] for name in TENSORS}
        return Trajectories(**own, conditioning=unpacked(tensors, "conditioning"))
    except KeyError as error:
        raise UserError(f"{path}: no readable trajectories of the base ({error}); delete it and run again") from error
