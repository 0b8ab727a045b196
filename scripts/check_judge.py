"""Read our own clean renders of the prompts with one judge; refuse it where it gets too many characters wrong."""

import argparse
from pathlib import Path

from legible.config import JUDGES
from legible.errors import run_cli
from legible.manifests import manifest_in
from legible.metrics.files import image_key, read_config, write_csv
from legible.ocr import open_engine
from legible.ocr.clean import check_fit, clean_errors
from legible.ocr.manifests import engine_section, listed_images, read_manifest
from legible.ocr.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", required=True, choices=sorted(JUDGES))
    parser.add_argument("--config", required=True, help="JSON (inline or a file) with the sections ocr and scoring")
    parser.add_argument("--images", required=True, nargs="+", type=manifest_in, help="folders of the rendered prompts")
    parser.add_argument("--cache", required=True, type=Path, help="folder for files that the engine has to write")
    parser.add_argument("--output", required=True, type=Path, help="CSV: what it got wrong, by prompt set and kind")
    args = parser.parse_args()

    scoring = read_config(args.config, "scoring")["scoring"]
    engine = open_engine(args.engine, engine_section(args.engine, args.config), args.cache)
    manifests, readings = {}, {}
    for path in args.images:
        model, prompt_set = image_key(path)
        manifests[model, prompt_set] = listed_images(path)
        found = read_manifest(engine, path.parent, manifests[model, prompt_set], Store(None, ""))
        readings[args.engine, model, prompt_set] = found
    table = clean_errors(manifests, readings, scoring)
    print(table.to_string(index=False), flush=True)
    if scoring.judge_limit is not None:
        check_fit(table, scoring.judge_limit)
    write_csv(args.output, table)


if __name__ == "__main__":
    run_cli(main)
