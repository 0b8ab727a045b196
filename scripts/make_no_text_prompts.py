"""Draw the prompts without text, on which image drift is measured: signs, boards and labels that are to say nothing.

The same arguments write the same file. Only words of the caption templates occur: the nano tokenizer knows no others.
"""

import argparse
import json

import numpy as np

from legible.corpus.prompts import load_prompts
from legible.corpus.templates import PALETTE
from legible.errors import UserError, run_cli
from legible.io import write_jsonl
from legible.render.sign import contrast_ratio

THINGS, STYLES = ("sign", "board", "label"), ("", "plain ", "bold ", "light ")
CONTRAST = 4.5  # as between text and background of the signs with text


def combinations() -> list[dict]:
    """Every prompt that can be drawn, in a fixed order: things with and without a colour, on a background."""
    found = []
    for thing in THINGS:
        for background in PALETTE:
            found.append({"prompt": f"a {thing} on {background}", "background": background})
            for color in PALETTE:
                if contrast_ratio(PALETTE[color], PALETTE[background]) < CONTRAST:
                    continue
                for style in STYLES:
                    if not style and color == "orange":  # the templates have no "an"
                        continue
                    text = f"a {style}{color} {thing} on {background}"
                    found.append({"prompt": text, "color": color, "background": background})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--seed", type=int, default=2025)
    parser.add_argument("--prefix", default="no_text", help="what the ids begin with")
    parser.add_argument("--exclude", nargs="*", default=[], help="files whose prompts must not be drawn again")
    parser.add_argument("--output", default="resources/prompts/no_text.jsonl")
    args = parser.parse_args()

    excluded = {prompt.prompt for path in args.exclude for prompt in load_prompts(path, text=False)}
    possible = [row for row in combinations() if row["prompt"] not in excluded]
    if not 1 <= args.count <= len(possible):
        raise UserError(f"--count: 1 to {len(possible)} distinct prompts can be drawn, got {args.count}")
    # A quarter without a colour: few of all combinations are.
    plain = [row for row in possible if "color" not in row]
    colored = [row for row in possible if "color" in row]
    rng = np.random.default_rng(args.seed)
    few = min(args.count // 4, len(plain))
    drawn = [plain[i] for i in rng.permutation(len(plain))[:few]]
    drawn += [colored[i] for i in rng.permutation(len(colored))[: args.count - few]]
    order = rng.permutation(len(drawn))
    rows = [{"id": f"{args.prefix}-{n:03d}", "targets": [], "kind": "no_text"} | drawn[i] for n, i in enumerate(order)]
    write_jsonl(args.output, rows)
    print(json.dumps({"prompts": len(rows), "output": args.output}))


if __name__ == "__main__":
    run_cli(main)
