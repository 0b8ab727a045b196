"""How training went: losses and gradient norm of every arm and seed."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from legible.config import FigureStyle
from legible.figures.labels import arm_label, with_control_first
from legible.figures.panels import smooth
from legible.figures.style import (
    INK,
    LINES,
    PALE,
    SMALL,
    arm_colors,
    arm_rounds,
    house_style,
    light_grid,
    log_scale,
    new_figure,
)
from legible.names import CONTROL


def mean_over_seeds(metrics: Mapping[tuple[str, int], pd.DataFrame], arm: str) -> pd.DataFrame:
    """The numbers of one arm's curves per step, averaged over its training seeds."""
    runs = pd.concat([rows for (name, _), rows in metrics.items() if name == arm])
    numbers = runs[["step", "loss_total", "loss_diffusion", "loss_aux", "grad_norm"]].astype(float)
    return numbers.groupby("step").mean().reset_index()


@house_style()
def draw(metrics: Mapping[tuple[str, int], pd.DataFrame], arms: Sequence[str], style: FigureStyle) -> Figure:
    """Diffusion loss, its difference to the control, auxiliary loss and gradient norm over the optimiser steps.

    Where the arms are more than the colours, a broken line tells arms of one colour apart: each arm is then the mean
    of its seeds, without single steps, and the auxiliary losses, which have scales of their own, stand on a log axis.

    Args:
        metrics: (arm, training seed) → rows of metrics.jsonl.
        arms: trained arms.
        style: size and colours.
    """
    order, colors, rounds = with_control_first(arms), arm_colors(arms, style), arm_rounds(arms, style)
    seeds, many = sorted({seed for _, seed in metrics}), max(rounds.values()) > 0
    if many:
        metrics = {(arm, seeds[0]): mean_over_seeds(metrics, arm) for arm in order}
    figure = new_figure(style, 4.4 + 0.15 * (len(order) // 4))
    (loss, difference), (auxiliary, gradient) = figure.subplots(2, 2, sharex=True)
    for arm, seed in sorted(metrics, key=lambda run: (order.index(run[0]), run[1])):
        rows = metrics[arm, seed].set_index("step").astype({"loss_diffusion": float})
        by_rewards = rows["loss_diffusion"].isna().all()
        line = {
            "color": colors[arm],
            "linestyle": LINES[(rounds[arm] if many else seeds.index(seed)) % len(LINES)],
            "linewidth": 2.4 if arm == CONTROL else 0.9 if many else 1.2,
        }
        if not many:
            loss.plot(rows.index, rows["loss_diffusion"], color=colors[arm], alpha=0.18, linewidth=0.6)
            gradient.plot(rows.index, rows["grad_norm"], color=colors[arm], alpha=0.18, linewidth=0.6)
        if not by_rewards:
            loss.plot(rows.index, smooth(rows["loss_diffusion"]), **line)
        gradient.plot(rows.index, smooth(rows["grad_norm"]), **line)
        if arm != CONTROL and (CONTROL, seed) in metrics and not by_rewards:
            control = metrics[CONTROL, seed].set_index("step")["loss_diffusion"]
            both = rows.index.intersection(control.index)  # arms may have numbers of steps of their own
            difference.plot(both, smooth(rows.loc[both, "loss_diffusion"] - control[both]), **line)
        measured = rows["loss_total" if by_rewards else "loss_aux"].dropna().astype(float)
        if len(measured):
            if not many:
                auxiliary.plot(measured.index, measured, ".", color=colors[arm], alpha=0.25, ms=3)
            auxiliary.plot(measured.index, smooth(measured, 0.25), **line)
    if many and auxiliary.lines and min(line.get_ydata().min() for line in auxiliary.lines) > 0:
        log_scale(auxiliary)
    difference.axhline(0, color=INK, linewidth=0.8)
    difference.ticklabel_format(axis="y", style="plain", useOffset=False)
    panels = (
        (loss, "diffusion loss (velocity MSE)"),
        (difference, "diffusion loss minus the control's, same seed"),
        (auxiliary, "auxiliary loss (before λ); of rewards −Σ γ·R"),
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
    handles = [
        loss.plot([], [], color=colors[arm], linestyle=LINES[rounds[arm] % len(LINES)], label=arm_label(arm))[0]
        for arm in order
    ]
    for place, seed in enumerate([] if many else seeds):
        style_of_seed = LINES[place % len(LINES)]
        handles += loss.plot([], [], color=INK, linestyle=style_of_seed, linewidth=1, label=f"training seed {seed}")
    title = "means over training seeds" if many else None
    figure.legend(handles=handles, loc="outside upper center", ncols=min(3 if many else 4, len(handles)), title=title)
    return figure
