"""Sample images of a prompt set from the base or a fine-tuned model; the noise belongs to (prompt, image seed)."""

import argparse
from pathlib import Path

import torch
from PIL import Image

from legible.config import sections
from legible.corpus.prompts import load_prompts
from legible.errors import run_cli
from legible.io import atomic_path, sha256_file, write_jsonl
from legible.models.family import embed_prompts, open_model
from legible.models.spec import spec_of
from legible.progress import progress
from legible.seeds import image_noise


def main() -> None:
    """Parse, open the model once, sample in batches, write PNGs and (last) their manifest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="JSON with the sections model, generation, data")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--no-text", action="store_true", help="the prompts ask for no text: none may have a target")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--weights", type=Path, help="fine-tuned weights; without: the base model")
    parser.add_argument("--model-name", required=True, help="how the manifest calls the model")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    config = sections(arguments.config, "model", "generation", "data")
    generation, data = config["generation"], config["data"]
    prompts = load_prompts(arguments.prompts, arguments.limit, text=not arguments.no_text)
    # First the text encoder, alone; then what samples: they are never in memory together.
    negative = [""] if generation.guidance_scale > spec_of(config["model"].family).guidance_off else []
    conditioning = embed_prompts(
        config["model"], [p.prompt for p in prompts] + negative, arguments.threads, arguments.weights
    )
    empty = conditioning.pick([len(prompts)]) if negative else None
    model = open_model(
        config["model"], ("denoiser", "autoencoder", "scheduler"), arguments.threads, weights=arguments.weights
    )
    shape = model.latent_shape(data.height, data.width)
    jobs = [(place, seed) for place in range(len(prompts)) for seed in generation.seeds]
    rows = []
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(jobs), generation.batch_size)
    for start in progress(starts, f"sample {arguments.model_name}", unit="batch"):
        part = jobs[start : start + generation.batch_size]
        noise = torch.stack([image_noise(prompts[place].id, seed, shape) for place, seed in part])
        seen = conditioning.pick(place for place, _ in part)
        images = model.sample(seen, noise, generation.steps, generation.guidance_scale, empty)
        for (place, seed), pixels in zip(part, images, strict=True):
            prompt = prompts[place]
            file = f"{prompt.id}_s{seed}.png"
            with atomic_path(arguments.output_dir / file) as temporary:
                Image.fromarray(pixels.numpy()).save(temporary)
            rows.append(
                {
                    "file": file,
                    "prompt_id": prompt.id,
                    "image_seed": seed,
                    "prompt": prompt.prompt,
                    "targets": list(prompt.targets),
                    "kind": prompt.kind,
                    "font": prompt.font,
                    "model": arguments.model_name,
                    "sha256": sha256_file(arguments.output_dir / file),
                }
            )
    write_jsonl(arguments.output_dir / "manifest.jsonl", rows)


if __name__ == "__main__":
    run_cli(main)
