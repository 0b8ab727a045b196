"""Render what a perfect model would draw for every prompt: the ceiling of the OCR scores."""

import argparse
from importlib import import_module
from pathlib import Path

from PIL import Image

from legible.config import sections
from legible.corpus.prompts import load_prompts
from legible.errors import run_cli
from legible.io import atomic_path, sealed, sha256_file, write_jsonl
from legible.progress import progress
from legible.render.fonts import read_manifest, select_fonts
from legible.render.sign import draw_prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--config", required=True, help="JSON (inline or a file) with the sections fonts, data and perhaps render"
    )
    parser.add_argument("--fonts", required=True, help="font manifest of inspect_fonts.py")
    parser.add_argument("--prompts", required=True, help="prompt set (JSON lines)")
    parser.add_argument("--limit", type=int, help="use only the first so many prompts")
    parser.add_argument("--output-dir", required=True, help="folder for the PNGs and manifest.jsonl")
    args = parser.parse_args()

    config = sections(args.config, "fonts", "data")
    prompts = load_prompts(args.prompts, args.limit)
    # All are drawn before the first is written: a prompt that does not fit leaves no half-filled folder.
    if render := config.get("render"):
        engine = import_module("legible.render.pictures")  # by name, as in render_dataset
        signs = [engine.draw_prompt(prompt, config["data"], render) for prompt in prompts]
    else:
        manifest = read_manifest(args.fonts)
        trained = select_fonts(manifest, config["fonts"].train, config["fonts"].held_out)
        # A prompt without a font takes the first one trained with; a prompt with one may name any usable font.
        fonts = trained + [font for font in manifest if font.usable and font not in trained]
        signs = [draw_prompt(prompt, config["data"], fonts) for prompt in prompts]
    folder, rows = Path(args.output_dir), []
    for prompt, sign in zip(progress(prompts, "ceiling", unit="image"), signs, strict=True):
        target = folder / f"{prompt.id}.png"
        with atomic_path(target) as path:
            Image.fromarray(sign.image).save(path, format="PNG")
        row = {"file": target.name, "prompt_id": prompt.id, "image_seed": 0, "prompt": prompt.prompt}
        row |= {"targets": list(prompt.targets), "kind": prompt.kind, "font": prompt.font}
        row["model"] = "ceiling_render"
        rows.append({**row, "sha256": sha256_file(target), "boxes": [list(box) for box in sign.line_boxes]})
    write_jsonl(folder / "manifest.jsonl", [sealed(row) for row in rows])
    print(f"{len(rows)} images in {folder}")


if __name__ == "__main__":
    run_cli(main)
