"""Train the latent segmenter of the char_segmentation loss on the dataset's own glyph masks."""

import argparse
from pathlib import Path

import torch

from legible.config import sections
from legible.errors import UserError, run_cli
from legible.io import write_json
from legible.models.segmenter import save_segmenter
from legible.provenance import environment
from legible.train.data import load_training_data
from legible.train.segmenter import train_segmenter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="JSON with the section segmenter")
    parser.add_argument("--cache", type=Path, required=True, help="train.safetensors of the data stage")
    parser.add_argument("--output", type=Path, required=True, help="safetensors; its quality goes into a .json beside")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = sections(arguments.config, "segmenter")["segmenter"]
    data = load_training_data(arguments.cache)
    if not data.alphabet:
        raise UserError(
            "aux.loss: char_segmentation tells 255 characters apart, and this dataset has more; choose another loss, or"
            " fewer characters"
        )
    segmenter, measured = train_segmenter(
        data.latents,
        data.characters,
        data.alphabet,
        settings.width,
        settings.steps,
        settings.batch_size,
        settings.learning_rate,
        settings.seed,
    )
    save_segmenter(arguments.output, segmenter, data.alphabet)
    about = {"measured": measured, "settings": settings.model_dump(), "data": data.key, **environment()}
    write_json(arguments.output.with_suffix(".json"), about)


if __name__ == "__main__":
    run_cli(main)
