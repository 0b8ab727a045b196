"""Read the pictures of one or more manifests with one OCR engine and keep the raw readings, one JSON object a picture.

Pictures that this engine has read before, with these settings and this code, are taken from the store.
"""

import argparse
import json
from pathlib import Path

from legible.config import JUDGES, Section, raw_sections, sections
from legible.errors import UserError, run_cli
from legible.io import read_jsonl, sha256_json, write_jsonl
from legible.metrics.files import open_image
from legible.ocr import Engine, Reading, open_engine
from legible.ocr.store import Store
from legible.progress import progress
from legible.provenance import decides_reading


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


def listed_images(manifest: Path) -> list[dict]:
    """The rows of a manifest, checked."""
    if not manifest.is_file():
        raise UserError(f"{manifest}: no such manifest")
    listed = read_jsonl(manifest)
    for number, row in enumerate(listed, 1):
        if missing := {"file", "prompt_id", "image_seed"} - set(row):
            raise UserError(f"{manifest}, line {number}: the key {min(missing)} is missing")
    return listed


def read_manifest(engine: Engine, folder: Path, listed: list[dict], store: Store) -> list[dict]:
    """What the engine reads in the pictures of one manifest."""
    rows = []
    for row in progress(listed, f"{engine.name} {folder.parent.name}/{folder.name}", unit="image"):
        # A manifest's file name is data: only the folder's own files are read.
        path, identity = folder / Path(row["file"]).name, {k: row[k] for k in ("file", "prompt_id", "image_seed")}
        image = open_image(path, row.get("sha256"))  # checked, even where its reading is known
        found = store.get(row.get("sha256"), lambda image=image: [as_row(reading) for reading in engine.read(image)])
        rows.append({**identity, "engine": engine.name, "engine_version": engine.version, "readings": found})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True, choices=sorted(JUDGES))
    parser.add_argument("--config", default="{}", help="the engine's section as JSON (inline or a file)")
    parser.add_argument(
        "--images", required=True, nargs="+", type=Path, help="manifests, or their folders, with the images they list"
    )
    parser.add_argument("--cache", required=True, type=Path, help="folder for files that the engine has to write")
    parser.add_argument("--store", type=Path, help="JSON lines file of earlier readings, kept up to date")
    parser.add_argument("--output", required=True, nargs="+", type=Path, help="JSON lines file of readings, for each")
    args = parser.parse_args()

    section = engine_section(args.engine, args.config)
    if len(args.images) != len(args.output):
        raise UserError(f"--output: {len(args.images)} files are needed, one for each of --images")
    folders = [path if path.suffix != ".jsonl" else path.parent for path in args.images]
    manifests = [listed_images(folder / "manifest.jsonl") for folder in folders]
    engine = open_engine(args.engine, section, args.cache)
    identity = [engine.name, engine.version, section.model_dump(mode="json"), decides_reading(args.engine)]
    with Store.at(args.store, sha256_json(identity)) as store:
        for folder, listed, output in zip(folders, manifests, args.output, strict=True):
            write_jsonl(output, read_manifest(engine, folder, listed, store))


if __name__ == "__main__":
    run_cli(main)
