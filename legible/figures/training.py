"""Figure of the training: losses and gradient norm of every arm and seed."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from legible.config import FigureStyle
from legible.figures.inputs import CONTROL, arm_label, with_control_first
from legible.figures.style import INK, PALE, SMALL, arm_colors, house_style, light_grid, new_figure

LINES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))


def smooth(values: pd.Series, share: float = 0.1) -> pd.Series:
    """Centred running mean over `share` of all rows (at least 3)."""
    window = max(3, round(share * len(values)))
    return values.rolling(window, min_periods=1, center=True).mean()


@house_style()
def training_curves(metrics: Mapping[tuple[str, int], pd.DataFrame], arms: Sequence[str], style: FigureStyle) -> Figure:
    """Diffusion loss, its difference to the control, auxiliary loss and gradient norm over the optimiser steps.

    Args:
        metrics: (arm, training seed) → rows of metrics.jsonl.
        arms: trained arms.
        style: size and colours.
    """
    order, colors = with_control_first(arms), arm_colors(arms, style)
    seeds = sorted({seed for _, seed in metrics})
    figure = new_figure(style, 4.4)
    (loss, difference), (auxiliary, gradient) = figure.subplots(2, 2, sharex=True)
    for arm, seed in sorted(metrics, key=lambda run: (order.index(run[0]), run[1])):
        rows = metrics[arm, seed].set_index("step")
        line = {
            "color": colors[arm],
            "linestyle": LINES[seeds.index(seed) % len(LINES)],
            "linewidth": 2.4 if arm == CONTROL else 1.2,
        }
        loss.plot(rows.index, rows["loss_diffusion"], color=colors[arm], alpha=0.18, linewidth=0.6)
        loss.plot(rows.index, smooth(rows["loss_diffusion"]), **line)
        gradient.plot(rows.index, rows["grad_norm"], color=colors[arm], alpha=0.18, linewidth=0.6)
        gradient.plot(rows.index, smooth(rows["grad_norm"]), **line)
        if arm != CONTROL and (CONTROL, seed) in metrics:
            control = metrics[CONTROL, seed].set_index("step")["loss_diffusion"]
            difference.plot(rows.index, smooth(rows["loss_diffusion"] - control), **line)
        measured = rows["loss_aux"].dropna().astype(float)
        if len(measured):
            auxiliary.plot(measured.index, measured, ".", color=colors[arm], alpha=0.25, ms=3)
            auxiliary.plot(measured.index, smooth(measured, 0.25), **line)
    difference.axhline(0, color=INK, linewidth=0.8)
    difference.ticklabel_format(axis="y", style="plain", useOffset=False)
    panels = (
        (loss, "diffusion loss (velocity MSE)"),
        (difference, "diffusion loss minus the control's, same seed"),
        (auxiliary, "auxiliary loss (before λ)"),
        (gradient, "gradient norm (before clipping)"),
    )
    for axes, title in panels:
        light_grid(axes, "y")
        axes.set_title(title, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if not axes.lines or (axes is difference and len(axes.lines) == 1):
            axes.text(0.5, 0.6, "no arm has one", transform=axes.transAxes, ha="center", color=PALE, fontsize=SMALL)
    for axes in (auxiliary, gradient):
        axes.set_xlabel("optimiser step")
    handles = [loss.plot([], [], color=colors[arm], label=arm_label(arm))[0] for arm in order]
    for place, seed in enumerate(seeds):
        style_of_seed = LINES[place % len(LINES)]
        handles += loss.plot([], [], color=INK, linestyle=style_of_seed, linewidth=1, label=f"training seed {seed}")
    figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)))
    return figure
