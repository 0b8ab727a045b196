"""How far does each loss reach, at which noise level? Gradients of the base model at the sampler's own levels.

For every loss: norms of ∇L_diffusion and ∇L_aux on the weights that are trained, and the cosine between them.
"""

import argparse
from pathlib import Path

import pandas as pd

from legible.config import Aux, critics_of, sections
from legible.errors import run_cli
from legible.io import write_text
from legible.losses.auxiliary import open_aux_loss, open_critics
from legible.models.family import open_model
from legible.train.adapters import select_parameters
from legible.train.data import load_training_data
from legible.train.gradients import measure_gradients


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    needed = ("model", "clip", "reader", "training", "generation", "gradients")
    parser.add_argument("--config", required=True, help=f"JSON with the sections {', '.join(needed)}")
    parser.add_argument("--losses", required=True, nargs="+")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--segmenter", type=Path)
    parser.add_argument("--reader-cache", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    config = sections(arguments.config, *needed)
    training, data = config["training"], load_training_data(arguments.cache)
    model = open_model(config["model"], ("denoiser", "scheduler", "autoencoder"), training.threads)
    parameters = list(select_parameters(model, training, 0).values())
    grid, rows = model.level_grid(config["generation"].steps, tuple(data.latents.shape[1:])), []
    for name in arguments.losses:
        settings = training.aux.model_copy(update={"loss": name, "lambda_aux": 1.0})
        settings = Aux.model_validate(settings.model_dump(by_alias=True))
        places = config | {"segmenter": arguments.segmenter}
        critics = open_critics(critics_of([name]), places, arguments.reader_cache, model.device)
        aux = open_aux_loss(settings, critics, data.texts)
        heard = training.model_copy(update={"aux": settings})
        rows += measure_gradients(model, parameters, data, heard, name, aux, grid, config["gradients"])
    write_text(arguments.output, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g", lineterminator="\n"))


if __name__ == "__main__":
    run_cli(main)
