"""The velocity anchor: on prompts without text the fine-tuned model shall go on doing what the base model does.

The base model's sampling trajectories are recorded once; training then compares velocities at their points, which are
the very points at which a few-step sampler calls the network. No second copy of the base is needed while training.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from legible.config import Keep
from legible.errors import UserError
from legible.io import atomic_path
from legible.models.zimage import ZImage
from legible.train.checkpoint import stateless_generator

TENSORS = ("latents", "velocities", "sigma", "captions", "offsets")


@dataclass(frozen=True)
class Trajectories:
    """N sampling trajectories of the base model, S points each."""

    latents: Tensor  # [S, N, C, h, w]
    velocities: Tensor  # [S, N, C, h, w], of the base
    sigma: Tensor  # [S]
    captions: Tensor  # [ΣT, D], the embeddings of the N captions one after the other
    offsets: Tensor  # [N + 1], where each caption begins


def anchor_loss(model: ZImage, paths: Trajectories, settings: Keep, seed: int, step: int) -> Tensor:
    """Mean squared difference of the model's velocity to the base's at `batch_size` random points, a scalar ≥ 0."""
    generator = stateless_generator(seed, 6, step)
    places = torch.randint(len(paths.sigma), (settings.batch_size,), generator=generator)
    rows = torch.randint(paths.latents.shape[1], (settings.batch_size,), generator=generator)
    captions = [
        paths.captions[paths.offsets[row] : paths.offsets[row + 1]].to(model.device, model.transformer.dtype)
        for row in rows.tolist()
    ]
    velocity = model.predict(
        paths.latents[places, rows].to(model.device), paths.sigma[places].to(model.device), captions
    )
    return (velocity - paths.velocities[places, rows].to(model.device)).square().mean()


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
