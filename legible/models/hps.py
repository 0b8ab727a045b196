"""Human Preference Score, opened by open_clip from its published file.

Source: tgxs002/HPSv2, hpsv2/img_score.py: ViT-H-14, the file's `state_dict`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

from legible.config import Hps
from legible.errors import UserError
from legible.integrity import check_sums
from legible.models.opening import first_line
from legible.models.weights import read_weights


@dataclass(frozen=True)
class OpenedHps:
    """A frozen CLIP, its tokenizer, and the side of the squares that it sees."""

    model: nn.Module
    tokenize: Callable[[list[str]], Tensor]
    side: int


def open_critic(section: Hps, cache: Path, device: torch.device) -> OpenedHps:
    """Open it from local files; `cache` is not used.

    Raises:
        UserError: a file is missing, damaged, of another hash, or of another architecture.
    """
    folder = Path(section.path)
    check_sums(folder)
    state = read_weights(folder / section.weights, section.sha256, "hps")
    name = f"local-dir:{folder}" if section.model == "local" else section.model
    try:
        model = open_clip.create_model(name, load_weights=False)
        tokenize = open_clip.get_tokenizer(name)
        model.load_state_dict(state)
    except Exception as error:
        raise UserError(
            f"hps.model: {section.model} cannot be opened with these weights ({first_line(error)})"
        ) from error
    size = model.visual.image_size
    side = size if isinstance(size, int) else size[0]
    return OpenedHps(model.to(device).eval().requires_grad_(False), tokenize, side)
