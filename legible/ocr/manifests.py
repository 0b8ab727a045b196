"""Reading the pictures that a manifest lists, with one engine."""

import json
from pathlib import Path

from legible.config import Section, raw_sections, sections
from legible.errors import UserError, must_be_text
from legible.io import read_jsonl
from legible.metrics.files import open_image
from legible.ocr import Engine, Reading
from legible.ocr.store import Store
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
    """A reading as plain values."""
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
        must_be_text(row["file"], f"{manifest}, line {number}: file")
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
