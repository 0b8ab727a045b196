"""What legibility costs: error rate against the drift of pictures without text."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from legible.config import FigureStyle
from legible.errors import UserError
from legible.figures.labels import METRIC_OF_DRIFT, arm_label, engine_label, is_placebo, with_control_first
from legible.figures.panels import METRIC, panel_keys, select, whiskers
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
    new_figure,
    side_labels,
)
from legible.names import BASE, CONTROL, SCALE

INTERVAL = ("value", "ci_low", "ci_high")


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points that no other point beats, ascending in x: none is as low in both and lower in one."""
    front, lowest = [], np.inf
    for name in sorted(points, key=lambda name: (*points[name], name)):
        if points[name][1] < lowest:
            front.append(name)
            lowest = points[name][1]
    return front


@house_style()
def draw(summary: pd.DataFrame, drift: pd.DataFrame, arms: Sequence[str], style: FigureStyle) -> Figure:
    """Micro CER against the drift of pictures without text, a panel per engine, with the Pareto front.

    Placebo arms are left out: they unlearn spelling, and all others would shrink to one point.

    Args:
        summary: rows of summary.csv.
        drift: rows of drift.csv.
        arms: trained arms.
        style: size and colours.

    Raises:
        UserError: an arm has no such drift.
    """
    measured = drift[drift["metric"] == METRIC_OF_DRIFT].set_index("arm")
    order, colors, rounds = [BASE, *with_control_first(arms)], arm_colors(arms, style), arm_rounds(arms, style)
    order = [arm for arm in order if not is_placebo(arm)]
    if missing := [arm for arm in order[1:] if arm not in measured.index]:
        raise UserError(f"scores/drift.csv: {missing[0]} has no {METRIC_OF_DRIFT}; run the score stage again")
    sets, engines = panel_keys(summary)
    panels = [(prompt_set, engine) for prompt_set in sets for engine in engines]
    overall = select(summary, stratum="all", metric=METRIC)
    figure = new_figure(style, len(panels) * max(2.3, 0.6 + 0.17 * len(order)) + 0.6)
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True)
    for (axes,), (prompt_set, engine) in zip(grid, panels, strict=True):
        own = select(overall, prompt_set=prompt_set, engine=engine).set_index("arm")
        points = {}
        for arm in order:
            # The base model is what drift is measured from.
            x = tuple(map(float, measured.loc[arm, list(INTERVAL)])) if arm in measured.index else (0.0, 0.0, 0.0)
            y = tuple(map(float, own.loc[arm, list(INTERVAL)]))
            points[arm] = (x[0], y[0])
            bar_style = {"color": colors[arm], "elinewidth": 0.7, "zorder": 3}
            marker = "*" if arm in (BASE, CONTROL) else MARKERS[rounds[arm] % len(MARKERS)]
            axes.errorbar(
                *points[arm],
                xerr=whiskers(*x),
                yerr=whiskers(*y),
                fmt=marker,
                ms=10 if marker == "*" else 5.5,
                **bar_style,
            )
        front = [points[arm] for arm in pareto_front(points)]
        axes.step(*zip(*front, strict=True), where="post", color=PALE, linewidth=1, linestyle=LINES[1], zorder=1)
        light_grid(axes, "both")
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
        axes.set_title(f"read by {engine_label(engine)}" + (f" · {prompt_set}" if len(sets) > 1 else ""), loc="left")
        better = {"arrowstyle": "->", "color": INK, "linewidth": 1}
        axes.annotate(
            "better", (0.015, 0.03), (0.1, 0.14), xycoords="axes fraction", textcoords="axes fraction",
            fontsize=SMALL, arrowprops=better,
        )  # fmt: skip
        side_labels(axes, list(points.values()), list(map(arm_label, points)), [colors[arm] for arm in points])
    scale = (
        f"\n(two unrelated pictures of the base model: {measured.loc[SCALE, 'value']:.3f})"
        if SCALE in measured.index
        else ""
    )
    words = f"drift of pictures without text: {METRIC_OF_DRIFT} to the base model's on the same noise   ← less"
    figure.supxlabel(words + scale, fontsize=9)
    figure.supylabel("character error rate   ← better", fontsize=9)
    figure.suptitle("What legibility costs; dashed: no arm is better in both", x=0.01, ha="left", fontsize=9)
    return figure
