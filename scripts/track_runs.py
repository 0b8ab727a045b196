"""Hand the logs of finished runs to a tracker afterwards: results/{experiment}/runs/{arm}/seed{n}/metrics.jsonl."""

import argparse
from pathlib import Path

from legible.errors import UserError, run_cli
from legible.io import read_jsonl
from legible.train.trackers import TRACKERS, tracking


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="the experiment's folder: results/{experiment}")
    parser.add_argument("--tracker", choices=sorted(TRACKERS), default="tensorboard")
    parser.add_argument("--output", type=Path, required=True, help="folder for them, a folder for each arm and seed")
    arguments = parser.parse_args()
    logs = sorted(arguments.results.glob("runs/*/seed*/metrics.jsonl"))
    if not logs:
        raise UserError(f"--results: {arguments.results}: there is no runs/*/seed*/metrics.jsonl; train first")
    for path in logs:
        arm, seed = path.parts[-3:-1]
        with tracking((arguments.tracker,), arguments.output / arm / seed, f"{arm} {seed}") as told:
            for row in read_jsonl(path):
                for tell in told:
                    tell(row)
        print(f"{path} → {arguments.output / arm / seed}")


if __name__ == "__main__":
    run_cli(main)
