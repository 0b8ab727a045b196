"""Sample images of a prompt set from the base or fine-tuned models; the noise belongs to (prompt, image seed)."""

import argparse
from pathlib import Path

from PIL import Image

from legible.config import sections
from legible.corpus.prompts import Prompt, load_prompts
from legible.drawn import drawn_before, identity, shared_by_all, write_drawn
from legible.errors import UserError, run_cli
from legible.io import atomic_path, sealed, sha256_file, write_jsonl
from legible.manifests import link_files
from legible.models.drawing import Asked, draw_batch, texts_of
from legible.models.family import embed_prompts, open_model
from legible.models.spec import spec_of
from legible.progress import progress


def draw(
    config: dict, prompts: list[Prompt], name: str, weights: Path | None, folder: Path, threads: int
) -> list[dict]:
    """Open the model once, sample in batches and write PNGs; the manifest's rows."""
    generation, data = config["generation"], config["data"]
    # First the text encoders, alone; then what samples: they are never in memory together.
    texts = texts_of([p.prompt for p in prompts], generation, spec_of(config["model"].family))
    conditioning = embed_prompts(config["model"], texts, threads, weights)
    original = embed_prompts(config["model"], texts, threads) if weights and generation.tuned_steps else conditioning
    switched = generation.tuned_steps if not original.equals(conditioning) else None  # nothing was tuned, or none is
    model = open_model(config["model"], ("denoiser", "autoencoder", "scheduler"), threads, weights=weights)
    model = model.with_scheduler(generation.scheduler) if generation.scheduler else model
    shape, asked = model.latent_shape(data.height, data.width), Asked([p.id for p in prompts], conditioning, original)
    jobs = [(place, seed) for place in range(len(prompts)) for seed in generation.seeds]
    rows = []
    folder.mkdir(parents=True, exist_ok=True)
    for start in progress(range(0, len(jobs), generation.batch_size), f"sample {name}", unit="batch"):
        part = jobs[start : start + generation.batch_size]
        images = draw_batch(model, asked, part, shape, generation, switched)
        for (place, seed), pixels in zip(part, images, strict=True):
            prompt = prompts[place]
            file = f"{prompt.id}_s{seed}.png"
            with atomic_path(folder / file) as temporary:
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
                    "model": name,
                    "sha256": sha256_file(folder / file),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="JSON with the sections model, generation, data")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--no-text", action="store_true", help="the prompts ask for no text: none may have a target")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--model-name", nargs="+", required=True, help="how the manifests call the models")
    parser.add_argument("--weights", type=Path, nargs="+", help="fine-tuned weights of each; without: the base model")
    parser.add_argument("--output-dir", type=Path, nargs="+", required=True, help="a folder for each")
    parser.add_argument("--store", type=Path, help="folder that keeps what was drawn; without: all are drawn")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    names, weights = arguments.model_name, arguments.weights or [None] * len(arguments.model_name)
    if not len(names) == len(weights) == len(arguments.output_dir):
        raise UserError("--model-name, --weights and --output-dir: each must name as many models as the others")
    config = sections(arguments.config, "model", "generation", "data")
    prompts = load_prompts(arguments.prompts, arguments.limit, text=not arguments.no_text)
    shared = shared_by_all(config, prompts) if arguments.store else []
    for name, tuned, folder in zip(names, weights, arguments.output_dir, strict=True):
        kept = arguments.store and arguments.store / f"{name}_{folder.name}"
        key = identity(shared, config, tuned) if kept else ""
        rows = drawn_before(kept, key) if kept else None
        if rows is None:
            rows = draw(config, prompts, name, tuned, kept or folder, arguments.threads)
            if kept:
                write_drawn(kept, key, rows)
        if kept:
            link_files((row["file"] for row in rows), kept, folder)
        write_jsonl(folder / "manifest.jsonl", [sealed(row) for row in rows])


if __name__ == "__main__":
    run_cli(main)
