"""The CLIP that losses and drift look with, opened by open_clip."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

from legible.config import Clip
from legible.errors import UserError
from legible.models.hub import clip_folder
from legible.models.opening import first_line


@dataclass(frozen=True)
class OpenedClip:
    """A frozen CLIP with what its images need: input size (h, w), mean and standard deviation [1, 3, 1, 1].

    `template` is what the target string stands in; `distractors` is how many other strings it is told from.
    """

    model: nn.Module
    tokenize: Callable[[list[str]], Tensor]
    size: tuple[int, int]
    mean: Tensor
    std: Tensor
    template: str = "{}"
    distractors: int = 9


def open_clip_model(clip: Clip, device: torch.device) -> OpenedClip:
    """Open the configured CLIP, frozen, from a local folder or a pinned hub revision (safetensors, no remote code).

    Raises:
        UserError: the folder is incomplete or its weights are damaged, or the hub does not give it.
    """
    folder = clip_folder(clip)
    name = f"local-dir:{folder}"
    try:
        if not (folder / "open_clip_model.safetensors").is_file():
            raise FileNotFoundError("open_clip_model.safetensors is missing")
        model = open_clip.create_model(name, weights_only=True)
        tokenize = open_clip.get_tokenizer(name)
    except Exception as error:
        raise UserError(f"{clip.path}: this CLIP cannot be loaded ({first_line(error)})") from error
    settings = open_clip.get_model_preprocess_cfg(model)
    size = model.visual.image_size
    return OpenedClip(
        model=model.to(device).eval().requires_grad_(False),
        tokenize=tokenize,
        size=(size, size) if isinstance(size, int) else tuple(size),
        mean=torch.tensor(settings["mean"], device=device).view(1, 3, 1, 1),
        std=torch.tensor(settings["std"], device=device).view(1, 3, 1, 1),
        template=clip.template,
        distractors=clip.distractors,
    )


def open_critic(section: Clip, cache: Path, device: torch.device) -> OpenedClip:
    """The CLIP as a critic; nothing is written to `cache`."""
    return open_clip_model(section, device)
