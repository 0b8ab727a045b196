"""Draw a prompt set of short strings on small signs, none of them to be trained on; by default the held-out set.

The same arguments write the same file (tests/unit/test_prompts.py and test_dataset.py hold the shipped sets). Every
target fits on its sign, no target occurs inside another one or one of `--exclude`, and no target takes more than a few
words of the word lists out of the training text.
"""

import argparse
import json
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import PositiveInt, TypeAdapter, ValidationError

from legible.config import Data, sections
from legible.corpus.fresh import draw_target
from legible.corpus.prompts import ID, Prompt, load_prompts
from legible.corpus.templates import PALETTE, caption
from legible.errors import UserError, describe, run_cli
from legible.io import write_jsonl
from legible.render.fonts import Font, find_fonts, select_fonts
from legible.render.sign import contrast_ratio, draw_sign

Plan = dict[Literal["word", "rare", "nonword", "digits"], dict[PositiveInt, PositiveInt]]
# Targets by kind and length: 20 of two characters, 35 of each length from three to six. No common word of two letters:
# it would take every word that contains it out of the training text.
PLAN = {
    "word": {3: 16, 4: 16, 5: 16, 6: 16},
    "rare": {3: 6, 4: 6, 5: 6, 6: 6},
    "nonword": {2: 14, 3: 9, 4: 8, 5: 9, 6: 8},
    "digits": {2: 6, 3: 4, 4: 5, 5: 4, 6: 5},
}


def draft(rng: np.random.Generator, target: str, kind: str, data: Data, font: Font) -> Prompt | None:
    """A prompt for `target` in `font`, in colours of sufficient contrast; None when it does not fit on the sign."""
    while True:
        color, background = (list(PALETTE)[i] for i in rng.integers(0, len(PALETTE), 2))
        if contrast_ratio(PALETTE[color], PALETTE[background]) >= data.contrast:
            break
    if draw_sign((target,), font, data.font_size[1], color, background, data) is None:
        return None
    text = caption(rng, (target,), font.words, color, background)
    return Prompt("draft", text, (target,), kind, font.name, color, background)


def read_plan(text: str) -> Plan:
    """The numbers of targets by kind and length, from JSON."""
    try:
        return TypeAdapter(Plan).validate_json(text)
    except ValidationError as error:
        raise UserError(f"--plan: {describe(error)}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="JSON (inline or a file) with the sections fonts and data")
    parser.add_argument("--plan", help='numbers of targets by kind and length as JSON, like {"word": {"4": 11}}')
    parser.add_argument("--prefix", default="held_out", help="what the ids begin with")
    parser.add_argument("--exclude", type=Path, nargs="*", default=[], help="prompt sets whose targets are taken")
    parser.add_argument(
        "--unseen", action="store_true", help="only targets that no training text can hold by the lists"
    )
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--output", default="resources/prompts/held_out.jsonl")
    args = parser.parse_args()

    if not ID.fullmatch(args.prefix):
        raise UserError(f"--prefix: '{args.prefix}' must consist of letters, digits, '_' and '-'")
    plan = PLAN if args.plan is None else read_plan(args.plan)
    data, font_config = (sections(args.config, "fonts", "data")[name] for name in ("data", "fonts"))
    fonts = select_fonts(find_fonts(font_config), font_config.train, font_config.held_out)
    rng = np.random.default_rng(args.seed)
    slots = [(kind, length) for kind, by_length in plan.items() for length, n in by_length.items() for _ in range(n)]
    # Short targets first: the long ones can then avoid them.
    slots.sort(key=lambda slot: slot[1])
    excluded = [target for path in args.exclude for prompt in load_prompts(path) for target in prompt.targets]
    prompts: list[Prompt] = []
    for number, (kind, length) in enumerate(slots):
        prompt = None
        while prompt is None:
            target = draw_target(rng, data.script, kind, length, excluded, args.unseen)
            prompt = draft(rng, target, kind, data, fonts[number % len(fonts)])
        excluded.append(target)
        prompts.append(prompt)
    # Shuffled, so that the first so many prompts have about the mix of all of them.
    order = rng.permutation(len(prompts))
    rows = []
    for number, i in enumerate(order):
        p = prompts[i]
        row = {"id": f"{args.prefix}-{number:03d}", "prompt": p.prompt, "targets": list(p.targets), "kind": p.kind}
        rows.append({**row, "font": p.font, "color": p.color, "background": p.background})
    write_jsonl(args.output, rows)
    print(json.dumps({"prompts": len(rows), "output": args.output}))


if __name__ == "__main__":
    run_cli(main)
