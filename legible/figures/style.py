"""What all figures share: fonts, colours, and files whose bytes depend on the data only."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from legible.config import FigureStyle
from legible.figures.labels import with_control_first
from legible.io import atomic_path
from legible.names import BASE

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


MARKERS, LINES = "os^DvPX", ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))


def arm_colors(arms: Sequence[str], style: FigureStyle) -> dict[str, str]:
    """Colour of the base model, the control and each further arm.

    When the style's colours run out, the arms' repeat, with another marker and line (`arm_rounds`); those of the base
    model and the control are theirs alone.
    """
    order, free = [BASE, *with_control_first(arms)], len(style.colors) - 2
    return {arm: style.colors[i if i < 2 else 2 + (i - 2) % free] for i, arm in enumerate(order)}


def arm_rounds(arms: Sequence[str], style: FigureStyle) -> dict[str, int]:
    """How often an arm's colour was given away before: 0 for base, control and the first arms, then 1, …"""
    order, free = [BASE, *with_control_first(arms)], len(style.colors) - 2
    return {arm: max(0, i - 2) // free for i, arm in enumerate(order)}


def side_labels(axes: Axes, places: Sequence[tuple[float, float]], names: Sequence[str], colors: Sequence[str]) -> None:
    """Names in a column right of the panel, in the order of their points' heights, each joined to its point by a line.

    Unlike labels beside the points these never cover one another. Call it when the axes' limits are final.

    Args:
        axes: the panel; its limits are taken as they are.
        places: x and y of the points, in data.
        names: what stands in the margin.
        colors: of the lines.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [float(to_axes.transform(place)[1]) for place in places]
    rank = sorted(range(len(places)), key=lambda i: (heights[i], names[i]))
    panel = axes.get_position().height * axes.figure.get_figheight()
    spread = spread_out([heights[i] for i in rank], 0.15 / panel)
    for place, height in zip(rank, spread, strict=True):
        axes.annotate(
            drawable(names[place]), places[place], (1.03, height), textcoords="axes fraction", va="center",
            fontsize=SMALL, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colors[place], "linewidth": 0.5, "alpha": 0.7,
                        "shrinkA": 1, "shrinkB": 2, "relpos": (0, 0.5)},
        )  # fmt: skip


def spread_out(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights moved apart to at least `gap`, as little as possible, and into 0 … 1 where all have room.

    Neighbours in conflict stand around the mean of their heights.
    """
    groups: list[tuple[float, int]] = []
    for height in heights:
        groups.append(into_panel(height, 1, gap))
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < gap * (groups[-1][1] + groups[-2][1]) / 2:
            (upper, n), (lower, m) = groups.pop(), groups.pop()
            groups.append(into_panel((upper * n + lower * m) / (n + m), n + m, gap))
    return [middle + gap * (i - (count - 1) / 2) for middle, count in groups for i in range(count)]


def into_panel(middle: float, count: int, gap: float) -> tuple[float, int]:
    """A group of `count` labels, moved so that all stand between 0 and 1; in the middle when they are too many."""
    half = min(0.5, gap * (count - 1) / 2)
    return min(max(middle, half), 1 - half), count


def log_scale(axes: Axes) -> None:
    """A logarithmic y axis with plain numbers: matplotlib's own are formulas, and text is no formula here.

    Call it when the lines are drawn. Over more than three powers of ten each has one number: of three to each
    matplotlib would draw none at all.
    """
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high <= 1000 * low else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


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
