"""Looks: how letters are painted, from their coverage: fill, outline, shadow, glow, extrusion.

Only pixels are touched here, never a label. Widths are in em, so that a look is the same at every size.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from legible.render.grounds import Rgb, between, places
from legible.render.raster import Box
from legible.render.sign import luminance

SAMPLED = 2_000  # pixels on which contrast is measured
LINEAR = np.array([luminance((value,) * 3) for value in range(256)])  # of a grey: the channels' weights add up to 1


@dataclass(frozen=True)
class Look:
    """What letters look like; `second` is the other end of a gradient, what is None is not there.

    `outline` (width, colour), `shadow` (right, down, blur, strength 0..1), `glow` (reach, colour) and `extrusion`
    (depth, angle, colour) are in em and radians.
    """

    color: Rgb
    second: Rgb | None = None
    angle: float = 0.0
    textured: bool = False
    outline: tuple[float, Rgb] | None = None
    shadow: tuple[float, float, float, float] | None = None
    glow: tuple[float, Rgb] | None = None
    extrusion: tuple[float, float, Rgb] | None = None

    @property
    def reach(self) -> float:
        """How far from the letters it paints, in em."""
        shadow = max(map(abs, self.shadow[:2])) + 2 * self.shadow[2] if self.shadow else 0.0
        glow, outline = (self.glow[0] if self.glow else 0.0), (self.outline[0] if self.outline else 0.0)
        return max(shadow, 2 * glow, outline, self.extrusion[0] if self.extrusion else 0.0)


def paint(picture: np.ndarray, ink: np.ndarray, box: Box, look: Look, size: float, rng: np.random.Generator) -> float:
    """Paint letters onto `picture` (uint8 [H, W, 3], changed).

    Args:
        ink: their coverage, uint8 [h, w], in `box` of the picture.
        size: pixels to the em.

    Returns:
        The contrast ratio (1..21, WCAG 2.2) of the fill and what lies right under it, effects included: that of the
        worst hundredth of the solid pixels.
    """
    margin = int(np.ceil(look.reach * size)) + 2
    x0, y0 = max(box[0] - margin, 0), max(box[1] - margin, 0)
    x1, y1 = min(box[2] + margin, picture.shape[1]), min(box[3] + margin, picture.shape[0])
    part = picture[y0:y1, x0:x1]
    ink = cv2.copyMakeBorder(ink, box[1] - y0, y1 - box[3], box[0] - x0, x1 - box[2], cv2.BORDER_CONSTANT, value=0)
    if look.glow:
        reach, color = look.glow
        light = cv2.GaussianBlur(thicker(ink, reach * size / 3), (0, 0), max(reach * size / 2, 0.5))
        blend(part, light, color)
    if look.shadow:
        right, down, blur, strength = look.shadow
        dark = moved(ink, right * size, down * size)
        dark = cv2.GaussianBlur(dark, (0, 0), blur * size) if blur * size > 0.3 else dark
        blend(part, cv2.convertScaleAbs(dark, alpha=strength), (0, 0, 0))
    if look.extrusion:
        depth, angle, color = look.extrusion
        blend(part, extruded(ink, depth * size, angle), color)
    if look.outline:
        width, color = look.outline
        blend(part, thicker(ink, width * size), color)
    solid = (ink > 0.8 * ink.max()).nonzero()
    solid = tuple(axis[:: max(1, len(axis) // SAMPLED)] for axis in solid)
    under = luminances(part[solid])
    blend(part, ink, fill_of(look, part.shape[0], part.shape[1], rng))
    over = luminances(part[solid])
    ratios = (np.maximum(under, over) + 0.05) / (np.minimum(under, over) + 0.05)
    return float(np.quantile(ratios, 0.01))


def luminances(colors: np.ndarray) -> np.ndarray:
    """Relative luminance [N], 0..1, of sRGB colours uint8 [N, 3]. Source: WCAG 2.2."""
    return LINEAR[colors] @ np.array([0.2126, 0.7152, 0.0722])


def fill_of(look: Look, height: int, width: int, rng: np.random.Generator) -> np.ndarray | Rgb:
    """The colour, or the colour of each pixel."""
    if look.second is None and not look.textured:
        return look.color
    if look.textured:
        grid = cv2.resize(rng.random((7, 7), dtype=np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        share = np.clip(grid * 255, 0, 255).astype(np.uint8)
        lighter = tuple(int(c + (255 - c) * 0.25) if sum(look.color) < 384 else int(c * 0.8) for c in look.color)
        return between(look.color, lighter, share)
    x, y = places(height, width)
    along = x * np.float32(np.cos(look.angle)) + y * np.float32(np.sin(look.angle))
    low, high = along.min(), max(along.max(), along.min() + 1)
    return between(look.color, look.second, ((along - low) * (255 / (high - low))).astype(np.uint8))


def blend(part: np.ndarray, coverage: np.ndarray, color: np.ndarray | Rgb) -> None:
    """part + (color − part) · coverage / 255, rounded, in place; exact where the coverage is 0 or 255."""
    share = cv2.merge([coverage] * 3).astype(np.uint16)
    over = (255 - share) * part
    over += np.asarray(color, np.uint16) * share
    over += 127
    over //= 255
    part[...] = over


def thicker(ink: np.ndarray, width: float) -> np.ndarray:
    """The ink grown by `width` pixels on all sides."""
    radius = max(1, round(width))
    return cv2.dilate(ink, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2))


def moved(ink: np.ndarray, right: float, down: float) -> np.ndarray:
    matrix = np.float32([[1, 0, right], [0, 1, down]])
    return cv2.warpAffine(ink, matrix, (ink.shape[1], ink.shape[0]))


def extruded(ink: np.ndarray, depth: float, angle: float) -> np.ndarray:
    """The ink, drawn out in a direction: the maximum over all steps of a pixel, by doubling."""
    out, done, total = ink, 0.0, max(depth, 1.0)
    while done < total:
        step = min(max(done, 1.0), total - done)
        out = np.maximum(out, moved(out, np.cos(angle) * step, np.sin(angle) * step))
        done += step
    return out
