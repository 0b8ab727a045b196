"""Calibration: what a judge gets wrong by itself, on clean lines of a script: black on white, upright, nothing else.

A judge is used for a script only where it reads these: what it makes of a model's pictures cannot be better.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from legible.config import Scoring
from legible.config.scripts import JudgeEntry, script_called, words_of
from legible.corpus.text import UNSPACED, characters, normalize
from legible.errors import UserError
from legible.metrics.text import edit_counts
from legible.ocr import Engine, in_reading_order
from legible.render.faces import open_face
from legible.render.layout import block_of, flat
from legible.render.raster import laid
from legible.render.shaping import Shaped, Unshapable, shape
from legible.render.typeset import typeset

LIMIT = float(Scoring().judge_limit)  # CER on clean lines above which a judge is no judge of a script
KINDS = {"words": 1, "phrases": 3}  # → words in a line


@dataclass(frozen=True)
class Calibrated:
    """How one judge read the clean lines of one font at one size: `errors` of `characters` (graphemes)."""

    script: str
    engine: str
    font: str
    size: int
    kind: str
    lines: int
    characters: int
    errors: int
    unread: int

    @property
    def cer(self) -> float:
        return self.errors / self.characters


def clean_lines(
    name: str, font: str, size: int, kind: str, count: int, margin: int, languages: Sequence[str] = ()
) -> Iterator[tuple[str, Image.Image]]:
    """Lines in these languages (empty: all of the script) and their pictures; what the font lacks is left out."""
    script, rng = script_called(name), np.random.default_rng((size, count, KINDS[kind]))
    face, drawn, spoken = open_face(font), 0, languages or script.languages
    for _ in range(20 * count):
        if drawn == count:
            return
        listed = words_of(spoken[int(rng.integers(len(spoken)))])
        text = " ".join(listed[int(i)] for i in rng.integers(0, len(listed), KINDS[kind]))
        try:
            line = shape(text, face, script.code, script.languages[0], direction=script.direction)
        except Unshapable:
            continue
        drawn += 1
        yield text, pictured(line, size, margin)


def pictured(line: Shaped, size: int, margin: int) -> Image.Image:
    """A shaped line in black on white, `margin` pixels free around its ink."""
    block = block_of([line])
    height, width = (int(np.ceil(side * size)) + 4 * size for side in (block.height, block.width))
    done = typeset(block, flat(float(size), 2 * size, 2 * size), float(size), (height, width), bends=False)
    boxes = np.array([cluster.ink_box for cluster in done.clusters if cluster.ink_box])
    x0, y0, x1, y1 = (*boxes[:, :2].min(0) - margin, *boxes[:, 2:].max(0) + margin)
    coverage, _ = laid(done.inks, (int(x0), int(y0), int(x1), int(y1)))
    return Image.fromarray(255 - coverage).convert("RGB")


def calibrate(
    engine: Engine, name: str, sizes: Sequence[int] = (24, 40), count: int = 30, entry: JudgeEntry | None = None
) -> Iterator[Calibrated]:
    """Read the clean lines of a script in each of its fonts, words and phrases, at each size (pixels to the em)."""
    entry = entry or JudgeEntry()
    for font in script_called(name).fonts:
        for size in sizes:
            for kind in KINDS:
                wanted = total = wrong = unread = 0
                for text, picture in clean_lines(name, font, size, kind, count, entry.margin, entry.languages):
                    reading = " ".join(found.text for found in in_reading_order(engine.read(picture)))
                    target, read = (characters(compared(t)) for t in (text, reading))
                    total, wanted = total + len(target), wanted + 1
                    wrong += edit_counts(target, read).distance
                    unread += not read
                yield Calibrated(name, engine.name, font, size, kind, wanted, total, wrong, unread)


def compared(text: str) -> str:
    """Under the lenient profile; scripts that are written without spaces are compared without them."""
    text = normalize(text, "lenient")
    return text.replace(" ", "") if UNSPACED.search(text) else text


def fit_for(rows: Sequence[Calibrated], name: str, engine: str) -> list[tuple[str, int]]:
    """The fonts and sizes at which an engine may judge a script: words and phrases both at most LIMIT.

    Raises:
        UserError: there is none.
    """
    worst: dict[tuple[str, int], float] = {}
    for row in rows:
        if (row.script, row.engine) == (name, engine):
            place = row.font, row.size
            worst[place] = max(row.cer, worst.get(place, 0.0))
    if good := [place for place, cer in worst.items() if cer <= LIMIT]:
        return good
    if not worst:
        raise UserError(f"{engine} has not been calibrated for {name}")
    raise UserError(
        f"{engine} cannot judge {name}: of clean words or phrases it gets {min(worst.values()):.3f} of the characters "
        f"wrong at best, {LIMIT} may be"
    )
