"""Where the glyphs are, in cells of the latents: coverage and characters, for the losses that look at latents."""

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from legible.errors import UserError

INKED = 0.2  # coverage from which on a cell belongs to a character; below it, a stroke's blurred edge


def latent_masks(masks: Tensor, factor: int) -> Tensor:
    """Glyph coverage of the latent cells: uint8 [N, H, W] (0 … 255) → float32 [N, H / factor, W / factor] in 0 … 1.

    Raises:
        UserError: the factor does not divide the masks' size.
    """
    if masks.shape[-2] % factor or masks.shape[-1] % factor:
        raise UserError(f"masks of {masks.shape[-2]} × {masks.shape[-1]} pixels: {factor} must divide both sides")
    return F.avg_pool2d(masks[:, None].float() / 255, factor)[:, 0]


def character_map(
    mask: np.ndarray,
    boxes: list[list[int]],
    characters: Sequence[str],
    alphabet: Sequence[str],
    size: tuple[int, int],
) -> np.ndarray:
    """Which character covers which cell of a grid, uint8 [h2, w2]: 0 = background, 1 + its index in the alphabet.

    Args:
        mask: glyph coverage, uint8 [H, W] (0 … 255).
        boxes: [x0, y0, x1, y1] in pixels, half-open, one a character.
        characters: what stands in the boxes, in the same order (no blanks: they have no box).
        alphabet: at most 255 characters.
        size: (h2, w2) of the grid; divides the mask's size.

    A cell whose mean coverage reaches 0.2 belongs to the character whose box holds most of its ink, and where boxes
    overlap (kerning) to the one with the nearer centre. Ink outside every box is background.

    Raises:
        UserError: a character is not in the alphabet, there are not as many boxes as characters, or the grid does not
            divide the mask.
    """
    unknown = [character for character in characters if character not in alphabet]
    if unknown:
        raise UserError(f"text {''.join(characters)!r}: the character {unknown[0]!r} is not in {''.join(alphabet)!r}")
    if len(characters) != len(boxes):
        raise UserError(f"text {''.join(characters)!r}: {len(characters)} characters have {len(boxes)} character boxes")
    if mask.shape[0] % size[0] or mask.shape[1] % size[1] or len(alphabet) > 255:
        raise UserError(f"a mask of {mask.shape} pixels cannot be cut into {size} cells of at most 255 classes")
    if not boxes:
        return np.zeros(size, np.uint8)
    high, wide = mask.shape[0] // size[0], mask.shape[1] // size[1]

    def ink(pixels: np.ndarray) -> np.ndarray:
        return pixels.reshape(size[0], high, size[1], wide).sum((1, 3))

    middle_y, middle_x = (np.arange(size[0])[:, None] + 0.5) * high, (np.arange(size[1])[None, :] + 0.5) * wide
    coverage = mask.astype(np.int64)
    claims = np.zeros((len(boxes), *size))
    for claim, (x0, y0, x1, y1) in zip(claims, boxes, strict=True):
        inside = np.zeros_like(coverage)
        inside[y0:y1, x0:x1] = coverage[y0:y1, x0:x1]
        share = ink(inside)
        distance = np.abs(middle_x - (x0 + x1) / 2) + np.abs(middle_y - (y0 + y1) / 2)
        # The ink is a whole number and the subtracted distance less than 1: it decides between equals only.
        claim[:] = np.where(share > 0, share - distance / (2 * sum(mask.shape)), 0.0)
    classes = np.array([1 + alphabet.index(character) for character in characters], np.uint8)[claims.argmax(0)]
    covered = ink(coverage) >= INKED * 255 * high * wide
    return np.where(covered & (claims.max(0) > 0), classes, 0).astype(np.uint8)
