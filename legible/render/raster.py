"""Rasters of outlines: the coverage of every label cluster, apart, and of all together.

FreeType fills outlines whose points we have bent ourselves (`FT_Outline_Get_Bitmap`). All clusters of a picture are
filled in one call, each in a cell of its own on one sheet, at whole pixels from where it will lie: so a cluster's
coverage here is that of the cluster drawn alone in its place, and boxes and ids are read off the pixels themselves.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import freetype
import numpy as np
from freetype.raw import FT_Bitmap, FT_Outline, FT_Outline_Get_Bitmap

from legible.render.faces import Outline

MOST_POINTS = 32_000  # of one call: FreeType counts points with 16 bits
LARGEST = 20_000  # pixels of a cluster's side; more is no picture's
VECTOR = np.dtype(f"i{ctypes.sizeof(ctypes.c_long)}")  # of FT_Pos
GRAY = 2  # FT_PIXEL_MODE_GRAY
TURN = np.array([1.0, -1.0])  # outlines count upwards, pictures downwards
Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Ink:
    """The coverage of one cluster, uint8 [h, w], and where its corner lies in the picture, which it may leave."""

    x: int
    y: int
    coverage: np.ndarray


@dataclass(frozen=True, eq=False)
class Outlines:
    """The outlines of many clusters in one: `firsts` [C + 1] is where each one's points begin."""

    points: np.ndarray
    tags: np.ndarray
    ends: np.ndarray
    firsts: np.ndarray

    def between(self, low: int, high: int) -> "Outlines":
        """Clusters `low` … `high − 1`."""
        first, last = self.firsts[low], self.firsts[high]
        ends = self.ends[(self.ends >= first) & (self.ends < last)] - first
        return Outlines(self.points[first:last], self.tags[first:last], ends, self.firsts[low : high + 1] - first)


Part = tuple[Outline, float, float]  # an outline (y upwards), and where its origin lies (y downwards)


def joined(clusters: Sequence[Sequence[Part]]) -> Outlines:
    """The parts of each cluster, one cluster after another, y downwards."""
    parts = [part for cluster in clusters for part in cluster]
    if not parts:
        return Outlines(
            np.zeros((0, 2)), np.zeros(0, np.uint8), np.zeros(0, np.int64), np.zeros(len(clusters) + 1, int)
        )
    sizes = [len(outline.points) for outline, _, _ in parts]
    points = np.concatenate([outline.points for outline, _, _ in parts]) * TURN
    points += np.repeat([(x, y) for _, x, y in parts], sizes, axis=0)
    before = np.repeat(np.cumsum([0, *sizes[:-1]]), [len(outline.ends) for outline, _, _ in parts])
    return Outlines(
        points,
        np.concatenate([outline.tags for outline, _, _ in parts]),
        np.concatenate([outline.ends for outline, _, _ in parts]) + before,
        np.cumsum([0, *(sum(len(outline.points) for outline, _, _ in cluster) for cluster in clusters)]),
    )


def fill(points: np.ndarray, tags: np.ndarray, ends: np.ndarray, width: int, height: int) -> np.ndarray:
    """Coverage, uint8 [height, width], of an outline in pixels, y downwards (nonzero winding).

    Raises:
        ValueError: FreeType refuses it.
    """
    buffer = np.zeros((height, width), np.uint8)
    fixed = np.empty((len(points), 2), VECTOR)
    fixed[:, 0] = np.rint(points[:, 0] * 64)
    fixed[:, 1] = np.rint((height - points[:, 1]) * 64)
    last, kinds = ends.astype(np.int16), np.ascontiguousarray(tags)
    raw, bitmap = FT_Outline(), FT_Bitmap()
    raw.n_contours, raw.n_points = len(last), len(fixed)
    raw.points = ctypes.cast(fixed.ctypes.data, type(raw.points))
    raw.tags = ctypes.cast(kinds.ctypes.data, type(raw.tags))
    raw.contours = ctypes.cast(last.ctypes.data, type(raw.contours))
    bitmap.rows, bitmap.width, bitmap.pitch = height, width, width
    bitmap.buffer = ctypes.cast(buffer.ctypes.data, type(bitmap.buffer))
    bitmap.num_grays, bitmap.pixel_mode = 256, GRAY
    if error := FT_Outline_Get_Bitmap(freetype.get_handle(), ctypes.byref(raw), ctypes.byref(bitmap)):
        raise ValueError(f"FreeType cannot fill an outline of {len(points)} points (error {error})")
    return buffer


