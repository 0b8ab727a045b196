"""Error rates per arm, with the ceilings."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from legible.config import FigureStyle
from legible.figures.labels import arm_label, engine_label, with_control_first
from legible.figures.panels import LEGEND, METRIC, draw_rings, pairs, panel_keys, select, whiskers
from legible.figures.style import MARKERS, PALE, SMALL, arm_colors, arm_rounds, house_style, light_grid, new_figure
from legible.names import BASE, CEILINGS, CONTROL


@house_style()
def draw(summary: pd.DataFrame, seeds: pd.DataFrame, arms: Sequence[str], style: FigureStyle) -> Figure:
    """Micro CER with its interval per arm; one panel per engine, prompt sets below one another.

    Args:
        summary: rows of summary.csv.
        seeds: rows of seeds.csv; each training seed becomes a small ring.
        arms: trained arms.
        style: size and colours.
    """
    order, colors, rounds = [BASE, *with_control_first(arms)], arm_colors(arms, style), arm_rounds(arms, style)
    sets, engines = panel_keys(summary)
    overall = select(summary, stratum="all", metric=METRIC)
    figure = new_figure(style, len(sets) * (1.2 + 0.45 * len(order)))
    grid = figure.subplots(len(sets), len(engines), squeeze=False, sharex=True, sharey=True)
    for (i, prompt_set), (j, engine) in pairs(sets, engines):
        axes = grid[i][j]
        light_grid(axes, "x")
        own = select(overall, prompt_set=prompt_set, engine=engine).set_index("arm")
        for y, arm in enumerate(order):
            value, low, high = own.loc[arm, ["value", "ci_low", "ci_high"]]
            axes.errorbar(
                value,
                y,
                xerr=whiskers(value, low, high),
                fmt=MARKERS[rounds[arm] % 7],
                color=colors[arm],
                capsize=3,
                ms=6,
            )
            axes.annotate(f"{value:.3f}", (value, y), (0, 7), textcoords="offset points", ha="center", fontsize=SMALL)
            runs = select(seeds, stratum="all", metric=METRIC, prompt_set=prompt_set, engine=engine, arm=arm)
            if arm != BASE and len(runs):
                draw_rings(axes, runs["value"], y + 0.2, colors[arm])
        for line, arm in enumerate(name for name in CEILINGS if name in own.index):
            draw_ceiling(axes, own.loc[arm, "value"], arm, -1.2 + 0.42 * line, ("-", (0, (4, 2)))[line % 2])
        axes.set_title(f"read by {engine_label(engine)}" + (f" · {prompt_set}" if len(sets) > 1 else ""), loc="left")
        axes.set_yticks(range(len(order)), [arm_label(arm).replace(" (", "\n(") for arm in order])
        axes.set_ylim(len(order) - 0.45, -1.55)
        axes.set_xlim(left=0, right=1.08 * overall[["value", "ci_high"]].max(axis=None))
        axes.xaxis.set_major_locator(MaxNLocator(5))
    figure.supxlabel(
        f"character error rate (wrong characters per character asked for)   ← better\n{LEGEND}",
        fontsize=9,
    )
    figure.suptitle(f"How many characters are wrong: {sample_size(select(overall, arm=CONTROL))}", x=0.01, ha="left")
    return figure


def sample_size(rows: pd.DataFrame) -> str:
    """How many prompts, images and training seeds stand behind an arm's value, in words."""
    row = rows.iloc[0]
    seeds = int(row["n_training_seeds"])
    return f"{int(row['n_prompts'])} prompts, {int(row['n_images'])} images per trained arm, {seeds} training seeds"


def draw_ceiling(axes: Axes, value: float, arm: str, y: float, linestyle: str | tuple) -> None:
    """A thin line through the panel, its name at height `y` where no arm is drawn."""
    axes.axvline(value, color=PALE, linewidth=0.9, linestyle=linestyle, zorder=1)
    axes.annotate(
        f"{arm_label(arm)} {value:.3f}", (value, y), (4, 0), textcoords="offset points", va="center", fontsize=SMALL,
        color=PALE,
    )  # fmt: skip
