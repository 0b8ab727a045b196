"""How figures look."""

from typing import Annotated

from pydantic import Field

from legible.config.section import Positive, PositiveFloat, Section


class FigureStyle(Section):
    """One figure. Changing it redraws that figure only."""

    width: PositiveFloat = Field(7.0, description="inches")
    height: PositiveFloat = Field(4.0, description="inches")
    dpi: Positive = 150
    colors: tuple[Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")], ...] = Field(
        ("#999999", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
        description="base, then the arms in order (Okabe-Ito: colour-blind safe)",
        min_length=3,
    )
    examples: Positive = Field(6, description="rows of a picture grid")


class Figures(Section):
    """The figures of the report."""

    cer_by_arm: FigureStyle = FigureStyle()
    delta_to_control: FigureStyle = FigureStyle(height=3.2)
    cer_by_length: FigureStyle = FigureStyle()
    training_curves: FigureStyle = FigureStyle(height=5.0)
    samples: FigureStyle = FigureStyle(height=7.0)
    best_and_worst: FigureStyle = FigureStyle(height=7.0)
    dataset: FigureStyle = FigureStyle(height=5.0, examples=8)
    learning_curves: FigureStyle = FigureStyle(height=5.0)
    drift_tradeoff: FigureStyle = FigureStyle(height=4.5)
    gradient_reach: FigureStyle = FigureStyle(height=3.6)
    adaptive_weights: FigureStyle = FigureStyle(height=5.0)
