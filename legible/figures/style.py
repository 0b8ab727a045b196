"""What all figures share: fonts, colours, and files whose bytes depend on the data only."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from legible.config import FigureStyle
from legible.figures.inputs import BASE, with_control_first
from legible.io import atomic_path

SMALL, NORMAL = 8, 9  # points; nothing is set smaller, so that it can be read in print
INK, PALE, WRONG = "#222222", "#666666", "#D55E00"
SETTINGS = {
    **{"font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.monospace": ["DejaVu Sans Mono"]},
    **{"font.size": NORMAL, "axes.titlesize": NORMAL, "axes.labelsize": NORMAL, "legend.fontsize": SMALL},
    **{"xtick.labelsize": SMALL, "ytick.labelsize": SMALL, "figure.titlesize": 10},
    **{"text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": PALE, "xtick.color": INK, "ytick.color": INK},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.grid": False, "legend.frameon": False},
    # Prompts and readings are text, and "$x$" in them is no formula.
    **{"text.parse_math": False, "text.usetex": False, "axes.unicode_minus": True, "lines.linewidth": 1.4},
    **{"pdf.fonttype": 42, "figure.facecolor": "white", "savefig.facecolor": "white", "savefig.bbox": None},
}


def house_style() -> AbstractContextManager:
    """The settings of all figures, whatever the user's own matplotlibrc says; a context manager and a decorator."""
    # Looking up the backend would choose one, and start a window system where there is one.
    defaults = {key: matplotlib.rcParamsDefault[key] for key in matplotlib.rcParamsDefault if key != "backend"}
    return matplotlib.rc_context({**defaults, **SETTINGS})


def drawable(text: str) -> str:
    """`text` with every character that the figures' font lacks (say, Chinese) written as its code point, ⟨6F22⟩."""
    return "".join(c if ord(c) in glyphs() else f"⟨{ord(c):X}⟩" for c in text)


@cache
def glyphs() -> frozenset[int]:
    """Code points of the font that readings are set in."""
    return frozenset(get_font(findfont(FontProperties(family="DejaVu Sans Mono"))).get_charmap())


def new_figure(style: FigureStyle, height: float = 0.0) -> Figure:
    """An empty figure of the style's size, or as high as its content needs at least (inches)."""
    return Figure(figsize=(style.width, max(style.height, height)), dpi=style.dpi, layout="constrained")


def arm_colors(arms: Sequence[str], style: FigureStyle) -> dict[str, str]:
    """Colour of the base model, the control and each further arm; the style's colours repeat when they run out."""
    order = [BASE, *with_control_first(arms)]
    return {arm: style.colors[i % len(style.colors)] for i, arm in enumerate(order)}


def light_grid(axes: Axes, axis: str) -> None:
    """Thin lines behind the data, along one axis."""
    axes.grid(True, axis=axis, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def save_figure(figure: Figure, png: str | Path) -> Path:
    """Write `figure` as PNG and, beside it, as PDF, each atomically; returns the PDF's path.

    The files hold no date and no program version: equal figures are equal bytes.
    """
    png = Path(png)
    pdf = png.with_suffix(".pdf")
    with house_style():
        with atomic_path(png) as path:
            figure.savefig(path, format="png", dpi=figure.dpi, metadata={"Software": None})
        with atomic_path(pdf) as path:
            nothing = {"CreationDate": None, "Creator": None, "Producer": None}
            figure.savefig(path, format="pdf", dpi=max(figure.dpi, 300), metadata=nothing)
    return pdf
