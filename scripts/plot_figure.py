"""Draw one figure of an experiment as PNG and PDF, from the files that this figure needs and no others."""

import argparse
from pathlib import Path

from matplotlib.figure import Figure
from pydantic import ValidationError

from legible.config import Figures, FigureStyle, describe
from legible.errors import UserError, run_cli
from legible.figures import evidence, pictures, scores, training
from legible.figures.inputs import (
    WEIGHTS,
    read_curve,
    read_drift,
    read_gradients,
    read_metrics,
    read_scores,
    read_seeds,
    read_summary,
)
from legible.figures.style import save_figure
from legible.render.dataset import load_images, load_table


def draw(name: str, results: Path, arms: list[str], style: FigureStyle, seeds: list[int] | None = None) -> Figure:
    """The figure `name` (a field of legible.config.Figures) of one experiment; `seeds` None: all there are."""
    if name == "cer_by_arm":
        return scores.cer_by_arm(read_summary(results, arms), read_seeds(results), arms, style)
    if name == "delta_to_control":
        return scores.delta_to_control(read_summary(results, arms), read_seeds(results), arms, style)
    if name == "cer_by_length":
        return scores.cer_by_length(read_summary(results, arms), arms, style)
    if name == "training_curves":
        return training.training_curves(read_metrics(results, arms, seeds), arms, style)
    if name == "learning_curves":
        return evidence.learning_curves(read_curve(results), arms, style)
    if name == "drift_tradeoff":
        return evidence.drift_tradeoff(read_summary(results, arms), read_drift(results), arms, style)
    if name == "gradient_reach":
        return evidence.gradient_reach(read_gradients(results), style)
    if name == "adaptive_weights":
        return evidence.adaptive_weights(read_metrics(results, arms, seeds, WEIGHTS), arms, style)
    if name == "samples":
        return pictures.samples(results, read_scores(results), arms, style)
    if name == "best_and_worst":
        return pictures.best_and_worst(results, read_scores(results), arms, style)
    path = results / "data" / "train.parquet"
    return pictures.dataset(load_table(path), load_images(path), load_images(path, "mask"), style)


def parse_style(text: str) -> FigureStyle:
    """The figure's section of the configuration."""
    try:
        return FigureStyle.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"--style: {describe(error)}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", required=True, choices=sorted(Figures.model_fields))
    parser.add_argument("--style", default="{}", help="the figure's section of the configuration, as JSON")
    parser.add_argument("--results", required=True, type=Path, help="results/{experiment}")
    parser.add_argument("--arms", required=True, help="trained arms, separated by commas; among them diffusion_only")
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        help="training seeds of training_curves and adaptive_weights; default: all found",
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
