"""Find the fonts, check what each of them really draws, and write the font manifest."""

import argparse
import sys
from pathlib import Path

from PIL import Image, ImageDraw

from legible.config import sections
from legible.errors import run_cli
from legible.io import atomic_path
from legible.render.fonts import Font, find_fonts, load_face, select_fonts, write_manifest

ROW, WIDTH = 40, 1200


def contact_sheet(fonts: list[Font]) -> Image.Image:
    """One row per font: its name, and the characters that it draws."""
    sheet = Image.new("RGB", (WIDTH, ROW * max(len(fonts), 1)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, font in enumerate(fonts):
        draw.text((8, ROW * i + 12), f"{font.name} ({', '.join(font.words)})", fill="black")
        face = load_face(font.path, 22, font.characters.isascii())
        draw.text((400, ROW * i + 30), font.characters, fill="black", font=face, anchor="ls")
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="JSON (inline or a file) with the section fonts")
    parser.add_argument("--output", required=True, help="manifest to write (JSON)")
    parser.add_argument("--sheet", help="PNG that shows every usable font")
    args = parser.parse_args()

    config = sections(args.config, "fonts")["fonts"]
    fonts = find_fonts(config)
    usable = [font for font in fonts if font.usable]
    for font in fonts:
        if not font.usable:
            print(f"skipped {Path(font.path).name}: {font.reason}", file=sys.stderr)
    # What the configuration asks for must be there; found out here, not when the first sign is drawn.
    chosen = select_fonts(fonts, config.train, config.held_out)
    held_out = select_fonts(fonts, config.held_out) if config.held_out else []
    write_manifest(args.output, fonts)
    if args.sheet:
        with atomic_path(args.sheet) as path:
            contact_sheet(usable).save(path, format="PNG")
    print(f"{len(fonts)} fonts found, {len(usable)} usable, {len(chosen)} to train on, {len(held_out)} held out")


if __name__ == "__main__":
    run_cli(main)
