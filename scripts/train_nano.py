"""Train one part of the nano models; resumable.

Denoisers need `vae`, `scenery` `denoiser`, `shapes` `scenery`, twins of rewards `caption_clip`, and `unet_clip` `unet`.
"""

import argparse
import time
from pathlib import Path

import torch

from legible.errors import run_cli
from legible.fingerprint import code_fingerprint
from legible.io import sha256_json, write_json
from legible.nano.parts import FOLDERS, PARTS, train_part
from legible.nano.recipe import Recipe, tiny
from legible.provenance import environment

SEE_SCENES = ("scenery", "shapes", "caption_clip", "unet", "unet_clip", *Recipe().preferences)


def main() -> None:
    """Parse, train, measure, write the part's provenance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--output", type=Path, required=True, help="folder of the models, e.g. resources/nano")
    parser.add_argument("--work", type=Path, required=True, help="folder for the pool, checkpoints and curves")
    parser.add_argument("--provenance", type=Path, help="also write the provenance here")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="a fifth faster; needs a C++ compiler")
    parser.add_argument("--tiny", action="store_true", help="a miniature for tests")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = tiny() if arguments.tiny else Recipe()
    plain = recipe.of(arguments.part).as_dict()
    relevant = {name: plain[name] for name in ("seed", "pool", "fonts", "data")}
    relevant |= {"scenes": plain["scenes"]} if arguments.part in SEE_SCENES else {}
    relevant |= {"mixture": plain["mixture"]} if arguments.part == "shapes" else {}
    relevant |= {"part": (plain | plain["recognizers"] | plain["preferences"])[arguments.part]}
    began, code = time.monotonic(), code_fingerprint(__file__)
    key = sha256_json(relevant)
    measured = train_part(
        arguments.part, recipe, key, arguments.work, arguments.output, arguments.compile, arguments.tiny
    )
    folder = FOLDERS.get(arguments.part, arguments.part)
    provenance = {
        "command": f"snakemake --cores all nano   # scripts/train_nano.py {arguments.part}",
        "recipe": relevant,
        "code": code,
        "seconds_in_this_process": round(time.monotonic() - began),
        "measured": measured,
        **environment(),
    }
    write_json(arguments.output / folder / f"provenance_{arguments.part}.json", provenance)
    if arguments.provenance:
        write_json(arguments.provenance, provenance)
    print(measured)


if __name__ == "__main__":
    run_cli(main)
