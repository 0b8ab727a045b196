"""Write the results of one or more experiments as a Markdown page, with its figures and small tables beside it."""

import argparse
import json
from pathlib import Path

from legible.config import load
from legible.errors import UserError, run_cli
from legible.fingerprint import ROOT
from legible.io import atomic_path, write_text
from legible.names import Run
from legible.report.copies import write_copies
from legible.report.experiment import read_experiment
from legible.report.protocol import confirmed
from legible.report.results_page import build, figure_copies


def parse_titles(text: str) -> dict[str, str]:
    """Experiment → heading of its section."""
    try:
        titles = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"--titles-json: not valid JSON ({error.msg}); give a JSON object of texts") from error
    if not isinstance(titles, dict) or not all(isinstance(title, str) for title in titles.values()):
        raise UserError("--titles-json: a JSON object of experiment names and texts is needed")
    return titles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--results", required=True, nargs="+", type=Path, help="results/{experiment}, the main one first"
    )
    parser.add_argument("--titles-json", default="{}", help="experiment → heading, as a JSON object; default: its name")
    parser.add_argument("--command", default="", help="the command that makes all of this, as it is shown")
    parser.add_argument("--output", required=True, type=Path, help="Markdown to write, such as docs/RESULTS.md")
    args = parser.parse_args()
    titles, names = parse_titles(args.titles_json), [folder.resolve().name for folder in args.results]
    if len(set(names)) < len(names):
        raise UserError(f"--results: every experiment may be given once only, got {', '.join(names)}")
    if unknown := sorted(set(titles) - set(names)):
        raise UserError(f"--titles-json: {unknown[0]} is not among --results ({', '.join(names)})")
    experiments = [
        read_experiment(folder, load(folder / "config.yaml"), titles.get(name, ""))
        for folder, name in zip(args.results, names, strict=True)
    ]
    runs = {f"{each.name}/{Run(*key)}": run for each in experiments for key, run in each.runs.items()}
    page = build(experiments, args.command, protocol=confirmed(experiments[0].config, runs, ROOT))
    folder = args.output.parent / "results"
    write_copies(experiments, folder)
    for name, figure in figure_copies(experiments).items():
        with atomic_path(folder / name) as path:
            path.write_bytes(figure.read_bytes())
    write_text(args.output, page)
    print(args.output)


if __name__ == "__main__":
    run_cli(main)
