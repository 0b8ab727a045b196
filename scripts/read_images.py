"""Read every image of a manifest with one OCR engine and keep the raw readings, one JSON object an image."""

import argparse
import json
from pathlib import Path

from legible.config import JUDGES, Section, raw_sections, sections
from legible.errors import UserError, run_cli
from legible.io import read_jsonl, write_jsonl
from legible.metrics.files import open_image
from legible.ocr import Reading, open_engine
from legible.progress import progress


def engine_section(name: str, text: str) -> Section:
    """The engine's section, given alone or inside the section `ocr`."""
    raw = raw_sections(text)
    nested = raw["ocr"].get(name) if isinstance(raw.get("ocr"), dict) else raw
    section = getattr(sections(json.dumps({"ocr": {name: nested}}), "ocr")["ocr"], name, None)
    if section is None:
        raise UserError(f"ocr.{name}: no section for this engine")
    return section


def as_row(reading: Reading) -> dict:
    polygon = [[round(x, 2), round(y, 2)] for x, y in reading.polygon]
    return {"polygon": polygon, "text": reading.text, "confidence": round(reading.confidence, 6)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", required=True, choices=sorted(JUDGES))
    parser.add_argument("--config", default="{}", help="the engine's section as JSON (inline or a file)")
    parser.add_argument("--images", required=True, type=Path, help="folder with manifest.jsonl and the images it lists")
    parser.add_argument("--cache", required=True, type=Path, help="folder for files that the engine has to write")
    parser.add_argument("--output", required=True, type=Path, help="JSON lines file of readings")
    args = parser.parse_args()

    section = engine_section(args.engine, args.config)
    manifest = args.images / "manifest.jsonl"
    if not manifest.is_file():
        raise UserError(f"{manifest}: no such manifest")
    listed = read_jsonl(manifest)
    for number, row in enumerate(listed, 1):
        if missing := {"file", "prompt_id", "image_seed"} - set(row):
            raise UserError(f"{manifest}, line {number}: the key {min(missing)} is missing")
    engine = open_engine(args.engine, section, args.cache)
    rows = []
    for row in progress(listed, f"{args.engine} {args.images.parent.name}/{args.images.name}", unit="image"):
        # A manifest's file name is data: only the folder's own files are read.
        path = args.images / Path(row["file"]).name
        readings = engine.read(open_image(path, row.get("sha256")))
        identity = {key: row[key] for key in ("file", "prompt_id", "image_seed")}
        found = [as_row(reading) for reading in readings]
        rows.append({**identity, "engine": engine.name, "engine_version": engine.version, "readings": found})
    write_jsonl(args.output, rows)


if __name__ == "__main__":
    run_cli(main)
