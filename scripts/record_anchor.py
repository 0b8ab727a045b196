"""Record the base model's sampling trajectories on prompts without text: what the velocity anchor holds on to."""

import argparse
from pathlib import Path

import torch

from legible.config import sections
from legible.corpus.prompts import load_prompts
from legible.errors import UserError, run_cli
from legible.models.family import embed_prompts, open_model
from legible.models.sampler import trajectory
from legible.progress import progress
from legible.seeds import anchor_noise
from legible.train.anchor import Trajectories, save_trajectories


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="JSON with the sections model, generation, data, anchor")
    parser.add_argument("--not-these", type=Path, nargs="*", default=[], help="prompt files that must share no prompt")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    config = sections(arguments.config, "model", "generation", "data", "anchor")
    anchor, data, generation = config["anchor"], config["data"], config["generation"]
    prompts = load_prompts(anchor.prompts, anchor.limit, text=False)
    for path in arguments.not_these:
        measured = {prompt.prompt for prompt in load_prompts(path, text=False)}
        if shared := sorted(measured & {prompt.prompt for prompt in prompts}):
            raise UserError(f"{anchor.prompts}: {shared[0]!r} is also in {path}, on which drift is measured")
    conditioning = embed_prompts(config["model"], [prompt.prompt for prompt in prompts], arguments.threads)
    model = open_model(config["model"], ("denoiser", "autoencoder", "scheduler"), arguments.threads)
    shape = model.latent_shape(data.height, data.width)
    jobs = [(place, seed) for place in range(len(prompts)) for seed in anchor.seeds]
    latents, predictions, levels = [], [], None
    for start in progress(range(0, len(jobs), generation.batch_size), "base trajectories", unit="batch"):
        part = jobs[start : start + generation.batch_size]
        noise = torch.stack([anchor_noise(prompts[place].id, seed, shape) for place, seed in part])
        seen = conditioning.pick(place for place, _ in part)
        points, answers, levels = trajectory(model, seen, noise, generation.steps)
        latents.append(points.cpu())
        predictions.append(answers.cpu())
    save_trajectories(
        arguments.output,
        Trajectories(
            latents=torch.cat(latents, dim=1),
            predictions=torch.cat(predictions, dim=1),
            levels=levels.cpu(),
            conditioning=conditioning.pick(place for place, _ in jobs),
        ),
    )


if __name__ == "__main__":
    run_cli(main)
