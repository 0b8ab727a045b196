"""Labels: a block of text in a picture, every label cluster with its pixels, quad, word and line.

Geometry acts on points, so that a label is read off what is drawn: the ink box is that of the cluster's own pixels, the
quad that of its corners after the same warp.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from legible.render.layout import Block, Placed, Warp, right_to_left
from legible.render.raster import Box, Ink, Outlines, Part, inks, joined, within


@dataclass(frozen=True, eq=False)
class Cluster:
    """What a reader takes for one character.

    `start`, `end`: in its line's text; `line`, `word`: their numbers in the picture (word −1: a space); `quad` [4, 2]:
    corners in reading order of the strip between its pens from ascender to descender, in pixels; `ink_box`
    (x0, y0, x1, y1), half-open, of its pixels within the picture, None without any.
    """

    text: str
    start: int
    end: int
    line: int
    word: int
    quad: np.ndarray
    ink_box: Box | None


@dataclass(frozen=True, eq=False)
class Word:
    """A word: what lies between spaces. `polygon` [N, 2] goes round its quads."""

    text: str
    start: int
    end: int
    line: int
    polygon: np.ndarray


@dataclass(frozen=True, eq=False)
class Line:
    """A line: `polygon` [N, 2] round its quads, `baseline` [N, 2] in reading order, `size` in pixels to the em."""

    text: str
    font: str
    axes: tuple[tuple[str, float], ...]
    size: float
    direction: str
    polygon: np.ndarray
    baseline: np.ndarray


@dataclass(frozen=True, eq=False)
class Typeset:
    """Text in its place; `inks` go with `clusters`."""

    clusters: tuple[Cluster, ...]
    words: tuple[Word, ...]
    lines: tuple[Line, ...]
    inks: tuple[Ink | None, ...]


def typeset(block: Block, warp: Warp, size: float, picture: tuple[int, int], *, bends: bool) -> Typeset:
    """Draw a block.

    Args:
        size: in pixels to the em, as the labels say it.
        picture: its height and width.
        bends: whether straight lines do not stay straight under `warp`: then outlines are divided first.

    Raises:
        ValueError: a character is larger than any picture.
    """
    numbers = [(line, cluster) for line, placed in enumerate(block.lines) for cluster in range(len(placed.line.spans))]
    flat = joined([parts for placed in block.lines for parts in parts_of(placed, bends)])
    strips = np.concatenate([strips_of(placed) for placed in block.lines])
    baselines = [baseline_of(placed) for placed in block.lines]
    # One call for everything: a warp costs as much for ten points as for a thousand.
    bent = warp(np.concatenate([flat.points, strips.reshape(-1, 2), *baselines]))
    points, corners, bases = np.split(bent, np.cumsum([len(flat.points), 4 * len(strips)]))
    drawn = inks(Outlines(points, flat.tags, flat.ends, flat.firsts))
    quads, base = corners.reshape(-1, 4, 2), bases.reshape(len(block.lines), -1, 2)
    raw = []
    for (line, cluster), quad, ink in zip(numbers, quads, drawn, strict=True):
        start, end = block.lines[line].line.spans[cluster]
        text = block.lines[line].line.text[start:end]
        raw.append((text, start, end, line, quad, box_of(ink, *picture)))
    clusters: list[Cluster] = []
    words: list[Word] = []
    lines: list[Line] = []
    for line, placed in enumerate(block.lines):
        own = [entry for entry in raw if entry[3] == line]
        before = len(words)
        words += words_of(placed.line.text, own, line)
        for text, start, end, _, quad, box in own:
            word = next((n for n in range(before, len(words)) if words[n].start <= start < words[n].end), -1)
            clusters.append(Cluster(text, start, end, line, word, quad, box))
        polygon, face = around([entry[4] for entry in own]), placed.line.face
        lines.append(Line(placed.line.text, face.name, face.axes, size, direction_of(placed), polygon, base[line]))
    return Typeset(tuple(clusters), tuple(words), tuple(lines), tuple(drawn))


def direction_of(placed: Placed) -> str:
    """How a line runs."""
    if placed.line.vertical:
        return "top to bottom"
    return "right to left" if right_to_left(placed.line) else "left to right"


def parts_of(placed: Placed, bends: bool) -> list[list[Part]]:
    """The outlines of each label cluster, and where they lie in em of the block, y downwards."""
    line = placed.line
    parts: list[list[Part]] = [[] for _ in line.spans]
    shifts = [placed.shift(cluster) for cluster in range(len(line.spans))]
    for glyph, (x, y), owner in zip(line.glyphs.tolist(), line.places.tolist(), line.owners.tolist(), strict=True):
        outline = line.face.outline(glyph, bends)
        if len(outline.points):
            parts[owner].append((outline, placed.origin[0] + shifts[owner] + x, placed.origin[1] - y))
    return parts


def strips_of(placed: Placed) -> np.ndarray:
    """Corners [C, 4, 2] in em of each cluster's strip between its pens, in reading order of a line to the right."""
    (x, y), line = placed.origin, placed.line
    shifts = np.array([placed.shift(cluster) for cluster in range(len(line.spans))])
    low, high = line.pens[:, 0] + shifts, line.pens[:, 1] + shifts
    one = np.ones_like(low)
    if line.vertical:
        right, left = (x + 0.5) * one, (x - 0.5) * one
        corners = [(right, y + low), (right, y + high), (left, y + high), (left, y + low)]
    else:
        top, bottom = (y - line.face.ascent) * one, (y + line.face.descent) * one
        corners = [(x + low, top), (x + high, top), (x + high, bottom), (x + low, bottom)]
    return np.stack([np.stack(corner, 1) for corner in corners], 1)


