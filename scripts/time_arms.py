"""How many seconds a step of every arm takes: each trained a few steps by the training program, alone and in turn."""

import argparse
import json
from pathlib import Path

import pandas as pd

from legible.config import Model
from legible.errors import UserError, run_cli
from legible.metrics.files import write_csv
from legible.metrics.timing import COLUMNS
from legible.models.opening import choose_device
from legible.train.timing import time_arms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", required=True, help="JSON: arm → the words of the command that trains it briefly")
    parser.add_argument("--model", required=True, help="JSON: the section model, for its device")
    parser.add_argument("--seed", type=int, required=True, help="the training seed that the commands name")
    parser.add_argument("--rounds", type=int, required=True, help="rounds over all arms")
    parser.add_argument("--output", type=Path, required=True, help="timing.csv")
    args = parser.parse_args()
    commands = json.loads(args.commands)
    if not isinstance(commands, dict) or not commands or args.rounds < 1:
        raise UserError("--commands: a JSON object of arms and their commands is needed, and at least one round")
    device = choose_device(Model.model_validate_json(args.model)).type
    table = pd.DataFrame(time_arms(commands, args.seed, args.rounds, device), columns=list(COLUMNS))
    write_csv(args.output, table)
    print(table.groupby("arm")[["processor_seconds", "wall_seconds", "steps"]].sum().to_string())


if __name__ == "__main__":
    run_cli(main)
