"""How fast an arm learns, against steps and seconds."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from legible.config import FigureStyle
from legible.errors import UserError
from legible.figures.labels import arm_label, engine_label, with_control_first
from legible.figures.panels import panel_keys, select
from legible.figures.style import (
    LINES,
    MARKERS,
    PALE,
    arm_colors,
    arm_rounds,
    house_style,
    light_grid,
    new_figure,
    side_labels,
)
from legible.names import CONTROL


@house_style()
def draw(curve: pd.DataFrame, arms: Sequence[str], style: FigureStyle) -> Figure:
    """Micro CER against optimiser steps (left) and seconds of training (right), a row of panels per engine.

    Args:
        curve: rows of curve.csv.
        arms: trained arms; those without a row are left out.
        style: size and colours.

    Raises:
        UserError: the control has no curve.
    """
    order = [arm for arm in with_control_first(arms) if arm in set(curve["arm"])]
    if CONTROL not in order:
        raise UserError(f"scores/curve.csv: the arm {CONTROL} is not in it; run the score stage again")
    colors, rounds = arm_colors(arms, style), arm_rounds(arms, style)
    sets, engines = panel_keys(curve)
    rows = [(prompt_set, engine) for prompt_set in sets for engine in engines]
    figure = new_figure(style, len(rows) * max(2.2, 0.5 + 0.17 * len(order)) + 0.5)
    grid = figure.subplots(len(rows), 2, squeeze=False, sharex="col", sharey="row")
    for panels, (prompt_set, engine) in zip(grid, rows, strict=True):
        own = select(curve, prompt_set=prompt_set, engine=engine)
        ends = {}
        for arm in order:
            mine = own[own["arm"] == arm].sort_values("step")
            line_style = {"color": colors[arm], "linestyle": LINES[rounds[arm] % len(LINES)]}
            for axes, x in zip(panels, ("step", "seconds"), strict=True):
                for _, seed in mine.groupby("training_seed"):
                    axes.plot(seed[x], seed["value"], linewidth=0.5, alpha=0.45, **line_style)
                mean = mine.groupby("step")[["seconds", "value"]].mean().reset_index()
                wide = 2.4 if arm == CONTROL else 1.3
                marker = MARKERS[rounds[arm] % len(MARKERS)]
                axes.plot(mean[x], mean["value"], marker=marker, ms=3.5, linewidth=wide, **line_style)
                ends[arm] = (float(mean["seconds"].iloc[-1]), float(mean["value"].iloc[-1]))
        start = own[own["step"] == 0]["value"]
        for axes in panels:
            light_grid(axes, "y")
            if len(start):
                axes.axhline(start.mean(), color=PALE, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
            axes.set_ylim(0, 1.05 * own["value"].max())
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panels[1].axvline(ends[CONTROL][0], color=colors[CONTROL], linewidth=0.8, zorder=1)
        panels[0].set_title(
            f"read by {engine_label(engine)}" + (f" · {prompt_set}" if len(sets) > 1 else ""), loc="left"
        )
        side_labels(panels[1], list(ends.values()), list(map(arm_label, ends)), [colors[arm] for arm in ends])
    grid[-1][0].set_xlabel("optimiser steps")
    grid[-1][1].set_xlabel(curve["clock"].iloc[0])
    figure.supylabel("character error rate   ← better", fontsize=9)
    title = "Mean over training seeds (thin: single seeds); dotted: base model; upright: the control's training ends"
    figure.suptitle(title, x=0.01, ha="left", fontsize=9)
    return figure
