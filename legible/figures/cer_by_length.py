"""Error rates by the length of the target."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from legible.config import FigureStyle
from legible.figures.labels import arm_label, auxiliary_arms, engine_label, with_control_first
from legible.figures.panels import METRIC, pairs, panel_keys, select, whiskers
from legible.figures.style import PALE, arm_colors, house_style, light_grid, new_figure
from legible.names import BASE, CEILINGS, CONTROL


@house_style()
def draw(summary: pd.DataFrame, arms: Sequence[str], style: FigureStyle) -> Figure:
    """Micro CER by the length of the target, one line per arm; one panel per engine, prompt sets below one another.

    Of more than three arms beside the control the two with the lowest CER are shown: more lines cannot be told apart.
    """
    colors, others = arm_colors(arms, style), auxiliary_arms(with_control_first(arms))
    best = others if len(others) <= 3 else best_arms(summary, arms, 2)
    order = [BASE, CONTROL, *(arm for arm in others if arm in best)]
    sets, engines = panel_keys(summary)
    rows = summary[(summary["metric"] == METRIC) & summary["stratum"].str.startswith("length=")]
    rows = rows.assign(length=rows["stratum"].str.removeprefix("length=").astype(int))
    figure = new_figure(style, 2.4 * len(sets) + 0.6)
    grid = figure.subplots(len(sets), len(engines), squeeze=False, sharex=True, sharey=True)
    for (i, prompt_set), (j, engine) in pairs(sets, engines):
        axes = grid[i][j]
        light_grid(axes, "y")
        for place, arm in enumerate(order):
            own = select(rows, prompt_set=prompt_set, engine=engine, arm=arm).sort_values("length")
            # Side by side, so that no arm hides another one's interval.
            x = own["length"] + 0.5 * ((place + 0.5) / len(order) - 0.5)
            lengths = [whiskers(*r) for r in own[["value", "ci_low", "ci_high"]].itertuples(index=False, name=None)]
            axes.errorbar(
                x, own["value"], yerr=np.array(lengths)[:, :, 0].T, fmt="o^sDvPX"[place % 7] + "-", color=colors[arm],
                ms=4.5, capsize=2, linewidth=1, label=arm_label(arm),
            )  # fmt: skip
        ceiling = select(rows, prompt_set=prompt_set, engine=engine, arm=CEILINGS[0]).sort_values("length")
        axes.plot(ceiling["length"], ceiling["value"], ":", color=PALE, linewidth=1.2, label=arm_label(CEILINGS[0]))
        counts = select(rows, prompt_set=prompt_set, engine=engine, arm=CONTROL).sort_values("length")
        ticks = [f"{n}\n({p})" for n, p in zip(counts["length"], counts["n_prompts"], strict=True)]
        axes.set_xticks(counts["length"], ticks)
        axes.set_ylim(bottom=0)
        axes.set_title(f"read by {engine_label(engine)}" + (f" · {prompt_set}" if len(sets) > 1 else ""), loc="left")
    figure.supylabel("character error rate   ← better", fontsize=9)
    figure.supxlabel("characters of the target (number of prompts)", fontsize=9)
    labelled = dict(zip(*reversed(grid[0][0].get_legend_handles_labels()), strict=True))
    labels = [arm_label(arm) for arm in (*order, CEILINGS[0])]
    title = f"Base model, control, and the {len(best)} of {len(others)} arms with the lowest error rate"
    figure.legend(
        [labelled[label] for label in labels], labels, loc="outside upper center", ncols=min(4, len(labels)),
        title=title if len(best) < len(others) else None,
    )  # fmt: skip
    return figure


def best_arms(summary: pd.DataFrame, arms: Sequence[str], count: int) -> list[str]:
    """The `count` arms beside the control with the lowest micro CER, mean over engines and prompt sets, best first."""
    error = select(summary, stratum="all", metric=METRIC).groupby("arm")["value"].mean()
    return sorted(auxiliary_arms(arms), key=lambda arm: (error[arm], arm))[:count]
