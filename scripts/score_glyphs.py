"""Score what the glyph judge found: the share of pictures with a malformed letter, per arm, against its own control.

Model and prompt set are read from the paths: …/glyphs/{model}/{prompt_set}.jsonl.
"""

import argparse
import json
from pathlib import Path

from legible.config import Training
from legible.errors import UserError, run_cli
from legible.metrics.compare import own_control
from legible.metrics.files import read_config, read_rows, write_csv
from legible.metrics.malformed import judged_images, malformed_table
from legible.names import CONTROL


def judgement_key(path: Path) -> tuple[str, str]:
    """(model, prompt set) of a path that ends in glyphs/{model}/{prompt_set}.jsonl."""
    if len(path.parts) < 3 or path.parts[-3] != "glyphs" or path.suffix != ".jsonl":
        raise UserError(f"{path}: a path ending in glyphs/{{model}}/{{prompt_set}}.jsonl is needed")
    return path.parts[-2], path.stem


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="JSON (inline or a file) with the section scoring")
    parser.add_argument("--trainings", required=True, help="JSON: arm → its training section, without defaults")
    parser.add_argument("--glyphs", required=True, nargs="+", type=Path, help="files of scripts/judge_glyphs.py")
    parser.add_argument("--output", required=True, type=Path, help="malformed.csv")
    args = parser.parse_args()
    trainings = {arm: Training.model_validate(own) for arm, own in json.loads(args.trainings).items()}
    trainings = {arm: own.model_dump(mode="json", by_alias=True) for arm, own in trainings.items()}
    controls = {arm: own_control(arm, trainings).name for arm in trainings if arm != CONTROL}
    images = judged_images({judgement_key(path): read_rows(path) for path in args.glyphs})
    table = malformed_table(images, controls, read_config(args.config, "scoring")["scoring"])
    write_csv(args.output, table)
    print(table[["prompt_set", "arm", "value", "delta_vs_control", "delta_low", "delta_high"]].to_string(index=False))


if __name__ == "__main__":
    run_cli(main)
