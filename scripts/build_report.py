"""Build the report of an experiment: one self-contained HTML page with the answer, the numbers and the figures."""

import argparse
from pathlib import Path

from legible.config import load
from legible.errors import run_cli
from legible.figures.inputs import read_drift, read_runs, read_scores, read_seeds, read_summary
from legible.figures.report import build, drawn_figures
from legible.io import write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", required=True, type=Path, help="results/{experiment}")
    parser.add_argument("--config", required=True, type=Path, help="the experiment's merged config.yaml")
    parser.add_argument(
        "--figures", nargs="+", help="figures to show; default: those under results/{experiment}/figures"
    )
    parser.add_argument("--output", required=True, type=Path, help="HTML to write")
    args = parser.parse_args()
    config = load(args.config)
    arms = list(config.arms)
    drift = (args.results / "scores" / "drift.csv").is_file()
    page = build(
        args.results,
        config,
        args.config.read_text(encoding="utf-8"),
        read_summary(args.results, arms),
        read_seeds(args.results),
        read_scores(args.results),
        read_runs(args.results, arms, config.seeds),
        args.figures or drawn_figures(args.results),
        read_drift(args.results) if drift else None,
    )
    write_text(args.output, page)
    print(args.output)


if __name__ == "__main__":
    run_cli(main)
