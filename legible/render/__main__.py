"""Draw pictures with text: a contact sheet to look at, or a dataset with labels."""

import argparse
import json
from pathlib import Path

import numpy as np
import yaml
from pydantic import ValidationError

from legible.config.render import PRESETS, Recipe
from legible.config.scripts import known
from legible.errors import UserError, describe, run_cli
from legible.io import atomic_path
from legible.render.exporters import EXPORTERS, export
from legible.render.records import decoded, draw_rows, encoded, preview, write_records


def read_recipe(args: argparse.Namespace) -> Recipe:
    """The preset, with what the recipe file and then the command line say otherwise."""
    settings = dict(PRESETS[args.preset])
    if args.recipe:
        try:
            found = yaml.safe_load(Path(args.recipe).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"--recipe: {args.recipe} cannot be read ({str(error).splitlines()[0]})") from error
        if not isinstance(found, dict):
            raise UserError(f"--recipe: {args.recipe}: keys with values are expected in it")
        settings |= found
    if args.script:
        settings["scripts"] = dict.fromkeys(args.script, 1.0)
    settings |= {side: value for side in ("height", "width") if (value := getattr(args, side)) is not None}
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        raise UserError(f"recipe: {describe(error)}") from error


def contact_sheet(rows: list[dict], boxes: bool, across: int) -> np.ndarray:
    """All pictures side by side, `across` in a row."""
    cells = [decoded(preview(row) if boxes else row["image"]["bytes"]) for row in rows]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % across)
    return np.vstack([np.hstack(cells[i : i + across]) for i in range(0, len(cells), across)])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m legible.render", description=__doc__)
    parser.add_argument("--script", nargs="+", metavar="NAME", help=f"of {', '.join(known().scripts)}; default: all")
    parser.add_argument("--count", type=int, default=16, help="pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", choices=list(PRESETS), default="scenes", help="what kind of pictures")
    parser.add_argument("--recipe", metavar="FILE", help="YAML with other settings than the preset's")
    parser.add_argument("--height", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--sheet", metavar="FILE", help="one picture of all of them, labels drawn in: .png or .jpg")
    parser.add_argument("--no-boxes", action="store_true", help="the sheet without labels")
    parser.add_argument("--across", type=int, default=4, help="pictures in a row of the sheet")
    parser.add_argument("--output", metavar="FILE", help="dataset as Parquet, with its coverage certificate")
    parser.add_argument("--png", action="store_true", help="pictures as PNG, not as JPEG")
    parser.add_argument(
        "--export", nargs=2, metavar=("FORMAT", "FOLDER"), help=f"the dataset as {', '.join(EXPORTERS)}"
    )
    parser.add_argument("--workers", type=int, help="processes; the bytes do not depend on it; default: all cores")
    args = parser.parse_args()
    for name in ("count", "across", "workers"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name}: {getattr(args, name)} is not above 0")
    if not (args.sheet or args.output):
        raise UserError("nothing to write: give --sheet FILE, --output FILE, or both")
    if args.export and (not args.output or args.export[0] not in EXPORTERS):
        raise UserError(f"--export: needs --output, and one of {', '.join(EXPORTERS)}")
    recipe = read_recipe(args)

    encoding = "png" if args.png else "jpeg"
    if args.output:
        certificate = write_records(args.output, recipe, args.seed, args.count, encoding, args.workers)
        shares = {name: round(found["share"], 3) for name, found in certificate["scripts"].items()}
        print(json.dumps({"pictures": args.count, "rejected": certificate["rejected"], "coverage": shares}))
        if args.export:
            export(args.output, *args.export)
    if args.sheet:
        rows = [row for part, _ in draw_rows(recipe, args.seed, args.count, "png", args.workers) for row in part]
        sheet = contact_sheet(rows, not args.no_boxes, min(args.across, args.count))
        with atomic_path(args.sheet) as temporary:
            temporary.write_bytes(encoded(sheet, "jpeg" if args.sheet.lower().endswith((".jpg", ".jpeg")) else "png"))
        print(f"{args.sheet}: {args.count} pictures")


if __name__ == "__main__":
    run_cli(main)
