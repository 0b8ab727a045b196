"""How strong each loss was beside the diffusion loss, over the steps."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from legible.config import FigureStyle
from legible.figures.labels import arm_label, with_control_first
from legible.figures.panels import smooth
from legible.figures.style import (
    INK,
    LINES,
    MARKERS,
    PALE,
    SMALL,
    arm_colors,
    arm_rounds,
    house_style,
    light_grid,
    log_scale,
    new_figure,
    side_labels,
)
from legible.metrics.training import gradient_ratio
from legible.names import CONTROL


def weights_of(metrics: Mapping[tuple[str, int], pd.DataFrame], arm: str) -> pd.DataFrame:
    """λ, ratio of the gradients' norms (auxiliary · λ / diffusion) and cosine of one arm per step, mean over seeds."""
    runs = [rows.set_index("step") for (name, _), rows in metrics.items() if name == arm]
    numbers = pd.concat([rows[["lambda", "grad_norm_diffusion", "grad_norm_aux", "grad_cosine"]] for rows in runs])
    numbers = numbers.astype(float)
    columns = {"lambda": numbers["lambda"], "ratio": gradient_ratio(numbers), "cosine": numbers["grad_cosine"]}
    return pd.DataFrame(columns).replace([np.inf, -np.inf], np.nan).groupby(level="step").mean()


@house_style()
def draw(metrics: Mapping[tuple[str, int], pd.DataFrame], arms: Sequence[str], style: FigureStyle) -> Figure:
    """λ over the steps where it varies, and beside the diffusion loss the strength and direction of every arm's loss.

    Args:
        metrics: (arm, training seed) → rows of metrics.jsonl with `inputs.WEIGHTS`.
        arms: trained arms.
        style: size and colours.
    """
    order, colors, rounds = with_control_first(arms), arm_colors(arms, style), arm_rounds(arms, style)
    weights = {arm: weights_of(metrics, arm) for arm in order if arm != CONTROL}
    figure = new_figure(style, 3 * max(1.5, 0.4 + 0.17 * len(weights)))
    panels = figure.subplots(3, 1, sharex=True)
    titles = ("λ of the arms that change it", "λ · ‖∇ auxiliary‖ / ‖∇ diffusion‖", "cosine of both gradients")
    for axes, column, title in zip(panels, ("lambda", "ratio", "cosine"), titles, strict=True):
        ends = {}
        for arm, frame in weights.items():
            values = frame[column].dropna()
            if values.empty or (column == "lambda" and np.ptp(values) <= 1e-9 * np.abs(values).max()):
                continue
            line, line_style = values if column == "lambda" else smooth(values, 0.15), {"color": colors[arm]}
            marker = MARKERS[rounds[arm] % len(MARKERS)]
            if column != "lambda":
                axes.plot(values.index, values, marker, ms=2.5, alpha=0.3, **line_style)
            axes.plot(
                line.index, line, linestyle=LINES[rounds[arm] % len(LINES)], marker=marker, ms=4,
                markevery=max(1, len(line) // 6), **line_style,
            )  # fmt: skip
            ends[arm] = (float(line.index[-1]), float(line.iloc[-1]))
        finish_weights(axes, column, ends, colors)
        axes.set_title(title, loc="left")
    panels[-1].set_xlabel("optimiser step")
    figure.suptitle("Mean over training seeds; dots: measurements, lines: running mean", x=0.01, ha="left", fontsize=9)
    return figure


def finish_weights(axes: Axes, column: str, ends: Mapping[str, tuple[float, float]], colors: Mapping[str, str]) -> None:
    """Scale, reference line and names of one panel of `adaptive_weights`; without any line it says so."""
    light_grid(axes, "y")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if not ends:
        nothing = "no arm changes its λ" if column == "lambda" else "not measured"
        axes.text(0.5, 0.5, nothing, transform=axes.transAxes, ha="center", color=PALE, fontsize=SMALL)
        return
    if column == "cosine":
        axes.axhline(0, color=INK, linewidth=0.8)
    elif min(line.get_ydata().min() for line in axes.lines) > 0:
        log_scale(axes)
    side_labels(axes, list(ends.values()), list(map(arm_label, ends)), [colors[arm] for arm in ends])
