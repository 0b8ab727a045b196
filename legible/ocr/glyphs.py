"""The glyph judge: whether a sign holds a letter that is not well formed, whichever letters it holds.

It is no reader and no critic: it has no entry among the losses' critics (`legible.config.CRITICS`), so that no arm can
be trained by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from legible.errors import UserError
from legible.integrity import check_sums
from legible.tensors import load_tensors

FRAME = 2  # pixels at the edges in which a sign shows its ground
INK = 0.02  # of the pixels, those furthest from the ground, whose mean is the ink's colour
FAINT = 0.3  # ink nearer to the ground than this (of 2 a channel) is not stretched to full coverage
STRIDE = 2  # pixels to a column of the judge's map
LIMITS = (-0.5, 1.5)  # of coverage
LETTERS = 36


def coverage(images: Tensor) -> Tensor:
    """How much each pixel is ink, [B, 1, H, W]: 0 the ground's colour, 1 the ink's, whatever the two colours are.

    The ground is the median of the picture's frame, the ink the mean of the pixels that differ most from it.

    Args:
        images: [B, 3, H, W] in −1 … 1.
    """
    frame = torch.ones(images.shape[-2:], dtype=torch.bool)
    frame[FRAME:-FRAME, FRAME:-FRAME] = False
    ground = images[:, :, frame].median(2).values
    difference = images - ground[:, :, None, None]
    distance = difference.square().sum(1).flatten(1)
    furthest = distance.topk(max(1, int(INK * distance.shape[1])), 1).indices
    ink = difference.flatten(2).gather(2, furthest[:, None].expand(-1, 3, -1)).mean(2)
    length = ink.square().sum(1).clamp_min(FAINT**2)
    along = (difference * ink[:, :, None, None]).sum(1, keepdim=True) / length[:, None, None, None]
    return along.clamp(*LIMITS)


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


class GlyphNet(nn.Module):
    """Fully convolutional: coverage → a logit a column, and (for training alone) which letter stands there."""

    def __init__(self, channels: tuple[int, int] = (40, 96)) -> None:
        super().__init__()
        low, high = channels
        self.features = nn.Sequential(
            nn.PixelUnshuffle(STRIDE),
            nn.Conv2d(STRIDE**2, low, 3, padding=1, bias=False),
            nn.BatchNorm2d(low),
            nn.ReLU(),
            Residual(low),
            Residual(low),
            nn.Conv2d(low, high, 3, stride=(2, 1), padding=1, bias=False),
            nn.BatchNorm2d(high),
            nn.ReLU(),
            Residual(high),
            Residual(high),
        )
        self.columns = nn.Sequential(nn.Conv1d(2 * high, high, 3, padding=1), nn.ReLU())
        self.malformed, self.letter = nn.Conv1d(high, 1, 1), nn.Conv1d(high, LETTERS, 1)

    def forward(self, ink: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, W / 2] that a column belongs to a malformed letter, and [B, 36, W / 2] of the letters.

        Args:
            ink: `coverage` [B, 1, H, W] of even height and width.
        """
        found = self.features(ink)
        columns = self.columns(torch.cat([found.amax(2), found.mean(2)], 1))
        return self.malformed(columns).squeeze(1), self.letter(columns)


def picture_logits(columns: Tensor) -> Tensor:
    """The logit [B] that any letter of a picture is malformed, from columns [B, W]: their smooth maximum."""
    return columns.logsumexp(1)


@dataclass(frozen=True)
class OpenedGlyphJudge:
    """An opened judge: a picture whose probability reaches `threshold` holds a malformed letter.

    `size`: height and width of the pictures that it learnt on; others it refuses. `version`: of its weights.
    """

    network: GlyphNet
    threshold: float
    size: tuple[int, int]
    version: str

    def probabilities(self, pictures: Sequence[Image.Image], batch: int = 64) -> list[float]:
        """The probability, 0 … 1, that a letter is malformed, for each picture.

        Raises:
            UserError: a picture of another size than the judge learnt on: it knows no larger letters.
        """
        found: list[float] = []
        for start in range(0, len(pictures), batch):
            part = pictures[start : start + batch]
            if wrong := [picture for picture in part if (picture.height, picture.width) != self.size]:
                height, width = self.size
                raise UserError(
                    f"glyph_judge: it knows pictures of {height} × {width} pixels only, got {wrong[0].height} × "
                    f"{wrong[0].width}; set glyph_judge: null"
                )
            pixels = np.stack([np.asarray(picture.convert("RGB")) for picture in part])
            found += self.of_pixels(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1).tolist()
        return found

    @torch.no_grad()
    def of_pixels(self, images: Tensor) -> Tensor:
        """The same, [B], of images [B, 3, H, W] in −1 … 1."""
        return picture_logits(self.network(coverage(images))[0]).sigmoid()


def open_glyph_judge(folder: str | Path) -> OpenedGlyphJudge:
    """The judge in a folder, `glyph_judge.safetensors`, on the CPU.

    Raises:
        UserError: its file is missing or damaged, or holds something else.
    """
    path = Path(folder) / "glyph_judge.safetensors"
    check_sums(path)
    weights, about = load_tensors(path, "the glyph judge")
    try:
        network = GlyphNet(tuple(about["channels"]))
        network.load_state_dict(weights)
        threshold, (height, width) = float(about["threshold"]), about["size"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: not a glyph judge's weights; train it with scripts/train_nano.py") from error
    return OpenedGlyphJudge(network.eval().requires_grad_(False), threshold, (height, width), about["version"])
