"""In how many of the base model's pictures of prompts without text a reader finds text: by noise, and by what is drawn.

    python benchmarks/text_without_text.py --noises 10 --output results/text_without_text

About six minutes a noise on one core, most of it the reader's detector. Noise 0 is that of part `scenery` of
nano, whose provenance counts 5 of 240.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from legible.config import Model
from legible.corpus.prompts import load_prompts
from legible.io import atomic_path, write_json
from legible.models.family import ROLES, open_model
from legible.nano.judge import sample_signs, shows_text
from legible.progress import progress

PROMPTS = "resources/prompts/no_text.jsonl"
SIZE, STEPS = (32, 64), 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=Model().path, help="folder of a nano model")
    parser.add_argument("--noises", type=int, default=10)
    parser.add_argument("--output", type=Path, required=True, help="folder: counts, and the pictures with text in them")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    prompts = load_prompts(PROMPTS, None, text=False)
    captions = [prompt.prompt for prompt in prompts]
    model = open_model(Model(path=arguments.model), ROLES, arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    by_noise, by_kind = [], Counter()
    for seed in progress(range(arguments.noises), "noises"):
        pictures = sample_signs(model, captions, SIZE, STEPS, seed=seed)
        found = [place for place, shown in enumerate(shows_text(pictures, arguments.output)) if shown]
        for place in found:
            by_kind[prompts[place].shape or prompts[place].kind] += 1
            with atomic_path(arguments.output / f"{prompts[place].id}_s{seed}.png") as path:
                pictures[place].save(path)
        by_noise.append(len(found))
    count = len(captions) * arguments.noises
    of_prompts = Counter(prompt.shape or prompt.kind for prompt in prompts)
    result = {
        "pictures": count, "with_text": sum(by_noise), "share": sum(by_noise) / count, "by_noise": by_noise,
        "by_kind": {kind: [by_kind[kind], of_prompts[kind] * arguments.noises] for kind in sorted(of_prompts)},
    }  # fmt: skip
    write_json(arguments.output / "counts.json", result)
    json.dump(result, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
