"""How far does each loss reach, at which noise level? Gradients of the base model at the sampler's own σ values.

For every loss: norms of ∇L_diffusion and ∇L_aux on the weights that are trained, and the cosine between them.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch

from legible.config import Aux, sections
from legible.errors import run_cli
from legible.io import write_text
from legible.losses.auxiliary import open_aux_loss
from legible.models.family import open_model
from legible.progress import progress
from legible.train.adapters import select_parameters
from legible.train.checkpoint import stateless_generator
from legible.train.data import load_training_data
from legible.train.step import apart, look, norms_and_cosine


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
    model = open_model(config["model"], ("transformer", "scheduler", "vae"), training.threads)
    parameters = list(select_parameters(model.transformer, training, 0).values())
    picked = torch.randperm(len(data.latents), generator=stateless_generator(0, 4))[: config["gradients"]]
    rows = []
    for name in arguments.losses:
        settings = training.aux.model_copy(update={"loss": name, "lambda_aux": 1.0})
        settings = Aux.model_validate(settings.model_dump(by_alias=True))
        critics = (config["clip"], config["reader"], arguments.segmenter)
        aux = open_aux_loss(settings, *critics, data.texts, arguments.reader_cache, model.device)
        for level in progress(model.sigma_grid(config["generation"].steps).tolist(), name, unit="sigma"):
            own, extra, value = [None] * len(parameters), [None] * len(parameters), 0.0
            for part in picked.split(training.batch_size):
                noise = torch.stack(
                    [
                        torch.randn(data.latents.shape[1:], generator=stateless_generator(0, 5, int(sample)))
                        for sample in part
                    ]
                )
                diffusion, view = look(model, data, part, None, settings, noise, torch.full((len(part),), level))
                loss = aux(view(torch.arange(len(part)))).sum() / len(picked)
                own = apart(diffusion.sum() / len(picked), parameters, own)
                extra = apart(loss, parameters, extra)
                value += loss.item()
            for parameter, gradient in zip(parameters, own, strict=True):
                parameter.grad = gradient
            one, two, cosine = norms_and_cosine(parameters, extra)
            rows.append({"loss": name, "sigma": level, "grad_norm_diffusion": one, "grad_norm_aux": two})
            rows[-1] |= {"cosine": cosine, "loss_aux": value, "samples": len(picked)}
    write_text(arguments.output, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g", lineterminator="\n"))


if __name__ == "__main__":
    run_cli(main)
