"""What a model was trained on: signs with their captions, masks and boxes."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from legible.config import FigureStyle
from legible.figures.page import Page, shorten
from legible.figures.style import SMALL, house_style
from legible.render.dataset import load_images, load_table

BOX_STYLES = (
    ("line_boxes", "line", 1.2, {"linewidth": 1.2, "linestyle": "-"}),
    ("word_boxes", "word", 0.6, {"linewidth": 1.2, "linestyle": (0, (2.5, 2))}),
    ("character_boxes", "character", 0.0, {"linewidth": 0.7, "linestyle": "-"}),
)


@house_style()
def draw(path: Path, style: FigureStyle) -> Figure:
    """Training signs, and beside each its glyph mask (grey) with its boxes; evenly spaced through the table.

    Args:
        path: train.parquet.
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
    page = Page(style.width, top + lines * (tall + below), style.dpi)
    title = (
        f"{len(chosen)} of {len(table)} training signs, evenly spaced; beside each its glyph mask (grey) with its boxes"
    )
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
        caption = shorten(row["caption"].replace("\n", " "), int(cell * 72 / SMALL / 0.58), 2)
        page.text(x, y + tall + 0.04, caption, linespacing=1.1)
    handles = [
        Line2D([], [], color=color, label=f"{label} box", **line_style)
        for (_, label, _, line_style), color in zip(BOX_STYLES, colors, strict=True)
    ]
    place = (0.07 / page.width, 1 - 0.3 / page.height)
    page.figure.legend(handles=handles, loc="upper left", bbox_to_anchor=place, ncols=3, borderaxespad=0)
    return page.figure
