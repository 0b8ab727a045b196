"""The aesthetic predictor v2, opened from its published file.

Source: christophschuhmann/improved-aesthetic-predictor, simple_inference.py (the layers' names and sizes).
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPModel

from legible.config import Aesthetic
from legible.errors import UserError
from legible.integrity import check_sums
from legible.models.opening import first_line
from legible.models.weights import read_weights

SIZES = (1024, 128, 64, 16, 1)  # of the layers, which have no activations between them
PLACES = (0, 2, 4, 6, 7)  # in its file: dropouts, which have no weights, stand between


@dataclass(frozen=True)
class OpenedAesthetic:
    """A frozen CLIP and the layers on its features."""

    clip: CLIPModel
    head: nn.Sequential


def open_critic(section: Aesthetic, cache: Path, device: torch.device) -> OpenedAesthetic:
    """Open both from local files; `cache` is not used.

    Raises:
        UserError: a file is missing, damaged, of another hash, or of another shape.
    """
    folder = Path(section.path)
    check_sums(folder)
    state = read_weights(folder / section.head, section.sha256, "aesthetic")
    try:
        clip = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except Exception as error:
        raise UserError(f"aesthetic.path: {folder}: its CLIP cannot be loaded ({first_line(error)})") from error
    try:
        head = linear_head(state, clip.config.projection_dim)
    except RuntimeError as error:
        raise UserError(f"{folder / section.head}: it does not fit to this CLIP ({first_line(error)})") from error
    return OpenedAesthetic(*(part.to(device).eval().requires_grad_(False) for part in (clip, head)))


def linear_head(state: dict[str, Tensor], width: int) -> nn.Sequential:
    """The layers of the predictor, on `width` features; ImageReward has the same.

    Raises:
        RuntimeError: names or shapes are others.
    """
    head = nn.Sequential(*(nn.Linear(*pair) for pair in pairwise((width, *SIZES))))
    names = {f"layers.{place}.{kind}": f"{n}.{kind}" for n, place in enumerate(PLACES) for kind in ("weight", "bias")}
    head.load_state_dict({names.get(name, name): value for name, value in state.items()})
    return head
