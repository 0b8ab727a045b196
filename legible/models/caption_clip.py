"""A CLIP of whole pictures and captions, as transformers opens it; its text tower can be a model's text encoder."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, CLIPModel, PreTrainedTokenizerBase

from legible.config import CaptionClip, PickScore
from legible.errors import UserError
from legible.models.hub import clip_folder
from legible.models.opening import first_line


@dataclass(frozen=True)
class OpenedCaptionClip:
    """A frozen CLIP and its tokenizer."""

    model: CLIPModel
    tokenizer: PreTrainedTokenizerBase


def open_critic(section: CaptionClip | PickScore, cache: Path, device: torch.device) -> OpenedCaptionClip:
    """Open it from a local folder or a pinned hub revision (safetensors, no remote code); `cache` is not used.

    Raises:
        UserError: the folder is incomplete or its weights are damaged, or the hub does not give it.
    """
    folder = clip_folder(section)
    try:
        model = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise UserError(f"{section.path}: this CLIP cannot be loaded ({first_line(error)})") from error
    return OpenedCaptionClip(model.to(device).eval().requires_grad_(False), tokenizer)
