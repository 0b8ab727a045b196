"""Paired differences in error rate to the control."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from legible.config import FigureStyle
from legible.figures.labels import arm_label, auxiliary_arms, engine_label, is_placebo, signed, with_control_first
from legible.figures.panels import LEGEND, METRIC, draw_rings, panel_keys, select, whiskers
from legible.figures.style import INK, arm_colors, house_style, light_grid, new_figure
from legible.names import BASE, CONTROL

TWO_WAY = "thin line: interval over prompts and training seeds together, which a verdict needs, too"


@house_style()
def draw(summary: pd.DataFrame, seeds: pd.DataFrame, arms: Sequence[str], style: FigureStyle) -> Figure:
    """Forest plot of the paired CER difference to the control, per arm and engine; prompt sets below one another.

    Bars are over prompts; a thin line, where there are several training seeds, is over prompts and seeds. Arguments as
    in `cer_by_arm`. The base model stands last: its difference says what plain fine-tuning changed.
    """
    order, colors = [*auxiliary_arms(with_control_first(arms)), BASE], arm_colors(arms, style)
    sets, engines = panel_keys(summary)
    overall = select(summary, stratum="all", metric=METRIC)
    figure = new_figure(style, len(sets) * (1.3 + 0.3 * len(order) * len(engines)))
    # A placebo that unlearns spelling would shrink all others to dots: it may leave the picture, with an arrow.
    shown = overall[~overall["arm"].map(is_placebo)]
    ends = ["delta_vs_control", "delta_low", "delta_high", "two_way_low", "two_way_high"]
    reach = 1.12 * np.nanmax(np.abs(shown[ends].to_numpy(float)), initial=1e-3)
    for i, prompt_set in enumerate(sets):
        axes = figure.add_subplot(len(sets), 1, i + 1)
        light_grid(axes, "x")
        axes.axvline(0, color=INK, linewidth=1)
        heights, names, numbers = [], [], []
        for place, (arm, engine) in enumerate((arm, engine) for arm in order for engine in engines):
            y = place + 0.45 * (place // len(engines))
            row = select(overall, prompt_set=prompt_set, engine=engine, arm=arm).iloc[0]
            value, low, high = row["delta_vs_control"], row["delta_low"], row["delta_high"]
            marker = "os^Dv"[engines.index(engine) % 5]
            if abs(value) > reach:
                edge = 0.97 * np.sign(value) * reach
                axes.plot(edge, y, ">" if value > 0 else "<", color=colors[arm], ms=7, clip_on=False)
            axes.errorbar(
                value, y, xerr=whiskers(value, low, high), fmt=marker, color=colors[arm], capsize=3, ms=6, zorder=3
            )
            axes.hlines(y, row["two_way_low"], row["two_way_high"], color=colors[arm], linewidth=0.8)
            runs = select(seeds, stratum="all", metric=METRIC, prompt_set=prompt_set, engine=engine, arm=arm)
            runs = runs[runs["delta_vs_control"].notna()]
            draw_rings(axes, runs["delta_vs_control"], y + 0.24, colors[arm])
            heights.append(y)
            names.append(f"{arm_label(arm)} · {engine_label(engine)}")
            numbers.append(f"{signed(value)} [{signed(low)}, {signed(high)}]")
        axes.set_yticks(heights, names)
        axes.set_ylim(heights[-1] + 0.7, -0.7)
        axes.set_xlim(-reach, reach)
        axes.set_title("← better", loc="left")
        axes.set_title("worse →", loc="right")
        if len(sets) > 1:
            axes.set_title(prompt_set, loc="center")
        right = axes.secondary_yaxis("right")
        right.set_yticks(heights, numbers)
        right.tick_params(length=0)
        right.spines["right"].set_visible(False)
        axes.set_xlabel(f"CER minus the CER of {CONTROL}, same prompts and noise\n{LEGEND}\n{TWO_WAY}")
    return figure
