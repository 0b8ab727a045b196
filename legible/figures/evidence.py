"""Figures of the evidence: how fast an arm learns, what it costs, and how far each loss's gradient reaches."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from legible.config import FigureStyle
from legible.errors import UserError
from legible.figures.inputs import BASE, CONTROL, SCALE, arm_label, engine_label, is_placebo, with_control_first
from legible.figures.scores import METRIC, panel_keys, select, whiskers
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
    log_scale,
    new_figure,
    side_labels,
)
from legible.figures.training import smooth

INTERVAL = ("value", "ci_low", "ci_high")


@house_style()
def learning_curves(curve: pd.DataFrame, arms: Sequence[str], style: FigureStyle) -> Figure:
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
            look = {"color": colors[arm], "linestyle": LINES[rounds[arm] % len(LINES)]}
            for axes, x in zip(panels, ("step", "seconds"), strict=True):
                for _, seed in mine.groupby("training_seed"):
                    axes.plot(seed[x], seed["value"], linewidth=0.5, alpha=0.45, **look)
                mean = mine.groupby("step")[["seconds", "value"]].mean().reset_index()
                wide = 2.4 if arm == CONTROL else 1.3
                marker = MARKERS[rounds[arm] % len(MARKERS)]
                axes.plot(mean[x], mean["value"], marker=marker, ms=3.5, linewidth=wide, **look)
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
    grid[-1][1].set_xlabel("seconds of training")
    figure.supylabel("character error rate   ← better", fontsize=9)
    title = "Mean over training seeds (thin: single seeds); dotted: base model; upright: the control's training ends"
    figure.suptitle(title, x=0.01, ha="left", fontsize=9)
    return figure


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points that no other point beats, ascending in x: none is as low in both and lower in one."""
    front, lowest = [], np.inf
    for name in sorted(points, key=lambda name: (*points[name], name)):
        if points[name][1] < lowest:
            front.append(name)
            lowest = points[name][1]
    return front


