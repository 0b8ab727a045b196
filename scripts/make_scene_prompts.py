"""Draw prompts of pictures without text: shapes, patterns and grounds, with what they ask for (count, shape, colours).

Captions of the split "test" nano has never been trained on; with `--phrasing unseen` not even their sentences. The same
arguments write the same file.
"""

import argparse
import json

from legible.corpus.scenes import PHRASINGS, TEMPLATES, UNSEEN, Scene
from legible.errors import UserError, run_cli
from legible.io import write_jsonl
from legible.render.scene import draw_scenes


def sentence(scene: Scene, phrasing: str, place: int) -> str:
    """The scene's prompt: in its own words, in those that nano was taught besides (in turn), or in unseen ones."""
    if phrasing == "unseen":
        return scene.phrased(UNSEEN[scene.kind])
    taught = (TEMPLATES[scene.kind], *PHRASINGS[scene.kind])
    return scene.phrased(taught[place % len(taught)]) if phrasing == "taught" else scene.caption


def asked(scene: Scene) -> dict:
    """What a picture of the scene can be checked for."""
    ground = {"kind": scene.kind, "background": scene.background}
    color = {} if scene.kind == "plain" else {"color": scene.color}
    return ground | color | ({"count": scene.count, "shape": scene.shape} if scene.kind == "shapes" else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--seed", type=int, default=2027)
    parser.add_argument("--split", choices=["train", "test"], default="test", help="test: unknown to nano")
    parser.add_argument("--phrasing", choices=["own", "taught", "unseen"], default="own")
    parser.add_argument("--kinds", nargs="+", choices=list(TEMPLATES), default=list(TEMPLATES))
    parser.add_argument("--prefix", default="scene", help="what the ids begin with")
    parser.add_argument("--bare", action="store_true", help="without what the prompts ask for")
    parser.add_argument("--output", default="resources/prompts/scenes.jsonl")
    args = parser.parse_args()

    pictures = draw_scenes(args.seed, args.split, 16 * args.count, 32, 64) if args.count > 0 else []
    drawn: dict[str, Scene] = {}
    for picture in pictures:
        if picture.scene.kind in args.kinds:
            drawn.setdefault(picture.scene.caption, picture.scene)
    scenes = list(drawn.values())
    if not 1 <= args.count <= len(scenes):
        raise UserError(f"--count: 1 to {len(scenes)} different prompts can be drawn here, got {args.count}")
    rows = []
    for number, scene in enumerate(scenes[: args.count]):
        row = {"id": f"{args.prefix}-{number:03d}", "targets": [], "prompt": sentence(scene, args.phrasing, number)}
        rows.append(row | ({"kind": "no_text"} if args.bare else asked(scene)))
    write_jsonl(args.output, rows)
    print(json.dumps({"prompts": len(rows), "output": args.output}))


if __name__ == "__main__":
    run_cli(main)
