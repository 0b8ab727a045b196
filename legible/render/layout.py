"""Layout: shaped lines in a block, in em, y downwards, and the warps that put a block into a picture.

A block is a flat strip of text. What bends it (a curve, a plane in perspective) acts on the points of the outlines, so
that every label is that of the bent letters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from legible.render.shaping import Shaped

Align = Literal["left", "centre", "right", "justified"]
Warp = Callable[[np.ndarray], np.ndarray]  # points [N, 2] in em of the block → points of the picture


@dataclass(frozen=True, eq=False)
class Placed:
    """A line in its block: `origin` of its baseline in em, and what is added after each space, to justify it."""

    line: Shaped
    origin: tuple[float, float]
    per_space: float = 0.0

    def shift(self, cluster: int) -> float:
        """By how much the spaces before a label cluster, as they are seen, move it along the line."""
        if not self.per_space:
            return 0.0
        pens = self.line.pens[:, 0]
        return self.per_space * sum(pens[i] < pens[cluster] for i, t in enumerate(self.line.clusters) if t.isspace())


@dataclass(frozen=True, eq=False)
class Block:
    """Lines in place: box (0, 0) to (`width`, `height`) in em, ascenders and descenders included."""

    lines: tuple[Placed, ...]
    width: float
    height: float


def block_of(
    lines: Sequence[Shaped], align: Align = "centre", spacing: float = 1.2, columns: int = 1, gap: float = 1.0
) -> Block:
    """Set lines under one another, or, if they are vertical, beside one another from the right to the left.

    Args:
        spacing: from line to line, in em of the tallest face.
        columns: the lines are divided among so many, side by side, in the direction in which the first line runs.
        gap: between two columns, in em.
    """
    if lines[0].vertical:
        return vertical_block(lines, align, spacing)
    per = -(-len(lines) // columns)
    groups = [lines[i : i + per] for i in range(0, len(lines), per)]
    blocks = [stacked(group, align, spacing) for group in groups]
    if lines[0].text and right_to_left(lines[0]):
        blocks.reverse()
    placed, x = [], 0.0
    for block in blocks:
        placed += [Placed(p.line, (p.origin[0] + x, p.origin[1]), p.per_space) for p in block.lines]
        x += block.width + gap
    return Block(tuple(placed), x - gap, max(block.height for block in blocks))


def stacked(lines: Sequence[Shaped], align: Align, spacing: float) -> Block:
    """Lines under one another; a justified paragraph's last line is as it would be without."""
    width = max(line.advance for line in lines)
    top, step = (
        max(line.face.ascent for line in lines),
        spacing * max(line.face.ascent + line.face.descent for line in lines),
    )
    placed = []
    for number, line in enumerate(lines):
        free, spaces = width - line.advance, sum(text.isspace() for text in line.clusters)
        per_space = free / spaces if align == "justified" and spaces and number < len(lines) - 1 else 0.0
        starts = "right" if right_to_left(line) else "left"
        side = starts if align == "justified" else align
        x = 0.0 if per_space else {"left": 0.0, "centre": free / 2, "right": free}[side]
        placed.append(Placed(line, (x, top + number * step), per_space))
    return Block(tuple(placed), width, top + (len(lines) - 1) * step + max(line.face.descent for line in lines))


def vertical_block(lines: Sequence[Shaped], align: Align, spacing: float) -> Block:
    """Vertical lines, the first one on the right."""
    height, step = max(line.advance for line in lines), spacing
    width = 1.0 + (len(lines) - 1) * step
    share = {"left": 0.0, "centre": 0.5, "right": 1.0, "justified": 0.0}[align]
    placed = [
        Placed(line, (width - 0.5 - number * step, share * (height - line.advance)))
        for number, line in enumerate(lines)
    ]
    return Block(tuple(placed), width, height)


def right_to_left(line: Shaped) -> bool:
    """Whether the line's first label cluster lies right of its last one."""
    return bool(line.pens[0, 0] > line.pens[-1, 0])


def flat(size: float, x: float, y: float, angle: float = 0.0, centre: tuple[float, float] = (0.0, 0.0)) -> Warp:
    """No bend: `size` pixels to the em, the block's corner at (x, y), turned by `angle` (radians) about `centre`."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]])

    def warp(points: np.ndarray) -> np.ndarray:
        placed = points * size + (x, y)
        return placed if not angle else (placed - centre) @ turn + centre

    return warp


def along(path: np.ndarray, size: float, base: float, start: float = 0.0) -> Warp:
    """Along a curve: `path` [N, 2] in pixels, at small steps; the line at `base` (em, downwards) lies on it.

    What lies beyond the curve's ends goes on straight.
    """
    steps = np.diff(path, axis=0)
    lengths = np.concatenate([[0.0], np.cumsum(np.hypot(*steps.T))])
    tangents = np.gradient(path, lengths, axis=0)
    tangents /= np.hypot(*tangents.T)[:, None]

    def warp(points: np.ndarray) -> np.ndarray:
        s = points[:, 0] * size + start
        inside = np.clip(s, 0.0, lengths[-1])
        foot = np.stack([np.interp(inside, lengths, path[:, i]) for i in (0, 1)], 1)
        tangent = np.stack([np.interp(inside, lengths, tangents[:, i]) for i in (0, 1)], 1)
        tangent /= np.hypot(*tangent.T)[:, None]
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1)  # downwards, where the curve runs to the right
        return foot + tangent * (s - inside)[:, None] + normal * ((points[:, 1] - base) * size)[:, None]

    return warp


def arc(width: float, bend: float, steps: int = 257) -> np.ndarray:
    """A circular arc of length `width` from (0, 0): `bend` is its whole turn in radians, upwards for positive ones."""
    if abs(bend) < 1e-6:
        return np.stack([np.linspace(0, width, steps), np.zeros(steps)], 1)
    radius, angles = width / bend, np.linspace(-bend / 2, bend / 2, steps)
    return np.stack([radius * (np.sin(angles) + np.sin(bend / 2)), -radius * (np.cos(angles) - np.cos(bend / 2))], 1)


def through(points: Sequence[tuple[float, float]], width: float, steps: int = 257) -> np.ndarray:
    """A smooth curve of length `width` through points of any scale, y downwards (cubic spline over their distances)."""
    from scipy.interpolate import CubicSpline

    given = np.array(points, dtype=np.float64)
    places = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(given, axis=0).T))])
    path = CubicSpline(places, given)(np.linspace(0, places[-1], steps))
    return (path - path[0]) * (width / np.hypot(*np.diff(path, axis=0).T).sum())


def in_perspective(inner: Warp, corners: np.ndarray, onto: np.ndarray) -> Warp:
    """After `inner`, the plane whose corners [4, 2] lie at `corners` is seen with them at `onto`."""
    matrix = homography(corners, onto)

    def warp(points: np.ndarray) -> np.ndarray:
        seen = np.concatenate([inner(points), np.ones((len(points), 1))], 1) @ matrix.T
        return seen[:, :2] / seen[:, 2:]

    return warp


def homography(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The projective map [3, 3] that takes four points to four points."""
    rows, right = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    return np.append(np.linalg.solve(np.array(rows, dtype=np.float64), np.array(right)), 1.0).reshape(3, 3)
