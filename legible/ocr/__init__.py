"""OCR engines behind one interface: image → readings. One file per engine; raw readings are kept with its version."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image

from legible.config import JUDGES, Ocr, Section
from legible.errors import UserError

Polygon = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Reading:
    """One piece of text that an engine read.

    `polygon` holds the four corners (x, y), clockwise from the top left, in pixels of the original image;
    `confidence` is the engine's own, 0 … 1, and not comparable between engines.
    """

    polygon: Polygon
    text: str
    confidence: float


SURE = 0.7  # confidence from which a line that a detector found counts as text


def is_text(text: str, confidence: float) -> bool:
    """Whether a line that a detector found is text: at least two different letters or digits, surely enough.

    Rings, checks and dots read as OOO, 88 or 0 by themselves: that is one character again and again.
    """
    return confidence >= SURE and len({c for c in text.upper() if c.isalnum()}) > 1


@dataclass(frozen=True)
class Engine:
    """An opened engine. `read` takes an image of any mode and size; an empty list means that it read nothing."""

    name: str
    version: str
    read: Callable[[Image.Image], list[Reading]]


def open_engine(name: str, section: Section, cache_dir: str | Path) -> Engine:
    """Open the judge `name` of the registry with its own section; what it has to write goes to `cache_dir`.

    Raises:
        UserError: no such engine, or its networks are missing or unusable.
    """
    if name not in JUDGES or not isinstance(section, Ocr.model_fields[name].annotation):
        raise UserError(f"ocr.{name}: no such engine; allowed are {', '.join(JUDGES)}, each with its own section")
    # Imported here: each engine takes a second or more to import, and a job uses one of them.
    return import_module(JUDGES[name].module).open_engine(section, Path(cache_dir))


def enlarged_bgr(image: Image.Image, scale: int) -> np.ndarray:
    """`image` enlarged (bicubic) as uint8 [scale·H, scale·W, 3], blue first, as both engines expect arrays."""
    large = image.convert("RGB").resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(large)[..., ::-1])


def whole_image(image: Image.Image) -> Polygon:
    """The corners of the image: the polygon of a reading that was not localised."""
    width, height = float(image.width), float(image.height)
    return ((0.0, 0.0), (width, 0.0), (width, height), (0.0, height))


def to_reading(polygon: Iterable[Iterable[float]], text: str, confidence: float, scale: float = 1.0) -> Reading:
    """An engine's raw values as a Reading; coordinates are divided by `scale`.

    Raises:
        ValueError: not four corners, or a confidence that is not a number: the engine is broken, so its job must fail.
    """
    corners = tuple((float(x) / scale, float(y) / scale) for x, y in polygon)
    if len(corners) != 4:
        raise ValueError(f"a reading needs four corners, got {len(corners)}")
    # Engines multiply probabilities in float32 and can end up at 1 + 1e-7.
    confidence = min(float(confidence), 1.0)
    if not confidence >= 0:
        raise ValueError(f"a confidence must lie in 0 … 1, got {confidence}")
    return Reading(corners, text, confidence)


def in_reading_order(readings: Iterable[Reading]) -> list[Reading]:
    """Top to bottom by lines, left to right within a line, whatever order the engine returned.

    A reading joins the current line when it overlaps the line's first (topmost) reading vertically by at least half of
    the lower one of the two; otherwise it begins a new line.
    """
    lines: list[list[Reading]] = []
    for reading in sorted(readings, key=lambda r: (sum(y for _, y in r.polygon), min(r.polygon), r.text)):
        if lines and _same_line(lines[-1][0], reading):
            lines[-1].append(reading)
        else:
            lines.append([reading])
    return [r for line in lines for r in sorted(line, key=lambda r: (min(x for x, _ in r.polygon), r.polygon, r.text))]


def _same_line(a: Reading, b: Reading) -> bool:
    (top_a, bottom_a), (top_b, bottom_b) = _vertical_extent(a), _vertical_extent(b)
    overlap = min(bottom_a, bottom_b) - max(top_a, top_b)
    return overlap > 0 and overlap >= 0.5 * min(bottom_a - top_a, bottom_b - top_b)


def _vertical_extent(reading: Reading) -> tuple[float, float]:
    heights = [y for _, y in reading.polygon]
    return min(heights), max(heights)
