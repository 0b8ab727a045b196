"""What voids a gain: drift, pictures alike, lost colours and edges, one string everywhere, other rewards fallen."""

import argparse
import json
from pathlib import Path

import pandas as pd

from legible.errors import run_cli
from legible.figures.inputs import read_table
from legible.metrics.files import write_csv
from legible.metrics.guards import guard_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rewards", required=True, type=Path, help="rewards.csv")
    parser.add_argument("--scores", required=True, type=Path, help="scores.parquet")
    parser.add_argument("--drift", type=Path, help="drift.csv, where drift is measured")
    parser.add_argument("--trained", required=True, help="JSON: arm → names of the rewards that it is trained by")
    parser.add_argument("--output", required=True, type=Path, help="guards.csv")
    args = parser.parse_args()
    scores = read_table(args.scores, ("arm", "prompt_set", "engine", "reading", "target"))
    rewards = pd.read_csv(args.rewards)
    drift = pd.read_csv(args.drift) if args.drift else None
    table = guard_table(rewards, scores, drift, json.loads(args.trained))
    write_csv(args.output, table)
    broken = table[table["broken"]]
    print(broken.to_string(index=False) if len(broken) else "no guard is broken")


if __name__ == "__main__":
    run_cli(main)
