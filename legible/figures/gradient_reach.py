"""How far each loss's gradient reaches over the noise levels, on the base model."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from legible.config import FigureStyle
from legible.figures.style import INK, LINES, MARKERS, house_style, light_grid, log_scale, new_figure, side_labels


@house_style()
def draw(gradients: pd.DataFrame, style: FigureStyle) -> Figure:
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
        line_style = {"color": colors[place % len(colors)], "marker": MARKERS[place % len(MARKERS)], "ms": 4.5}
        line_style |= {"linestyle": LINES[turn % len(LINES)]}
        strength.plot(rows["sigma"], ratio, **line_style)
        direction.plot(rows["sigma"], rows["cosine"], **line_style)
        if rows["cosine"].notna().any():
            last = rows[rows["cosine"].notna()].iloc[-1]
            ends[loss] = (float(last["sigma"]), float(last["cosine"]), line_style["color"])
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
