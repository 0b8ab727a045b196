"""Record the base model's sampling trajectories on prompts without text: what the velocity anchor holds on to."""

import argparse
import hashlib
from pathlib import Path

import torch

from legible.config import sections
from legible.corpus.prompts import load_prompts
from legible.errors import UserError, run_cli
from legible.models.family import embed_prompts, open_model
from legible.progress import progress
from legible.train.anchor import Trajectories, save_trajectories
from legible.train.checkpoint import stateless_generator


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
    embeddings = embed_prompts(config["model"], [prompt.prompt for prompt in prompts], arguments.threads)
    model = open_model(config["model"], ("transformer", "vae", "scheduler"), arguments.threads)
    shape = model.latent_shape(data.height, data.width)
    jobs = [(place, seed) for place in range(len(prompts)) for seed in anchor.seeds]
    latents, velocities, sigma = [], [], None
    for start in progress(range(0, len(jobs), generation.batch_size), "base trajectories", unit="batch"):
        part = jobs[start : start + generation.batch_size]
        numbers = [int.from_bytes(hashlib.sha256(prompts[p].id.encode()).digest()[:4], "big") for p, _ in part]
        noise = torch.stack(
            [
                torch.randn(shape, generator=stateless_generator(number, 7, seed))
                for number, (_, seed) in zip(numbers, part, strict=True)
            ]
        )
        points, away, sigma = model.trajectory([embeddings[p] for p, _ in part], noise, generation.steps)
        latents.append(points.cpu())
        velocities.append(away.cpu())
    captions = [embeddings[place] for place, _ in jobs]
    save_trajectories(
        arguments.output,
        Trajectories(
            latents=torch.cat(latents, dim=1),
            velocities=torch.cat(velocities, dim=1),
            sigma=sigma.cpu(),
            captions=torch.cat(captions),
            offsets=torch.tensor([0] + [len(caption) for caption in captions]).cumsum(0),
        ),
    )


if __name__ == "__main__":
    run_cli(main)
