"""In how many pictures of prompts without text a reader finds text: by noise, and by what is drawn.

    python benchmarks/text_without_text.py --noises 10 --processes 2 --output results/text_without_text

Three to six minutes a noise and core, most of it the reader's detector. Noise 0 is that of the parts of nano whose
provenance counts such pictures. `--of renders` and `--of round_trips` count the renderer's pictures of the same
prompts, as drawn or after the model's autoencoder: what a perfect denoiser would leave.
"""

import argparse
import json
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from legible.config import Model
from legible.corpus.prompts import Prompt, load_prompts
from legible.corpus.scenes import BLENDED, STRIPED, Scene
from legible.io import atomic_path, write_json
from legible.metrics.statistics import cluster_bootstrap, resample
from legible.models.family import ROLES, open_model
from legible.nano.judge import sample_signs, shows_text, to_images
from legible.progress import progress
from legible.render.scene import draw

PROMPTS = "resources/prompts/no_text.jsonl"
SIZE, STEPS = (32, 64), 8


def scene_of(prompt: Prompt) -> Scene:
    """What the prompt asks for; a plain ground has no other colour."""
    direction = next((word for word in (*STRIPED, *BLENDED) if word in prompt.prompt.split()), "")
    color = prompt.color or prompt.background
    return Scene(prompt.kind, color, prompt.background, prompt.count or 0, prompt.shape or "", direction)


def pictures(source: str, model: str, prompts: tuple[Prompt, ...], seed: int) -> list[Image.Image]:
    """One picture a prompt, by the model's noises or the renderer's chances of `seed`."""
    opened = open_model(Model(path=model), ROLES, 1)
    if source == "model":
        return sample_signs(opened, [prompt.prompt for prompt in prompts], SIZE, STEPS, seed=seed)
    rng = np.random.default_rng(seed)
    drawn = np.stack([draw(scene_of(prompt), *SIZE, rng) for prompt in prompts])
    if source == "renders":
        return [Image.fromarray(picture) for picture in drawn]
    pixels = torch.from_numpy(drawn.transpose(0, 3, 1, 2).copy()).float() / 127.5 - 1
    with torch.no_grad():
        return to_images(opened.decode(opened.encode_images(pixels)))


def places_with_text(seed: int, source: str, model: str, output: Path) -> list[int]:
    """Draw every prompt once by `seed`: which of the pictures show text. These are kept in `output`."""
    prompts = load_prompts(PROMPTS, None, text=False)
    drawn = pictures(source, model, prompts, seed)
    found = [place for place, shown in enumerate(shows_text(drawn, output)) if shown]
    for place in found:
        with atomic_path(output / f"{prompts[place].id}_s{seed}.png") as path:
            drawn[place].save(path)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=Model().path, help="folder of a nano model")
    parser.add_argument("--of", choices=("model", "renders", "round_trips"), default="model")
    parser.add_argument("--noises", type=int, default=10)
    parser.add_argument("--output", type=Path, required=True, help="folder: counts, and the pictures with text in them")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    prompts = load_prompts(PROMPTS, None, text=False)
    arguments.output.mkdir(parents=True, exist_ok=True)
    by_noise, by_kind, by_prompt = [], Counter(), np.zeros(len(prompts))
    with ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool:
        work = partial(places_with_text, source=arguments.of, model=arguments.model, output=arguments.output)
        for found in progress(pool.map(work, range(arguments.noises)), "noises", total=arguments.noises):
            by_kind.update(prompts[place].shape or prompts[place].kind for place in found)
            by_prompt[found] += 1
            by_noise.append(len(found))
    count = len(prompts) * arguments.noises
    weights = resample(len(prompts), 10000, np.random.default_rng(0))
    share = cluster_bootstrap(by_prompt, np.full(len(prompts), arguments.noises), weights, 0.95)
    of_prompts = Counter(prompt.shape or prompt.kind for prompt in prompts)
    result = {
        "pictures": count, "with_text": sum(by_noise), "share": share.value, "interval": [share.low, share.high],
        "by_noise": by_noise,
        "by_kind": {kind: [by_kind[kind], of_prompts[kind] * arguments.noises] for kind in sorted(of_prompts)},
    }  # fmt: skip
    write_json(arguments.output / "counts.json", result)
    json.dump(result, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
