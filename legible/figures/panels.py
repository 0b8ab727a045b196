"""What figures of scores share: choosing rows, panels per prompt set and judge, intervals and rings."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

METRIC = "cer_micro"
LEGEND = "bar: bootstrap interval over prompts; rings: single training seeds"


def select(frame: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    """The rows whose columns have the wanted values."""
    chosen = pd.Series(True, index=frame.index)
    for column, value in wanted.items():
        chosen &= frame[column] == value
    return frame[chosen]


def panel_keys(summary: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Prompt sets (rows of panels) and engines (columns), sorted."""
    return sorted(summary["prompt_set"].unique()), sorted(summary["engine"].unique())


def pairs(sets: Sequence[str], engines: Sequence[str]) -> list[tuple[tuple[int, str], tuple[int, str]]]:
    """Every panel as ((row, prompt set), (column, engine))."""
    return [(row, column) for row in enumerate(sets) for column in enumerate(engines)]


def whiskers(value: float, low: float, high: float) -> list[list[float]]:
    """Interval as the two lengths that errorbar wants; 0 where there is none. An interval may miss its own value."""
    return [[max(0.0, np.nan_to_num(value - low))], [max(0.0, np.nan_to_num(high - value))]]


def draw_rings(axes: Axes, values: pd.Series, y: float, color: str) -> None:
    """The training seeds as small rings below their mean, one a little lower than the other."""
    heights = [y + 0.1 * place for place in range(len(values))]
    axes.plot(values, heights, "o", ms=3.5, mfc="white", mec=color, mew=1, zorder=3)


def smooth(values: pd.Series, share: float = 0.1) -> pd.Series:
    """Centred running mean over `share` of all rows (at least 3)."""
    window = max(3, round(share * len(values)))
    return values.rolling(window, min_periods=1, center=True).mean()
