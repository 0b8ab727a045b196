"""Faces: a font at chosen axes, opened by HarfBuzz, with its glyphs as outlines that can be bent.

Outlines are in em (1 = the font's size), y upwards, from the pen's origin on the baseline, as HarfBuzz draws them:
variations applied, nothing hinted.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import uharfbuzz as hb

from legible.config.scripts import known, shipped_font
from legible.errors import UserError
from legible.render.fonts import LARGEST, SUFFIXES

ON, CONIC, CUBIC = 1, 0, 2  # FreeType's tags of a point
FINE = 0.12  # em: longer pieces of an outline are divided before it is bent
MOST_POINTS = 20_000  # of one glyph; real ones have hundreds


@dataclass(frozen=True, eq=False)
class Outline:
    """Closed contours: points [N, 2] in em, FreeType's tag of each, and the last point of each contour."""

    points: np.ndarray
    tags: np.ndarray
    ends: np.ndarray


EMPTY = Outline(np.zeros((0, 2)), np.zeros(0, np.uint8), np.zeros(0, np.int64))


@dataclass(frozen=True, eq=False)
class Face:
    """A font at a place of its axes.

    `ascent` and `descent` (downwards positive) are in em; `words` is how captions call it; `axes` in design units.
    """

    name: str
    words: tuple[str, ...]
    axes: tuple[tuple[str, float], ...]
    font: hb.Font
    ascent: float
    descent: float
    characters: frozenset[int]
    outlines: dict[tuple[int, bool], Outline] = field(default_factory=dict, repr=False)

    @property
    def upem(self) -> int:
        return self.font.face.upem

    def outline(self, glyph: int, fine: bool = False) -> Outline:
        """The outline of a glyph; `fine`: in pieces of at most FINE, for what bends straight lines."""
        if (glyph, fine) not in self.outlines:
            self.outlines[glyph, fine] = drawn(self.font, glyph, FINE * self.upem if fine else math.inf)
        return self.outlines[glyph, fine]

    def lacks(self, text: Iterable[str]) -> str:
        """The characters of `text` that it does not map, each once, in order."""
        return "".join(dict.fromkeys(c for c in text if ord(c) not in self.characters and c not in INVISIBLE))


INVISIBLE = " \u200c\u200d\u00a0"  # spaces and joiners: nothing is drawn where a font has none


@lru_cache(maxsize=256)
def open_face(name: str, axes: tuple[tuple[str, float], ...] = ()) -> Face:
    """A shipped font by its name in resources/scripts.yaml, or a font file by its path, at these axes.

    Raises:
        UserError: it is no font, too large, or has no such axis.
    """
    shipped = known().fonts.get(name)
    data = shipped_font(name) if shipped else read_file(name)
    face = hb.Face(hb.Blob(data))
    if not face.glyph_count or not face.upem or not len(face.unicodes):
        raise UserError(f"{name}: it is no font that HarfBuzz can read")
    own = {info.tag: info for info in face.axis_infos}
    for tag, value in axes:
        if tag not in own or not own[tag].min_value <= value <= own[tag].max_value:
            ranges = ", ".join(f"{t} {i.min_value:g} … {i.max_value:g}" for t, i in own.items()) or "none"
            raise UserError(f"{name}: the axis {tag} has no {value:g}; its axes are {ranges}")
    font = hb.Font(face)
    font.set_variations(dict(axes))
    extents = font.get_font_extents("ltr")
    ascent, descent = extents.ascender / face.upem, -extents.descender / face.upem
    words = shipped.words if shipped else ("plain",)
    return Face(name, words, axes, font, ascent, descent, frozenset(face.unicodes))


@lru_cache(maxsize=8)
def font_files(places: tuple[str, ...]) -> tuple[str, ...]:
    """The font files that these are, or that lie below these folders, sorted.

    Raises:
        UserError: a place holds none.
    """
    found: list[str] = []
    for place in places:
        folder = Path(place)
        own = folder.rglob("*") if folder.is_dir() else [folder]
        files = sorted(str(file) for file in own if file.suffix.lower() in SUFFIXES and file.is_file())
        if not files:
            raise UserError(f"fonts: {place} is no font file and no folder with one ({', '.join(sorted(SUFFIXES))})")
        found += files
    return tuple(found)


def read_file(name: str) -> bytes:
    path = Path(name)
    if not path.is_file():
        raise UserError(f"'{name}' is neither a shipped font nor a font file")
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path}: a font of more than {LARGEST >> 20} MiB is not opened")
    return path.read_bytes()


