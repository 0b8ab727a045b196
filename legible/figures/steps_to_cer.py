"""After how many steps each arm first reaches a character error rate."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from legible.config import FigureStyle
from legible.errors import UserError
from legible.figures.labels import arm_label, engine_label, with_control_first
from legible.figures.panels import draw_rings, panel_keys, select
from legible.figures.style import INK, SMALL, arm_colors, house_style, light_grid, new_figure
from legible.names import CONTROL


@house_style()
def draw(reached: pd.DataFrame, arms: Sequence[str], style: FigureStyle) -> Figure:
    """Steps to each level, a row of panels per judge and a column per level.

    Args:
        reached: rows of steps_to_levels.csv.
        arms: trained arms; those without a row are left out.
        style: size and colours.

    Raises:
        UserError: the control is not in it.
    """
    order = [arm for arm in with_control_first(arms) if arm in set(reached["arm"])]
    if CONTROL not in order:
        raise UserError(f"scores/steps_to_levels.csv: the arm {CONTROL} is not in it; run the score stage again")
    colors, (sets, engines) = arm_colors(arms, style), panel_keys(reached)
    rows = [(prompt_set, engine) for prompt_set in sets for engine in engines]
    levels = sorted(reached["level"].unique(), reverse=True)
    figure = new_figure(style, len(rows) * max(1.2, 0.7 + 0.36 * len(order)) + 0.5)
    grid = figure.subplots(len(rows), len(levels), squeeze=False, sharex=True, sharey=True)
    most = 1.04 * float(reached["last"].max())
    for panels, (prompt_set, engine) in zip(grid, rows, strict=True):
        for axes, level in zip(panels, levels, strict=True):
            own = select(reached, prompt_set=prompt_set, engine=engine, level=level)
            control = select(own, arm=CONTROL).set_index("training_seed")["step"]
            for y, arm in enumerate(order):
                mine = select(own, arm=arm).set_index("training_seed")
                steps, ends = mine["step"], mine["last"]
                draw_rings(axes, steps.dropna(), y, colors[arm])
                if steps.notna().all():
                    axes.plot([steps.mean()] * 2, [y - 0.12, y + 0.32], color=colors[arm], linewidth=2)
                for place, end in enumerate(ends[steps.isna()]):
                    axes.plot(end, y + 0.1 * place, ">", ms=5, color=colors[arm], clip_on=False)
                if words := saved(steps, control) if arm != CONTROL else missing(steps):
                    axes.text(0.02 * most, y - 0.34, words, fontsize=SMALL, color=INK, va="center")
            axes.set_yticks(range(len(order)), list(map(arm_label, order)))
            axes.set_ylim(len(order) - 0.4, -0.6)
            axes.set_xlim(0, most)
            light_grid(axes, "x")
            axes.set_title(f"CER {level:g}, read by {engine_label(engine)}", loc="left")
    for axes in grid[-1]:
        axes.set_xlabel("optimiser steps   ← better")
    figure.suptitle("Steps until the character error rate is reached", x=0.01, ha="left", fontsize=9)
    return figure


def missing(steps: pd.Series) -> str:
    """How many seeds never get there."""
    lost = int(steps.isna().sum())
    return f"not reached by {lost} of {len(steps)} seeds" if lost else ""


def saved(steps: pd.Series, control: pd.Series) -> str:
    """The share of the control's steps, seed by seed; where one of the two never gets there, that."""
    if words := missing(steps):
        return words
    if control.isna().any() or (control <= 0).any():
        return "the control does not reach it with every seed"
    share = steps / control.reindex(steps.index)
    return f"{share.mean():.0%} of the control\u2019s steps ({share.min():.0%} to {share.max():.0%})"
