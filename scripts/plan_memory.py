"""How much memory the jobs of an experiment will need, for a cluster to be asked for it; nothing is loaded for it.

The training sections come by standard input, as a JSON object by arm: those of fifty arms are too long for an argument.
"""

import argparse
import json
import math
import sys
from pathlib import Path

from legible.config import Training, sections
from legible.errors import run_cli
from legible.io import write_json
from legible.train.preflight import job_memory, latent_size, settle_checkpointing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="JSON with the sections model, data")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    config = sections(arguments.config, "model", "data")
    size = latent_size(config["model"], config["data"])
    # `auto` settles on the device of the job, which is not this machine: what it may take at most is asked for.
    trainings = {
        arm: settle_checkpointing(config["model"], Training.model_validate(section), *size, math.inf)
        for arm, section in json.load(sys.stdin).items()
    }
    planned = job_memory(config["model"], trainings, *size)
    write_json(arguments.output, planned)
    for stage, needed in planned.items():
        print(f"{stage}: {needed} MB")


if __name__ == "__main__":
    run_cli(main)
