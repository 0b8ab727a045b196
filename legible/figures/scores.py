"""Figures of the scores: error rates per arm, paired differences to the control, error rates by length."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from legible.config import FigureStyle
from legible.figures.inputs import (
    BASE,
    CEILINGS,
    CONTROL,
    arm_label,
    auxiliary_arms,
    engine_label,
    is_placebo,
    with_control_first,
)
from legible.figures.style import (
    INK,
    MARKERS,
    PALE,
    SMALL,
    arm_colors,
    arm_rounds,
    house_style,
    light_grid,
    new_figure,
)

METRIC = "cer_micro"
LEGEND = "bar: bootstrap interval over prompts; rings: single training seeds"


def select(frame: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    """The rows whose columns have the wanted values."""
    chosen = pd.Series(True, index=frame.index)
    for column, value in wanted.items():
        chosen &= frame[column] == value
    return frame[chosen]


def best_arms(summary: pd.DataFrame, arms: Sequence[str], count: int) -> list[str]:
    """The `count` arms beside the control with the lowest micro CER, mean over engines and prompt sets, best first."""
    error = select(summary, stratum="all", metric=METRIC).groupby("arm")["value"].mean()
    return sorted(auxiliary_arms(arms), key=lambda arm: (error[arm], arm))[:count]


def panel_keys(summary: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Prompt sets (rows of panels) and engines (columns), sorted."""
    return sorted(summary["prompt_set"].unique()), sorted(summary["engine"].unique())


def whiskers(value: float, low: float, high: float) -> list[list[float]]:
    """Interval as the two lengths that errorbar wants; 0 where there is none. An interval may miss its own value."""
    return [[max(0.0, np.nan_to_num(value - low))], [max(0.0, np.nan_to_num(high - value))]]


def sample_size(rows: pd.DataFrame) -> str:
    """How many prompts, images and training seeds stand behind an arm's value, in words."""
    row = rows.iloc[0]
    seeds = int(row["n_training_seeds"])
    return f"{int(row['n_prompts'])} prompts, {int(row['n_images'])} images per trained arm, {seeds} training seeds"


@house_style()
def cer_by_arm(summary: pd.DataFrame, seeds: pd.DataFrame, arms: Sequence[str], style: FigureStyle) -> Figure:
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


def pairs(sets: Sequence[str], engines: Sequence[str]) -> list[tuple[tuple[int, str], tuple[int, str]]]:
    """Every panel as ((row, prompt set), (column, engine))."""
    return [(row, column) for row in enumerate(sets) for column in enumerate(engines)]


def draw_rings(axes: Axes, values: pd.Series, y: float, color: str) -> None:
    """The training seeds as small rings below their mean, one a little lower than the other."""
    heights = [y + 0.1 * place for place in range(len(values))]
    axes.plot(values, heights, "o", ms=3.5, mfc="white", mec=color, mew=1, zorder=3)


def draw_ceiling(axes: Axes, value: float, arm: str, y: float, linestyle: str | tuple) -> None:
    """A thin line through the panel, its name at height `y` where no arm is drawn."""
    axes.axvline(value, color=PALE, linewidth=0.9, linestyle=linestyle, zorder=1)
    axes.annotate(
        f"{arm_label(arm)} {value:.3f}", (value, y), (4, 0), textcoords="offset points", va="center", fontsize=SMALL,
        color=PALE,
    )  # fmt: skip


@house_style()
def delta_to_control(summary: pd.DataFrame, seeds: pd.DataFrame, arms: Sequence[str], style: FigureStyle) -> Figure:
    """Forest plot of the paired CER difference to the control, per arm and engine; prompt sets below one another.

    Arguments as in `cer_by_arm`. The base model stands last: its difference says what plain fine-tuning changed.
    """
    order, colors = [*auxiliary_arms(with_control_first(arms)), BASE], arm_colors(arms, style)
    sets, engines = panel_keys(summary)
    overall = select(summary, stratum="all", metric=METRIC)
    figure = new_figure(style, len(sets) * (1.3 + 0.3 * len(order) * len(engines)))
    # A placebo that unlearns spelling would shrink all others to dots: it may leave the picture, with an arrow.
    shown = overall[~overall["arm"].map(is_placebo)]
    reach = 1.12 * np.nanmax(np.abs(shown[["delta_vs_control", "delta_low", "delta_high"]].to_numpy()), initial=1e-3)
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
            runs = select(seeds, stratum="all", metric=METRIC, prompt_set=prompt_set, engine=engine, arm=arm)
            runs = runs[runs["delta_vs_control"].notna()]
            draw_rings(axes, runs["delta_vs_control"], y + 0.24, colors[arm])
            heights.append(y)
            names.append(f"{arm_label(arm)} · {engine_label(engine)}")
            numbers.append(f"{signed(value)} [{signed(low)}, {signed(high)}]")
        axes.set_yticks(heights, names)
        axes.set_ylim(heights[-1] + 0.7, -0.7)
        axes.set_xlim(-reach, reach)
        axes.set_title("← better than the control", loc="left")
        axes.set_title("worse than the control →", loc="right")
        if len(sets) > 1:
            axes.set_title(prompt_set, loc="center")
        right = axes.secondary_yaxis("right")
        right.set_yticks(heights, numbers)
        right.tick_params(length=0)
        right.spines["right"].set_visible(False)
        axes.set_xlabel(f"CER minus the CER of {CONTROL}, same prompts and noise\n{LEGEND}")
    return figure


def signed(value: float) -> str:
    """A difference with its sign, three decimals; a dash where there is none."""
    return "–" if np.isnan(value) else f"{value:+.3f}".replace("-", "−")


@house_style()
def cer_by_length(summary: pd.DataFrame, arms: Sequence[str], style: FigureStyle) -> Figure:
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
