"""What training reads: latents and caption embeddings computed once, and the text regions of every sample."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from legible.errors import UserError
from legible.io import atomic_path


@dataclass(frozen=True)
class TrainingData:
    """N samples; a region is one line of text with its ink box."""

    key: str  # hash of everything that the cache was computed from
    latents: Tensor  # [N, C, h, w], scaled
    captions: Tensor  # [ΣS, D], the embeddings of all captions one after the other
    offsets: Tensor  # [N + 1], where each caption begins
    boxes: Tensor  # [R, 4], x0 y0 x1 y1 in pixels
    owners: Tensor  # [R], the sample of each region
    texts: tuple[str, ...]  # R target strings

    def caption(self, index: int) -> Tensor:
        """Caption embedding [S, D] of one sample."""
        return self.captions[self.offsets[index] : self.offsets[index + 1]]

    def regions(self, picked: Tensor) -> tuple[Tensor, Tensor, list[str]]:
        """(position in `picked` [R], boxes [R, 4], texts) of the regions of the picked samples."""
        rows, positions = [], []
        for position, sample in enumerate(picked.tolist()):
            found = torch.nonzero(self.owners == sample).flatten().tolist()
            rows += found
            positions += [position] * len(found)
        return torch.tensor(positions, dtype=torch.long), self.boxes[rows], [self.texts[row] for row in rows]


def save_training_data(path: Path, data: TrainingData) -> None:
    """Write the cache as one safetensors file, atomically."""
    tensors = {name: getattr(data, name).contiguous() for name in ("latents", "captions", "offsets", "boxes", "owners")}
    with atomic_path(path) as temporary:
        # One entry only: safetensors writes several in an order that changes from one process to the next.
        about = json.dumps({"key": data.key, "texts": data.texts}, ensure_ascii=False)
        save_file(tensors, temporary, metadata={"legible": about})


def load_training_data(path: Path) -> TrainingData:
    """Read a cache.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a dict)
            about = json.loads(stored.metadata()["legible"])
        return TrainingData(key=about["key"], texts=tuple(about["texts"]), **tensors)
    except (SafetensorError, FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the cache is missing or damaged ({error}); delete it to compute it again") from error
