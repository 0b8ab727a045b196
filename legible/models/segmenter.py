"""The latent segmenter: a small network that says which character stands in which cell of the latents.

That latents can be segmented without decoding them is the observation of LD-ZNet (arXiv 2303.12343). It is trained by
`legible.train.segmenter`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from legible.errors import UserError
from legible.tensors import load_tensors, save_tensors

BLOCKS = 2


class Residual(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        groups = math.gcd(8, width)
        self.layers = nn.Sequential(
            nn.GroupNorm(groups, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(groups, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, cells: Tensor) -> Tensor:
        return cells + self.layers(cells)


class Segmenter(nn.Module):
    """Latents [B, C, h, w] → logits [B, 1 + number of characters, 2h, 2w]; class 0 is the background.

    Group norm only: a sample's logits must not depend on the batch. SiLU throughout, so that gradients have no kink.
    """

    def __init__(self, channels: int, characters: int, width: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            *[Residual(width) for _ in range(BLOCKS)],
            nn.SiLU(),
            nn.Conv2d(width, 4 * width, 1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(width, 1 + characters, 1),
        )

    def forward(self, latents: Tensor) -> Tensor:
        return self.network(latents)


@dataclass(frozen=True)
class OpenedSegmenter:
    """A frozen segmenter; class 1 + i of its logits is character i of the alphabet."""

    network: Segmenter
    alphabet: tuple[str, ...]


def build_segmenter(channels: int, characters: int, width: int, seed: int) -> Segmenter:
    """An untrained segmenter that depends on the arguments alone; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Segmenter(channels, characters, width)


def save_segmenter(path: str | Path, segmenter: Segmenter, alphabet: Sequence[str]) -> None:
    """Write weights and metadata as one safetensors file, atomically."""
    first = segmenter.network[0]
    about = {"alphabet": list(alphabet), "width": first.out_channels, "channels": first.in_channels}
    save_tensors(path, segmenter.state_dict(), about)


def load_segmenter(path: str | Path, device: torch.device) -> OpenedSegmenter:
    """Open a segmenter, frozen.

    Raises:
        UserError: the file is missing, damaged or something else.
    """
    weights, about = load_tensors(path, "the segmenter")
    try:
        network = build_segmenter(about["channels"], len(about["alphabet"]), about["width"], 0)
        network.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: this is no segmenter ({reason}); delete it to train it again") from error
    return OpenedSegmenter(network.to(device).eval().requires_grad_(False), tuple(about["alphabet"]))


def open_critic(section: Path | None, cache: Path, device: torch.device) -> OpenedSegmenter:
    """The segmenter as a critic.

    Args:
        section: its file; it is trained by the workflow and not configured.

    Raises:
        UserError: there is no file, or it is damaged.
    """
    if section is None:
        raise UserError("aux.loss: char_segmentation needs a trained segmenter; give it with --segmenter")
    return load_segmenter(section, device)
