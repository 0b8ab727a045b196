"""Who is ahead at equal time, and at what cost: error rate against time of training, drift and malformed letters."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from legible.config import FigureStyle
from legible.errors import UserError
from legible.figures.labels import METRIC_OF_DRIFT, arm_label, engine_label, is_placebo, with_control_first
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
def draw(
    curve: pd.DataFrame, drift: pd.DataFrame, malformed: pd.DataFrame | None, arms: Sequence[str], style: FigureStyle
) -> Figure:
    """Micro CER against time, a panel per engine with all arms in it; beside it the arms' ends against what they cost.

    Placebo arms are left out, as in the figure of what legibility costs.

    Args:
        curve: rows of curve.csv; its `clock` says what its seconds are.
        drift: rows of drift.csv.
        malformed: rows of malformed.csv; None where no glyph judge looked.
        arms: trained arms; those without a curve are left out.
        style: size and colours.

    Raises:
        UserError: the control has no curve, or an arm no drift or malformed rate.
    """
    order = [arm for arm in with_control_first(arms) if arm in set(curve["arm"]) and not is_placebo(arm)]
    if CONTROL not in order:
        raise UserError(f"scores/curve.csv: the arm {CONTROL} is not in it; run the score stage again")
    colors, rounds = arm_colors(arms, style), arm_rounds(arms, style)
    looks = {arm: (colors[arm], MARKERS[rounds[arm] % len(MARKERS)], LINES[rounds[arm] % len(LINES)]) for arm in order}
    sets, engines = panel_keys(curve)
    rows = [(prompt_set, engine) for prompt_set in sets for engine in engines]
    moved = costs(select(drift, metric=METRIC_OF_DRIFT), order, "scores/drift.csv")
    ratios = [3, 1] if malformed is None else [3, 1, 1]
    figure = new_figure(style, len(rows) * max(2.2, 0.5 + 0.17 * len(order)) + 0.7)
    grid = figure.subplots(len(rows), len(ratios), squeeze=False, sharex="col", sharey="row", width_ratios=ratios)
    for panels, (prompt_set, engine) in zip(grid, rows, strict=True):
        own = select(curve, prompt_set=prompt_set, engine=engine)
        ends = draw_curves(panels[0], own, order, looks)
        paid = [moved]
        if malformed is not None:
            paid.append(costs(select(malformed, prompt_set=prompt_set), order, "scores/malformed.csv"))
        for axes, cost in zip(panels[1:], paid, strict=True):
            for arm in order:
                axes.plot(cost[arm], ends[arm], looks[arm][1], color=looks[arm][0], ms=5)
            light_grid(axes, "both")
            axes.set_xlim(0, 1.08 * max(cost.values()) or 1)
            axes.xaxis.set_major_locator(MaxNLocator(3))
        panels[0].set_ylim(0, 1.05 * own["value"].max())
        panels[0].set_title(
            f"read by {engine_label(engine)}" + (f" · {prompt_set}" if len(sets) > 1 else ""), loc="left"
        )
        places = [(paid[-1][arm], ends[arm]) for arm in order]
        side_labels(panels[-1], places, list(map(arm_label, order)), [colors[arm] for arm in order])
    grid[-1][0].set_xlabel(curve["clock"].iloc[0])
    for axes, words in zip(grid[-1][1:], (f"drift ({METRIC_OF_DRIFT})", "malformed"), strict=False):
        axes.set_xlabel(f"{words}\n← less")
    figure.supylabel("character error rate   ← better", fontsize=9)
    figure.suptitle("Mean over training seeds (thin: single seeds); dotted: base model", x=0.01, ha="left", fontsize=9)
    return figure


def draw_curves(axes: Axes, own: pd.DataFrame, order: Sequence[str], looks: dict[str, tuple]) -> dict[str, float]:
    """All arms' curves in one panel; the mean error rate at which each ends."""
    ends = {}
    for arm in order:
        color, marker, line = looks[arm]
        mine = own[own["arm"] == arm].sort_values("step")
        for _, seed in mine.groupby("training_seed"):
            axes.plot(seed["seconds"], seed["value"], linewidth=0.5, alpha=0.45, color=color, linestyle=line)
        mean = mine.groupby("step")[["seconds", "value"]].mean()
        wide = 2.4 if arm == CONTROL else 1.3
        axes.plot(mean["seconds"], mean["value"], marker=marker, ms=3.5, linewidth=wide, color=color, linestyle=line)
        ends[arm] = float(mean["value"].iloc[-1])
    start = own[own["step"] == 0]["value"]
    if len(start):
        axes.axhline(start.mean(), color=PALE, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    light_grid(axes, "y")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return ends


def costs(table: pd.DataFrame, order: Sequence[str], place: str) -> dict[str, float]:
    """Each arm's value in a table of one metric.

    Raises:
        UserError: an arm has none.
    """
    values = table.set_index("arm")["value"]
    if missing := [arm for arm in order if arm not in values.index]:
        raise UserError(f"{place}: the arm {missing[0]} is not in it; run the score stage again")
    return {arm: float(values[arm]) for arm in order}