def baseline_of(placed: Placed, steps: int = 17) -> np.ndarray:
    """The baseline [steps, 2] in em, from where the line is begun to where it ends."""
    (x, y), line = placed.origin, placed.line
    spaces = placed.per_space * sum(text.isspace() for text in line.clusters)
    way = np.linspace(0, line.advance + spaces, steps)
    if right_to_left(line):
        way = way[::-1]
    still = np.full(steps, x if line.vertical else y)
    return np.stack([still, y + way] if line.vertical else [x + way, still], 1)


def words_of(text: str, clusters: Sequence[tuple], line: int) -> list[Word]:
    """The words of a line; `clusters` as (text, start, end, line, quad, box)."""
    groups: list[list[tuple]] = [[]]
    for cluster in clusters:
        if cluster[0].isspace():
            groups.append([])
        else:
            groups[-1].append(cluster)
    return [
        Word(text[group[0][1] : group[-1][2]], group[0][1], group[-1][2], line, around([c[4] for c in group]))
        for group in groups
        if group
    ]


def around(quads: Sequence[np.ndarray]) -> np.ndarray:
    """A polygon round quads of one line: along their upper edges and back along the lower ones.

    They are taken as they follow on the page; of text in two directions a word can lie apart, and its polygon then goes
    round what is between.
    """
    whole = np.stack(quads)
    (x, y), (u, v) = (whole[-1, 0] - whole[0, 0]).tolist(), (whole[0, 1] - whole[0, 0]).tolist()
    if x * u + y * v < 0:  # they follow one another to the left
        whole = whole[::-1]
    return np.concatenate([whole[:, :2].reshape(-1, 2), whole[::-1, 2:].reshape(-1, 2)])


def box_of(ink: Ink | None, height: int, width: int) -> Box | None:
    """Of an ink within the picture: (x0, y0, x1, y1), half-open, cropped again where the edge cuts it."""
    if ink is None:
        return None
    rows, columns = ink.coverage.shape
    if ink.x >= 0 and ink.y >= 0 and ink.x + columns <= width and ink.y + rows <= height:
        return ink.x, ink.y, ink.x + columns, ink.y + rows
    if (place := within(ink, (0, 0, width, height))) is None:
        return None
    (top, left), part = (side.start for side in place[0]), place[1]
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    if not len(rows):
        return None
    return int(left + columns[0]), int(top + rows[0]), int(left + columns[-1] + 1), int(top + rows[-1] + 1)
