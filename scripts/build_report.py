"""Build the report of an experiment: one self-contained HTML page with the answer, the numbers and the figures."""

import argparse
from pathlib import Path

from legible.config import load
from legible.errors import run_cli
from legible.io import write_text
from legible.report.experiment import read_experiment
from legible.report.report_page import build, drawn_figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", required=True, type=Path, help="results/{experiment}")
    parser.add_argument("--config", required=True, type=Path, help="the experiment's merged config.yaml")
    parser.add_argument(
        "--figures", nargs="+", help="figures to show; default: those under results/{experiment}/figures"
    )
    parser.add_argument("--output", required=True, type=Path, help="HTML to write")
    args = parser.parse_args()
    experiment = read_experiment(args.results, load(args.config))
    figures = args.figures or drawn_figures(args.results)
    page = build(experiment, args.config.read_text(encoding="utf-8"), figures)
    write_text(args.output, page)
    print(args.output)


if __name__ == "__main__":
    run_cli(main)
