"""Attributes: do the pictures of prompts without text show the ground, colour, number and shape that these name?

Models are read from the paths: …/images/{model}/{prompt_set}. Prompts that name nothing measurable do not count;
without any other the table has no rows.
"""

import argparse
from pathlib import Path

from legible.corpus.prompts import load_prompts
from legible.errors import UserError, run_cli
from legible.manifests import manifest_in
from legible.metrics.attributes import attribute_table, by_picture
from legible.metrics.features import read_images
from legible.metrics.files import image_key, read_config, write_csv
from legible.names import BASE, CONTROL, arm_and_seed
from legible.progress import progress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="JSON (inline or a file) with scoring")
    parser.add_argument("--prompts", required=True, type=Path, help="the prompt set that all models have drawn")
    parser.add_argument(
        "--images", required=True, nargs="+", type=manifest_in, help="pictures of base and of every run"
    )
    parser.add_argument("--output", required=True, type=Path, help="attributes.csv")
    args = parser.parse_args()

    scoring = read_config(args.config, "scoring")["scoring"]
    prompts = {prompt.id: prompt for prompt in load_prompts(args.prompts, text=False)}
    models = {}
    for manifest in progress(args.images, "attributes", unit="model"):
        keys, images = read_images(manifest)
        if unknown := sorted({key[0] for key in keys} - set(prompts)):
            raise UserError(f"{manifest}: the prompt {unknown[0]} is not in {args.prompts}; generate the images again")
        models[arm_and_seed(image_key(manifest)[0])] = by_picture(images, [key[0] for key in keys], prompts)
    if missing := sorted({BASE, CONTROL} - {arm for arm, _ in models}):
        raise UserError(f"--images: images of {missing[0]} are missing; generate them first")
    table = attribute_table(models, scoring)
    write_csv(args.output, table)
    print(table[table["attribute"] == "all"].to_string(index=False))


if __name__ == "__main__":
    run_cli(main)