@house_style()
def drift_tradeoff(
    summary: pd.DataFrame, drift: pd.DataFrame, arms: Sequence[str], style: FigureStyle, metric: str = "dssim"
) -> Figure:
    """Micro CER against the drift of pictures without text, a panel per engine, with the Pareto front.

    Placebo arms are left out: they unlearn spelling, and all others would shrink to one point.

    Args:
        summary: rows of summary.csv.
        drift: rows of drift.csv.
        arms: trained arms.
        style: size and colours.
        metric: which drift.

    Raises:
        UserError: an arm has no such drift.
    """
    measured = drift[drift["metric"] == metric].set_index("arm")
    order, colors, rounds = [BASE, *with_control_first(arms)], arm_colors(arms, style), arm_rounds(arms, style)
    order = [arm for arm in order if not is_placebo(arm)]
    if missing := [arm for arm in order[1:] if arm not in measured.index]:
        raise UserError(f"scores/drift.csv: {missing[0]} has no {metric}; run the score stage again")
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
            look = {"color": colors[arm], "elinewidth": 0.7, "zorder": 3}
            marker = "*" if arm in (BASE, CONTROL) else MARKERS[rounds[arm] % len(MARKERS)]
            axes.errorbar(
                *points[arm], xerr=whiskers(*x), yerr=whiskers(*y), fmt=marker, ms=10 if marker == "*" else 5.5, **look
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
    words = f"drift of pictures without text: {metric} to the base model's on the same noise   ← less"
    figure.supxlabel(words + scale, fontsize=9)
    figure.supylabel("character error rate   ← better", fontsize=9)
    figure.suptitle("What legibility costs; dashed: no arm is better in both", x=0.01, ha="left", fontsize=9)
    return figure


@house_style()
def gradient_reach(gradients: pd.DataFrame, style: FigureStyle) -> Figure:
    """How strong each loss's gradient is beside the diffusion loss's, and where it points, against the noise level.

    Args:
        gradients: rows of gradients.csv.
        style: size and colours.
    """
    losses, colors = sorted(gradients["loss"].unique()), style.colors[1:]
    figure = new_figure(style, max(3.2, 0.9 + 0.17 * len(losses)))
    strength, direction = figure.subplots(1, 2, sharex=True)
    ends = {}
    for place, loss in enumerate(losses):
        rows = gradients[gradients["loss"] == loss].sort_values("sigma", ascending=False)
        ratio = rows["grad_norm_aux"] / rows["grad_norm_diffusion"]
        ratio = ratio.where(np.isfinite(ratio) & (ratio > 0))  # a gradient of zero has no place on a log axis
        turn = place // len(colors)
        look = {"color": colors[place % len(colors)], "marker": MARKERS[place % len(MARKERS)], "ms": 4.5}
        look |= {"linestyle": LINES[turn % len(LINES)]}
        strength.plot(rows["sigma"], ratio, **look)
        direction.plot(rows["sigma"], rows["cosine"], **look)
        if rows["cosine"].notna().any():
            last = rows[rows["cosine"].notna()].iloc[-1]
            ends[loss] = (float(last["sigma"]), float(last["cosine"]), look["color"])
    log_scale(strength)
    strength.axhline(1, color=INK, linewidth=0.8)
    direction.axhline(0, color=INK, linewidth=0.8)
    strength.set_title("‖∇ auxiliary‖ / ‖∇ diffusion‖, λ = 1", loc="left")
    direction.set_title("cosine of both gradients", loc="left")
    for axes in (strength, direction):
        light_grid(axes, "y")
    strength.invert_xaxis()
    figure.supxlabel("noise level σ (sampling goes from left to right: 1 is pure noise)", fontsize=9)
    places = [(x, y) for x, y, _ in ends.values()]
    side_labels(direction, places, list(ends), [color for *_, color in ends.values()])
    return figure


def weights_of(metrics: Mapping[tuple[str, int], pd.DataFrame], arm: str) -> pd.DataFrame:
    """λ, ratio of the gradients' norms (auxiliary · λ / diffusion) and cosine of one arm per step, mean over seeds."""
    runs = [rows.set_index("step") for (name, _), rows in metrics.items() if name == arm]
    numbers = pd.concat([rows[["lambda", "grad_norm_diffusion", "grad_norm_aux", "grad_cosine"]] for rows in runs])
    numbers = numbers.astype(float)
    ratio = numbers["lambda"] * numbers["grad_norm_aux"] / numbers["grad_norm_diffusion"]
    frame = pd.DataFrame({"lambda": numbers["lambda"], "ratio": ratio, "cosine": numbers["grad_cosine"]})
    return frame.replace([np.inf, -np.inf], np.nan).groupby(level="step").mean()


@house_style()
def adaptive_weights(
    metrics: Mapping[tuple[str, int], pd.DataFrame], arms: Sequence[str], style: FigureStyle
) -> Figure:
    """λ over the steps where it varies, and beside the diffusion loss the strength and direction of every arm's loss.

    Args:
        metrics: (arm, training seed) → rows of metrics.jsonl with `inputs.WEIGHTS`.
        arms: trained arms.
        style: size and colours.
    """
    order, colors, rounds = with_control_first(arms), arm_colors(arms, style), arm_rounds(arms, style)
    weights = {arm: weights_of(metrics, arm) for arm in order if arm != CONTROL}
    figure = new_figure(style, 3 * max(1.5, 0.4 + 0.17 * len(weights)))
    panels = figure.subplots(3, 1, sharex=True)
    titles = ("λ of the arms that change it", "λ · ‖∇ auxiliary‖ / ‖∇ diffusion‖", "cosine of both gradients")
    for axes, column, title in zip(panels, ("lambda", "ratio", "cosine"), titles, strict=True):
        ends = {}
        for arm, frame in weights.items():
            values = frame[column].dropna()
            if values.empty or (column == "lambda" and np.ptp(values) <= 1e-9 * np.abs(values).max()):
                continue
            line, look = values if column == "lambda" else smooth(values, 0.15), {"color": colors[arm]}
            marker = MARKERS[rounds[arm] % len(MARKERS)]
            if column != "lambda":
                axes.plot(values.index, values, marker, ms=2.5, alpha=0.3, **look)
            axes.plot(
                line.index, line, linestyle=LINES[rounds[arm] % len(LINES)], marker=marker, ms=4,
                markevery=max(1, len(line) // 6), **look,
            )  # fmt: skip
            ends[arm] = (float(line.index[-1]), float(line.iloc[-1]))
        finish_weights(axes, column, ends, colors)
        axes.set_title(title, loc="left")
    panels[-1].set_xlabel("optimiser step")
    figure.suptitle("Mean over training seeds; dots: measurements, lines: running mean", x=0.01, ha="left", fontsize=9)
    return figure


def finish_weights(axes: Axes, column: str, ends: Mapping[str, tuple[float, float]], colors: Mapping[str, str]) -> None:
    """Scale, reference line and names of one panel of `adaptive_weights`; without any line it says so."""
    light_grid(axes, "y")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if not ends:
        nothing = "no arm changes its λ" if column == "lambda" else "not measured"
        axes.text(0.5, 0.5, nothing, transform=axes.transAxes, ha="center", color=PALE, fontsize=SMALL)
        return
    if column == "cosine":
        axes.axhline(0, color=INK, linewidth=0.8)
    elif min(line.get_ydata().min() for line in axes.lines) > 0:
        log_scale(axes)
    side_labels(axes, list(ends.values()), list(map(arm_label, ends)), [colors[arm] for arm in ends])
