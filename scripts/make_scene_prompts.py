"""Draw prompts of pictures without text that nano's Stable Diffusion has never seen: shapes, patterns and grounds.

Its pool has seven captions of eight; these are of the eighth. The same arguments write the same file.
"""

import argparse
import json

from legible.errors import run_cli
from legible.io import write_jsonl
from legible.render.scene import draw_scenes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--seed", type=int, default=2027)
    parser.add_argument("--output", default="resources/prompts/scenes.jsonl")
    args = parser.parse_args()

    pictures = draw_scenes(args.seed, "test", 8 * args.count, 32, 64)
    captions = list(dict.fromkeys(picture.scene.caption for picture in pictures))[: args.count]
    rows = [
        {"id": f"scene-{number:03d}", "targets": [], "kind": "no_text", "prompt": caption}
        for number, caption in enumerate(captions)
    ]
    write_jsonl(args.output, rows)
    print(json.dumps({"prompts": len(rows), "output": args.output}))


if __name__ == "__main__":
    run_cli(main)
