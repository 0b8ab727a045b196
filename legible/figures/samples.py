"""Every model on the same prompts and noise."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from legible.config import FigureStyle
from legible.figures.choose import columns_of, first_seed, pick_evenly
from legible.figures.picture_grid import load_rows, picture_grid


def draw(images: Path, scores: pd.DataFrame, arms: Sequence[str], style: FigureStyle) -> Figure:
    """Every model on the same prompts and noise; the prompts are chosen blindly, evenly from the list.

    Args:
        images: folder of all models' images.
        scores: rows of scores.parquet.
        arms: trained arms.
        style: size, and number of `examples`.
    """
    keys = pick_evenly(scores, style.examples)
    names = columns_of(scores, arms)
    title = (
        f"The same prompts and noise for every model: {len(keys)} prompts evenly from the list, not chosen by result.\n"
        f"Image seed {keys[0][2]}, training seed {first_seed(scores)}{note_of_choice(names, arms)}"
    )
    return picture_grid(load_rows(images, scores, keys, list(names)), list(names.values()), title, style)


def note_of_choice(names: Sequence[str], arms: Sequence[str]) -> str:
    """Words for the title where the columns do not hold all arms."""
    shown = len(names) - 3  # beside the render, the base model and the control
    return f"; the {shown} of {len(arms) - 1} arms with the fewest errors" if shown < len(arms) - 1 else ""
