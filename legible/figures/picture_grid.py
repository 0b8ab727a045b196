"""Rows of prompts, columns of models: pictures with what the judges read in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from legible.config import FigureStyle
from legible.corpus.text import PROFILE_VERSIONS
from legible.errors import UserError
from legible.figures.inputs import read_rows
from legible.figures.labels import engine_label
from legible.figures.page import Page, Read, break_name, shorten
from legible.figures.style import PALE, SMALL, WRONG, house_style
from legible.io import read_jsonl
from legible.names import CEILINGS

LINE = 0.15  # inches from one line of small text to the next
LABEL = 1.6  # inches for the prompt, left of the pictures
MANIFEST = ("file", "prompt_id", "image_seed", "prompt")


@dataclass(frozen=True, eq=False)
class Cell:
    """A picture, uint8 [H, W, 3], and its readings, one per engine in the same order everywhere."""

    image: np.ndarray
    reads: tuple[Read, ...]


@dataclass(frozen=True, eq=False)
class Row:
    """One prompt: its targets, the prompt itself, a heading above the row (where it changes), and a cell per model."""

    target: str
    prompt: str
    heading: str
    note: str
    cells: tuple[Cell, ...]


def load_rows(
    images: Path,
    scores: pd.DataFrame,
    keys: Sequence[tuple[str, str, int]],
    models: Sequence[str],
    headings: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> list[Row]:
    """The pictures of `models` for every key, with their readings.

    A ceiling is rendered once per prompt, so its only image stands for every image seed. `images`: the folder of all.

    Raises:
        UserError: a manifest, a picture or a score is missing.
    """
    found = {}
    for prompt_set in sorted({key[0] for key in keys}):
        for model in models:
            path = images / model / prompt_set / "manifest.jsonl"
            read_rows(path, MANIFEST, "generate")
            for row in read_jsonl(path):
                seed = None if model in CEILINGS else row["image_seed"]
                found[model, prompt_set, row["prompt_id"], seed] = row
    rows = []
    for place, (prompt_set, prompt_id, seed) in enumerate(keys):
        cells, prompt, target = [], "", ""
        for model in models:
            folder = images / model / prompt_set
            entry = found.get((model, prompt_set, prompt_id, None if model in CEILINGS else seed))
            if entry is None:
                raise UserError(f"{folder / 'manifest.jsonl'}: no image of {prompt_id}, seed {seed}; generate it again")
            own = scores[(scores["model"] == model) & (scores["prompt_set"] == prompt_set)]
            own = own[own["file"] == entry["file"]].sort_values("engine")
            if own.empty:
                raise UserError(f"scores.parquet: {model}/{prompt_set}/{entry['file']} has no score; score it again")
            cells.append(Cell(open_picture(folder / entry["file"]), tuple(map(to_read, own.to_dict("records")))))
            prompt, target = entry["prompt"], own["target"].iloc[0]
        heading = headings[place] if headings else ""
        rows.append(Row(target, prompt, heading, notes[place] if notes else "", tuple(cells)))
    return rows


def to_read(score: dict) -> Read:
    """One row of the scores as a reading."""
    profile = next((p for p, version in PROFILE_VERSIONS.items() if version == score["normalization"]), "strict")
    return Read(score["engine"], score["target"], score["reading"], profile, score["cer"])


def open_picture(path: Path) -> np.ndarray:
    """A PNG as uint8 [H, W, 3]."""
    try:
        return np.asarray(Image.open(path).convert("RGB"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such image; run the generate stage again") from error
    except OSError as error:
        raise UserError(f"{path}: the image is damaged; delete it and run the generate stage again") from error


@house_style()
def picture_grid(rows: Sequence[Row], names: Sequence[str], title: str, style: FigureStyle) -> Figure:
    """Rows of prompts, columns of models; under each picture what every engine read, wrong characters marked, and CER.

    Args:
        rows: at least one; all with as many cells as there are `names`, and the same engines.
        names: headings of the columns.
        title: one or two sentences above everything.
        style: size and dpi; the figure grows where pictures would be lower than 0.3 inches.
    """
    engines = [engine_label(read.engine) for read in rows[0].cells[0].reads]
    cell = (style.width - LABEL - 0.1) / len(names)
    names = [break_name(name, int(cell * 72 / SMALL / 0.68)) for name in names]
    rows_of_names = max(len(name.splitlines()) for name in names)
    top = 0.1 + LINE * (len(title.splitlines()) + 2 + rows_of_names) + 0.12
    headings = [row.heading != (rows[i - 1].heading if i else "") for i, row in enumerate(rows)]
    below = LINE * len(engines) + 0.16
    fixed = top + 0.22 * sum(headings) + below * len(rows)
    # A wide picture in a narrow column needs less height: rows move together and the figure ends earlier.
    ratio = max(row.cells[0].image.shape[0] / row.cells[0].image.shape[1] for row in rows)
    tall = max(0.34, min((style.height - fixed) / len(rows), (cell - 0.08) * ratio))
    page = Page(style.width, fixed + tall * len(rows), style.dpi)
    page.text(0.1, 0.1, title, fontsize=9)
    hint = 0.1 + LINE * len(title.splitlines()) + 0.04
    page.text(0.1, hint, f"Below each picture: what {' and (next line) '.join(engines)} read, and its CER (0 is best).")
    page.text(0.1, hint + LINE, "Wrong characters are bold and orange, a missing one is _", color=WRONG, weight="bold")
    for i, name in enumerate(names):
        page.text(LABEL + cell * (i + 0.5), top - 0.05, name, ha="center", va="bottom", weight="bold")
    y = top
    for row, heading in zip(rows, headings, strict=True):
        if heading:
            page.text(0.1, y + 0.02, row.heading, fontsize=9, weight="bold")
            y += 0.22
        page.text(0.1, y, shorten(row.target, 18, 1), fontsize=9, weight="bold")
        page.text(LABEL - 0.1, y, row.note, ha="right")
        room = int((tall + below - 0.17 - 0.08) / 0.13)
        page.text(0.1, y + 0.17, shorten(row.prompt, 22, room), color=PALE, linespacing=1.1)
        for i, picture in enumerate(row.cells):
            left = LABEL + cell * i
            page.picture(picture.image, left + 0.04, y, cell - 0.08, tall)
            for line, read in enumerate(picture.reads):
                width = int((cell * 72 / SMALL - 3.2) / 0.61)
                page.reading(left + cell / 2, y + tall + 0.04 + LINE * line, read, width)
        y += tall + below
    return page.figure
