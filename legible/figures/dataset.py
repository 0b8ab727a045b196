"""What a model was trained on: pictures with their captions, masks and boxes; and what the text engine can draw."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, Rectangle

from legible.config import FigureStyle
from legible.figures.page import Page, shorten
from legible.figures.style import PALE, SMALL, drawable, house_style
from legible.render.dataset import load_images, load_table, read_columns
from legible.render.records import decoded

SHOWN = ["lines", "words", "clusters", "image", "mask"]
ACROSS, GAP, NAME = 5, 0.07, 0.17  # pictures in a row of the showcase; inches between them, and for their names

BOX_STYLES = (
    ("line_boxes", "line", 1.2, {"linewidth": 1.2, "linestyle": "-"}),
    ("word_boxes", "word", 0.6, {"linewidth": 1.2, "linestyle": (0, (2.5, 2))}),
    ("character_boxes", "character", 0.0, {"linewidth": 0.7, "linestyle": "-"}),
)


@house_style()
def draw(path: Path, showcase: Path, style: FigureStyle) -> Figure:
    """Training pictures, and beside each its glyph mask (grey) with its boxes; under them one of each script.

    Args:
        path: train.parquet; the pictures shown are evenly spaced in it.
        showcase: what draw_showcase wrote.
        style: size, dpi, colours of the boxes (second to fourth) and number of `examples`.
    """
    table, images, masks = load_table(path), load_images(path), load_images(path, "mask")
    chosen = sorted(set(np.linspace(0, len(table) - 1, min(style.examples, len(table))).round().astype(int).tolist()))
    columns = min(2, len(chosen))
    lines = -(-len(chosen) // columns)
    top, below = 0.62, 0.46
    cell = (style.width - 0.2) / columns
    wide = (cell - 0.3) / 2
    tall = max(0.34, min((style.height - top) / lines - below, wide * images.shape[1] / images.shape[2]))
    wide = min(wide, tall * images.shape[2] / images.shape[1])
    pictures = read_columns(showcase, SHOWN).to_pylist()
    end = top + lines * (tall + below)
    page = Page(style.width, end + showcase_height(style.width, pictures), style.dpi)
    title = f"{len(chosen)} of {len(table)} training pictures, evenly spaced; beside each its glyph mask with its boxes"
    page.text(0.1, 0.1, title, fontsize=9)
    colors = [style.colors[i % len(style.colors)] for i in (1, 2, 3)]
    for i, index in enumerate(chosen):
        x, y = 0.1 + cell * (i % columns), top + (tall + below) * (i // columns)
        row = table.iloc[index]
        page.picture(images[index], x, y, wide, tall)
        # Pale ink on white: on the picture itself the boxes would hide the letters or vanish in the background.
        axes = page.picture((255 - 0.35 * masks[index]).astype(np.uint8), x + wide + 0.1, y, wide, tall)
        for (name, _, outside, line_style), color in zip(BOX_STYLES, colors, strict=True):
            for x0, y0, x1, y1 in row[name]:
                # Nested boxes often coincide; a small step outwards keeps them apart.
                corner, size = (x0 - outside, y0 - outside), (x1 - x0 + 2 * outside, y1 - y0 + 2 * outside)
                axes.add_patch(Rectangle(corner, *size, fill=False, ec=color, **line_style))
        caption = shorten(drawable(row["caption"].replace("\n", " ")), int(cell * 72 / SMALL / 0.58), 2)
        page.text(x, y + tall + 0.04, caption, linespacing=1.1)
    draw_showcase(page, end, pictures, colors)
    handles = [
        Line2D([], [], color=color, label=f"{label} box", **line_style)
        for (_, label, _, line_style), color in zip(BOX_STYLES, colors, strict=True)
    ]
    place = (0.07 / page.width, 1 - 0.3 / page.height)
    page.figure.legend(handles=handles, loc="upper left", bbox_to_anchor=place, ncols=3, borderaxespad=0)
    return page.figure


def showcase_cell(width: float, row: dict) -> tuple[float, float]:
    """Width and height in inches of one of the showcase's pictures, `ACROSS` of them side by side."""
    high, wide = decoded(row["image"]["bytes"]).shape[:2]
    cell = (width - 0.2 - GAP * (ACROSS - 1)) / ACROSS
    return cell, cell * high / wide


def showcase_height(width: float, pictures: list[dict]) -> float:
    """Inches that the showcase takes, its heading included."""
    _, tall = showcase_cell(width, pictures[0])
    return 0.5 + -(-len(pictures) // ACROSS) * (2 * tall + 3 * GAP + NAME)


def draw_showcase(page: Page, top: float, pictures: list[dict], colors: list[str]) -> None:
    """Pictures in rows, and under each what its labels say: the mask, words and, in their outlines, clusters."""
    title = "What else the text engine draws (docs/TEXT_ENGINE.md): a picture of each script, under it its labels"
    page.text(0.1, top + 0.12, title, fontsize=9)
    wide, tall = showcase_cell(page.width, pictures[0])
    for number, row in enumerate(pictures):
        x = 0.1 + (number % ACROSS) * (wide + GAP)
        y = top + 0.4 + (number // ACROSS) * (2 * tall + 3 * GAP + NAME)
        page.picture(decoded(row["image"]["bytes"]), x, y, wide, tall)
        page.text(x, y + tall + 0.02, row["lines"][0]["script"], color=PALE)
        ink = (255 - 0.35 * decoded(row["mask"]["bytes"])).astype(np.uint8)
        axes = page.picture(ink, x, y + tall + NAME, wide, tall)
        for labels, key, color, width in (("words", "polygon", colors[1], 0.8), ("clusters", "quad", colors[2], 0.5)):
            for label in row[labels]:
                corners = np.array(label[key]).reshape(-1, 2)
                axes.add_patch(Polygon(corners, fill=False, ec=color, linewidth=width))
