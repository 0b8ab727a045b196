"""How the spelling of validation prompts went while every arm trained, and where it was best."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from legible.config import FigureStyle
from legible.figures.labels import arm_label, with_control_first
from legible.figures.style import (
    LINES,
    PALE,
    arm_colors,
    arm_rounds,
    house_style,
    light_grid,
    new_figure,
    side_labels,
)
from legible.names import CONTROL


def best_of(runs: pd.DataFrame) -> pd.DataFrame:
    """The row of each arm and training seed with the lowest CER; of equal ones the earlier."""
    return runs.sort_values(["cer", "step"]).drop_duplicates(["arm", "training_seed"])


def mean_curve(runs: pd.DataFrame) -> pd.DataFrame:
    """The mean over one arm's training seeds at the steps to which all of them came: `step`, `cer`."""
    found = runs.groupby("step")["cer"].agg(["mean", "size"])
    whole = found[found["size"] == runs["training_seed"].nunique()]
    return whole["mean"].rename("cer").reset_index()


@house_style()
def draw(validation: pd.DataFrame, arms: Sequence[str], style: FigureStyle) -> Figure:
    """Validation CER against optimiser steps: arms as strong lines, seeds as thin ones, their best as rings.

    Args:
        validation: rows of `legible.figures.inputs.read_validation`.
        arms: trained arms.
        style: size and colours.
    """
    colors, rounds = arm_colors(arms, style), arm_rounds(arms, style)
    order = with_control_first(arms)
    figure = new_figure(style, max(style.height, 1.0 + 0.17 * len(order)))
    axes = figure.subplots()
    ends, best = {}, best_of(validation)
    for arm in order:
        mine = validation[validation["arm"] == arm].sort_values("step")
        line = {"color": colors[arm], "linestyle": LINES[rounds[arm] % len(LINES)]}
        for _, seed in mine.groupby("training_seed"):
            axes.plot(seed["step"], seed["cer"], linewidth=0.5, alpha=0.45, **line)
        mean = mean_curve(mine)
        axes.plot(mean["step"], mean["cer"], linewidth=2.4 if arm == CONTROL else 1.3, **line)
        rings = best[best["arm"] == arm]
        axes.plot(
            rings["step"], rings["cer"], linestyle="none", marker="o", ms=5, mfc="none", color=colors[arm], zorder=3
        )
        ends[arm] = (float(mean["step"].iloc[-1]), float(mean["cer"].iloc[-1]))
    start = validation[validation["step"] == 0]["cer"]
    if len(start):
        axes.axhline(start.mean(), color=PALE, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    light_grid(axes, "y")
    axes.set_ylim(0, 1.05 * validation["cer"].max())
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("optimiser steps")
    axes.set_ylabel("character error rate   ← better")
    prompts = int(validation["prompts"].iloc[0])
    axes.set_title(
        f"{prompts} validation prompts; mean over seeds (thin: single ones), rings: best of each; dotted: untrained",
        loc="left",
        fontsize=9,
    )
    side_labels(axes, list(ends.values()), list(map(arm_label, ends)), [colors[arm] for arm in ends])
    return figure
