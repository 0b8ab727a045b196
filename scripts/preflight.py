"""Print what every arm will hold in memory, phase by phase, and whether it fits; nothing is loaded for it."""

import argparse
from pathlib import Path

from legible.config import load
from legible.errors import UserError, run_cli
from legible.train.preflight import HEADROOM, describe, free_bytes, latent_size, plan, settle_checkpointing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, type=Path, help="a whole configuration, results/nano/config.yaml")
    arguments = parser.parse_args()
    config = load(arguments.config)
    free, size, too_large = free_bytes(), latent_size(config.model, config.data), []
    for arm in config.arms:
        training = settle_checkpointing(config.model, config.arm(arm), *size, free)
        phases = plan(config.model, training, *size)
        twice = ", ".join(training.gradient_checkpointing) or "nothing"
        print(f"{arm}:\n{describe(phases, free, training)}\ncomputed twice: {twice}\n")
        if any(phase.total > HEADROOM * free for phase in phases):
            too_large.append(arm)
    if too_large:
        raise UserError(f"{arguments.config}: {', '.join(too_large)} will not fit into this device's memory; see above")


if __name__ == "__main__":
    run_cli(main)
