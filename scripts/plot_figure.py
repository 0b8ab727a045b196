"""Draw one figure of an experiment as PNG and PDF, from the files that this figure needs and no others."""

import argparse
from importlib import import_module
from pathlib import Path

from matplotlib.figure import Figure
from pydantic import ValidationError

from legible.config import FIGURES, FigureStyle, describe
from legible.errors import UserError, run_cli
from legible.figures.inputs import READ
from legible.figures.style import save_figure


def draw(name: str, results: Path, arms: list[str], style: FigureStyle, seeds: list[int] | None = None) -> Figure:
    """The figure `name` of one experiment, by its own module; `seeds` None: all there are."""
    figure = FIGURES[name]
    return import_module(figure.module).draw(*(READ[need](results, arms, seeds) for need in figure.needs), style)


def parse_style(text: str) -> FigureStyle:
    """The figure's section of the configuration."""
    try:
        return FigureStyle.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"--style: {describe(error)}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", required=True, choices=sorted(FIGURES))
    parser.add_argument("--style", default="{}", help="the figure's section of the configuration, as JSON")
    parser.add_argument("--results", required=True, type=Path, help="results/{experiment}")
    parser.add_argument("--arms", required=True, help="trained arms, separated by commas; among them diffusion_only")
    parser.add_argument(
        "--seeds", nargs="+", type=int, help="training seeds of figures of the training; default: all found"
    )
    parser.add_argument("--output", required=True, type=Path, help="PNG to write; a PDF is written beside it")
    args = parser.parse_args()
    if args.output.suffix != ".png":
        raise UserError(f"--output: {args.output}: the name must end in .png")
    figure = draw(args.figure, args.results, args.arms.split(","), parse_style(args.style), args.seeds)
    pdf = save_figure(figure, args.output)
    print(f"{args.output} and {pdf}")


if __name__ == "__main__":
    run_cli(main)
