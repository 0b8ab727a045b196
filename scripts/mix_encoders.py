"""Draw prompts with text encoders mixed: from one to another, or several at once, all with the same noise.

Shares go over what the encoders say (their embeddings), not over their weights. Two encoders and --between 5 give the
columns 0, ¼, ½, ¾ and 1 of the second one; --shares draws one column.

    python scripts/mix_encoders.py --config nano.json --prompts resources/prompts/held_out.jsonl --limit 8 \
        --weights base results/textcraftor/runs/reading/seed0/weights --between 5 --output mixed.png
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from legible.config import sections
from legible.corpus.prompts import load_prompts
from legible.errors import UserError, run_cli
from legible.io import atomic_path
from legible.models.conditioning import Conditioning, mixed
from legible.models.family import embed_prompts, open_model
from legible.progress import progress
from legible.seeds import image_noise

HEAD = 14  # pixels above the columns, for their shares


def mixtures(count: int, shares: list[float] | None, between: int) -> list[list[float]]:
    """The shares of each column.

    Raises:
        UserError: neither `shares` for each encoder nor two encoders to go between.
    """
    if shares is not None:
        if len(shares) != count or abs(sum(shares) - 1) > 1e-6:
            raise UserError(f"--shares: {count} numbers are needed, one for each of --weights, 1 in sum")
        return [shares]
    if count != 2 or between < 2:
        raise UserError("--between: two --weights are needed and at least 2 columns; for more encoders give --shares")
    return [[1 - place / (between - 1), place / (between - 1)] for place in range(between)]


def sheet(columns: list[list[Image.Image]], heads: list[str]) -> Image.Image:
    """The columns beside one another, each under its head."""
    width, height = columns[0][0].size
    page = Image.new("RGB", (width * len(columns), HEAD + height * len(columns[0])), "white")
    pen = ImageDraw.Draw(page)
    for place, (pictures, head) in enumerate(zip(columns, heads, strict=True)):
        pen.text((place * width + 2, 1), head, fill="black", font=ImageFont.load_default(9))
        for row, picture in enumerate(pictures):
            page.paste(picture, (place * width, HEAD + row * height))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="JSON with the sections model, generation, data")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--weights", nargs="+", required=True, help="of each encoder a run's weights, or `base`")
    parser.add_argument("--shares", nargs="+", type=float, help="of each encoder, 1 in sum")
    parser.add_argument("--between", type=int, default=5, help="columns from the first encoder to the second")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    config = sections(arguments.config, "model", "generation", "data")
    columns = mixtures(len(arguments.weights), arguments.shares, arguments.between)
    prompts = load_prompts(arguments.prompts, arguments.limit)
    texts = [prompt.prompt for prompt in prompts] + [""]
    places = [None if name == "base" else Path(name) for name in arguments.weights]
    said = [embed_prompts(config["model"], texts, arguments.threads, place) for place in places]
    model = open_model(config["model"], ("denoiser", "autoencoder", "scheduler"), arguments.threads)
    shape = model.latent_shape(config["data"].height, config["data"].width)
    noise = torch.stack([image_noise(prompt.id, config["generation"].seeds[0], shape) for prompt in prompts])

    def draw(conditioning: Conditioning) -> list[Image.Image]:
        own, empty = conditioning.pick(range(len(prompts))), conditioning.pick([len(prompts)])
        generation = config["generation"]
        images = model.sample(own, noise, generation.steps, generation.guidance_scale, empty)
        return [Image.fromarray(np.ascontiguousarray(image)) for image in images.numpy()]

    drawn = [draw(mixed(said, shares)) for shares in progress(columns, "mixtures", unit="mixture")]
    with atomic_path(arguments.output) as temporary:
        sheet(drawn, [" ".join(f"{share:.2g}" for share in shares) for shares in columns]).save(temporary, format="PNG")


if __name__ == "__main__":
    run_cli(main)