def inks(outlines: Outlines) -> list[Ink | None]:
    """The coverage of each cluster (points in pixels of the picture, y downwards), cropped to its ink; None without.

    Raises:
        ValueError: one is larger than any picture.
    """
    found: list[Ink | None] = []
    low, count = 0, len(outlines.firsts) - 1
    while low < count:
        # As many clusters as FreeType takes at once, at least one.
        high = int(np.searchsorted(outlines.firsts, outlines.firsts[low] + MOST_POINTS, side="right")) - 1
        high = min(max(high, low + 1), count)
        found += fill_sheet(outlines.between(low, high))
        low = high
    return found


def fill_sheet(outlines: Outlines) -> list[Ink | None]:
    """Fill the clusters in rows of cells on one sheet."""
    sizes = np.diff(outlines.firsts)
    found: list[Ink | None] = [None] * len(sizes)
    inked = np.flatnonzero(sizes)
    if not len(inked):
        return found
    starts = outlines.firsts[:-1][inked]
    lows = np.floor(np.minimum.reduceat(outlines.points, starts)).astype(np.int64) - 1
    cells = np.ceil(np.maximum.reduceat(outlines.points, starts)).astype(np.int64) + 1 - lows
    if cells.max() > LARGEST:
        raise ValueError(f"a character of {cells.max()} pixels is larger than any picture")
    widest = max(int(cells[:, 0].max()), round(1.3 * float(np.prod(cells, axis=1).sum()) ** 0.5))
    places, x, y, row = [], 0, 0, 0
    for width, height in cells.tolist():
        if x + width > widest:
            x, y, row = 0, y + row, 0
        places.append((x, y))
        x, row = x + width, max(row, height)
    moves = np.repeat(np.array(places) - lows, sizes[inked], axis=0)
    right = max(place[0] + width for place, width in zip(places, cells[:, 0].tolist(), strict=True))
    sheet = fill(outlines.points + moves, outlines.tags, outlines.ends, right, y + row)
    for number, (left, top), (width, height), low in zip(inked, places, cells.tolist(), lows.tolist(), strict=True):
        cell = sheet[top : top + height, left : left + width]
        rows, columns = cell.any(1).nonzero()[0], cell.any(0).nonzero()[0]
        if len(rows):
            y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
            found[number] = Ink(int(low[0] + x0), int(low[1] + y0), cell[y0:y1, x0:x1])
    return found


def laid(inks: Sequence[Ink | None], box: Box) -> tuple[np.ndarray, np.ndarray]:
    """All clusters within a box (x0, y0, x1, y1) of the picture: coverage, uint8 [h, w], and ids, uint16 [h, w].

    An id is number + 1 of the cluster that has most of a pixel (of equals the first), 0 where none has any.
    """
    left, top, right, bottom = box
    coverage = np.zeros((bottom - top, right - left), np.uint16)
    most, ids = np.zeros(coverage.shape, np.uint8), np.zeros(coverage.shape, np.uint16)
    for number, ink in enumerate(inks):
        if ink is None or (place := within(ink, box)) is None:
            continue
        where, part = place
        coverage[where] += part
        wins = part > most[where]
        np.copyto(most[where], part, where=wins)
        np.copyto(ids[where], number + 1, where=wins)
    return np.minimum(coverage, 255).astype(np.uint8), ids


def within(ink: Ink, box: Box) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """Where an ink lies in the box, as slices of rows and columns, and that part of it; None when it is all outside."""
    left, top, right, bottom = box
    rows, columns = ink.coverage.shape
    y0, y1, x0, x1 = max(ink.y, top), min(ink.y + rows, bottom), max(ink.x, left), min(ink.x + columns, right)
    if y0 >= y1 or x0 >= x1:
        return None
    part = ink.coverage[y0 - ink.y : y1 - ink.y, x0 - ink.x : x1 - ink.x]
    return (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)), part