class Pen:
    """What HarfBuzz draws with: points, tags and ends of contours, long pieces divided."""

    def __init__(self, longest: float) -> None:
        self.longest = longest
        self.points: list[tuple[float, float]] = []
        self.tags: list[int] = []
        self.ends: list[int] = []
        self.start = self.at = (0.0, 0.0)

    def move_to(self, x: float, y: float, _: object = None) -> None:
        self.start = self.at = (x, y)
        self.add((x, y), ON)

    def line_to(self, x: float, y: float, _: object = None) -> None:
        parts, (x0, y0) = self.parts((x, y)), self.at
        for i in range(1, parts):
            self.add((x0 + (x - x0) * i / parts, y0 + (y - y0) * i / parts), ON)
        self.add((x, y), ON)

    def quadratic_to(self, cx: float, cy: float, x: float, y: float, _: object = None) -> None:
        (x0, y0), parts = self.at, self.parts((x, y))
        if parts == 1:  # most are: then nothing is computed
            self.add((cx, cy), CONIC)
            self.add((x, y), ON)
            return
        for i in range(parts):
            a, b = i / parts, (i + 1) / parts
            for tag, s, t in ((CONIC, a, b), (ON, b, b)):  # the curve's polar form at two parameters
                u, v, w = (1 - s) * (1 - t), s + t - 2 * s * t, s * t
                self.add((u * x0 + v * cx + w * x, u * y0 + v * cy + w * y), tag)

    def cubic_to(self, ax: float, ay: float, bx: float, by: float, x: float, y: float, _: object = None) -> None:
        corners, parts = (self.at, (ax, ay), (bx, by), (x, y)), self.parts((x, y))
        if parts == 1:
            for tag, point in zip((CUBIC, CUBIC, ON), corners[1:], strict=True):
                self.add(point, tag)
            return
        for i in range(parts):
            a, b = i / parts, (i + 1) / parts
            for tag, at in ((CUBIC, (a, a, b)), (CUBIC, (a, b, b)), (ON, (b, b, b))):
                self.add(polar(corners, at), tag)

    def close_path(self, _: object = None) -> None:
        first = self.ends[-1] + 1 if self.ends else 0
        if self.at != self.start and self.parts(self.start) > 1:
            self.line_to(*self.start)
        if len(self.points) > first:
            self.ends.append(len(self.points) - 1)

    def parts(self, end: tuple[float, float]) -> int:
        """In how many pieces the way from here to `end` is cut."""
        return 1 if self.longest == math.inf else max(1, math.ceil(math.dist(self.at, end) / self.longest))

    def add(self, point: tuple[float, float], tag: int) -> None:
        self.points.append(point)
        self.tags.append(tag)
        if tag == ON:
            self.at = point


def polar(corners: tuple[tuple[float, float], ...], at: tuple[float, ...]) -> tuple[float, float]:
    """The polar form of a Bézier curve (de Casteljau, with another parameter in each round)."""
    for t in at:
        corners = tuple(((1 - t) * x0 + t * x1, (1 - t) * y0 + t * y1) for (x0, y0), (x1, y1) in pairwise(corners))
    return corners[0]


FUNCS = hb.DrawFuncs()
FUNCS.set_move_to_func(lambda x, y, pen: pen.move_to(x, y))
FUNCS.set_line_to_func(lambda x, y, pen: pen.line_to(x, y))
FUNCS.set_quadratic_to_func(lambda cx, cy, x, y, pen: pen.quadratic_to(cx, cy, x, y))
FUNCS.set_cubic_to_func(lambda ax, ay, bx, by, x, y, pen: pen.cubic_to(ax, ay, bx, by, x, y))
FUNCS.set_close_path_func(lambda pen: pen.close_path())


def drawn(font: hb.Font, glyph: int, longest: float) -> Outline:
    """The outline of a glyph in em, with pieces of at most `longest` font units.

    Raises:
        UserError: a glyph of absurdly many points, as only a broken or hostile font has.
    """
    pen = Pen(longest)
    font.draw_glyph(glyph, FUNCS, pen)
    if not pen.ends:
        return EMPTY
    if len(pen.points) > MOST_POINTS:
        raise UserError(f"glyph {glyph} has {len(pen.points)} points; more than {MOST_POINTS} are not drawn")
    points = np.array(pen.points, dtype=np.float64) / font.face.upem
    return Outline(points, np.array(pen.tags, np.uint8), np.array(pen.ends, np.int64))
