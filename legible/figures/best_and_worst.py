"""The pictures that one arm gained and lost most."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from legible.config import FigureStyle
from legible.figures.choose import changes, columns_of, first_seed, pick_evenly, pick_extremes
from legible.figures.labels import auxiliary_arms
from legible.figures.page import Page
from legible.figures.picture_grid import load_rows, picture_grid
from legible.names import CONTROL, Run


def draw(images: Path, scores: pd.DataFrame, arms: Sequence[str], style: FigureStyle) -> Figure:
    """The pictures in which one arm gains and loses most CER against the control: the arm that changed most readings.

    Without such an arm the figure says so: the control alone is a valid experiment. Arguments as in `samples`.
    """
    others = auxiliary_arms(arms)
    if not others:
        page = Page(style.width, 0.4, style.dpi)
        page.text(0.1, 0.1, f"There is no arm beside the control {CONTROL}: nothing to compare.", fontsize=9)
        return page.figure
    seed = first_seed(scores)
    by_arm = {arm: changes(scores, str(Run(arm, seed)), str(Run(CONTROL, seed))) for arm in others}
    arm = max(others, key=lambda name: by_arm[name].abs().sum())
    delta, names = by_arm[arm], columns_of(scores, arms, (arm,))
    gains, losses = pick_extremes(delta, style.examples)
    title = (
        f"Extremes, not typical cases: of {len(delta)} pictures (training seed {seed}), {(delta < 0).sum()} are read\n"
        f"better with {arm} than with the control, {(delta == 0).sum()} equally well, {(delta > 0).sum()} worse"
    )
    keys = [*gains, *losses] or pick_evenly(scores, 1)
    words = [f"{arm} gains most"] * len(gains) + [f"{arm} loses most"] * len(losses)
    notes = [f"ΔCER {delta[key]:+.2f}".replace("-", "−") for key in keys]
    rows = load_rows(images, scores, keys, list(names), words or ["no picture changed"], notes)
    return picture_grid(rows, list(names.values()), title, style)
