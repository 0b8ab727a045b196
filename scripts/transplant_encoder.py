"""Put a tuned text encoder into a pipeline of diffusers with the same one: SDXL (its first), ControlNet, inpainting.

    python scripts/transplant_encoder.py --pipeline models/sdxl --output models/sdxl-tuned \
        --weights results/textcraftor/runs/reading/seed0/weights --prompt "a sign that says OPEN" --picture both.png

--output is a folder that plain diffusers opens. --picture is the pipeline's own picture and, on its right, the one with
the tuned encoder, both from the same noise.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from legible.config import Model
from legible.errors import UserError, run_cli
from legible.io import atomic_path
from legible.models.opening import choose_device, first_line
from legible.models.transplant import (
    PIPELINES,
    Pipeline,
    open_pipeline,
    open_tuned,
    save_transplanted,
    transplanted,
    tuned_model,
)

OPTIONS = {"image": "--image", "mask_image": "--mask"}
GRID = 8  # pixels: diffusers takes multiples of it


def read_pictures(pipeline: Pipeline, given: dict[str, Path | None]) -> dict[str, Image.Image]:
    """The pictures that the pipeline is called with besides the prompt, all of one size.

    Raises:
        UserError: one is missing, is not used, cannot be read, or has a size that does not fit.
    """
    needed, kind = PIPELINES[type(pipeline)], type(pipeline).__name__
    for name, path in given.items():
        if (path is not None) != (name in needed):
            raise UserError(f"{OPTIONS[name]}: a {kind} {'needs' if name in needed else 'takes no'} such picture")
    pictures = {}
    for name in needed:
        try:
            pictures[name] = Image.open(given[name]).convert("RGB")
        except OSError as error:
            raise UserError(f"{OPTIONS[name]}: {given[name]} is no picture ({first_line(error)})") from error
        width, height = pictures[name].size
        if width % GRID or height % GRID or pictures[name].size != pictures["image"].size:
            size = f"multiples of {GRID}, and of a mask those of its image, are needed"
            raise UserError(f"{OPTIONS[name]}: {given[name]} has {width} × {height} pixels; {size}")
    return pictures


def draw(
    pipeline: Pipeline, prompt: str, pictures: dict[str, Image.Image], steps: int, guidance_scale: float, seed: int
) -> Image.Image:
    """The pipeline's picture, of the size of those that it is given; its noise follows from the seed alone."""
    sizes = dict(zip(("width", "height"), pictures["image"].size, strict=True)) if pictures else {}
    return pipeline(
        prompt=prompt, num_inference_steps=steps, guidance_scale=guidance_scale,
        generator=torch.Generator().manual_seed(seed), **pictures, **sizes,
    ).images[0]  # fmt: skip


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures beside one another."""
    page = Image.new("RGB", (left.width + right.width, left.height))
    page.paste(left, (0, 0))
    page.paste(right, (left.width, 0))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path, required=True, help="folder of a pipeline of diffusers")
    parser.add_argument("--weights", required=True, help="a run's weights, or `base`")
    parser.add_argument("--model", help="folder of the model in which they were tuned; default: what run.json names")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; it may not be there yet")
    parser.add_argument("--prompt")
    parser.add_argument("--image", type=Path, help="what a ControlNet is shown, or the picture to paint into")
    parser.add_argument("--mask", type=Path, help="white where to paint")
    parser.add_argument("--picture", type=Path, help="PNG to write")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance-scale", type=float, default=7.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if (arguments.prompt is None) != (arguments.picture is None):
        raise UserError("--prompt and --picture: one needs the other")
    if arguments.output.exists():
        raise UserError(f"--output: {arguments.output} is already there; name a new folder")
    weights = None if arguments.weights == "base" else Path(arguments.weights)
    if arguments.model is None and weights is None:
        raise UserError("--model: it is needed with --weights base")
    model = Model(family="stable_diffusion", path=arguments.model) if arguments.model else tuned_model(weights)
    tuned = open_tuned(model, weights, arguments.threads)
    pipeline = open_pipeline(arguments.pipeline)
    changed = transplanted(pipeline, tuned)
    if arguments.picture:
        pictures = read_pictures(pipeline, {"image": arguments.image, "mask_image": arguments.mask})
        path = (arguments.prompt, pictures, arguments.steps, arguments.guidance_scale, arguments.seed)
        drawn = [draw(one.to(choose_device(model)), *path) for one in (pipeline, changed)]
        with atomic_path(arguments.picture) as temporary:
            beside(*drawn).save(temporary, format="PNG")
    save_transplanted(arguments.pipeline, changed, arguments.output)


if __name__ == "__main__":
    run_cli(main)
