"""Read the pictures of one or more manifests with one OCR engine and keep the raw readings, one JSON object a picture.

Pictures that this engine has read before, with these settings and this code, are taken from the store.
"""

import argparse
from pathlib import Path

from legible.config import JUDGES
from legible.errors import UserError, run_cli
from legible.io import sealed, sha256_json, write_jsonl
from legible.manifests import manifest_in
from legible.ocr import open_engine
from legible.ocr.manifests import engine_section, listed_images, read_manifest
from legible.ocr.store import Store
from legible.provenance import decides_reading


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True, choices=sorted(JUDGES))
    parser.add_argument("--config", default="{}", help="the engine's section as JSON (inline or a file)")
    parser.add_argument("--images", required=True, nargs="+", type=manifest_in, help="folders of pictures")
    parser.add_argument("--cache", required=True, type=Path, help="folder for files that the engine has to write")
    parser.add_argument("--store", type=Path, help="JSON lines file of earlier readings, kept up to date")
    parser.add_argument("--output", required=True, nargs="+", type=Path, help="JSON lines file of readings, for each")
    args = parser.parse_args()

    section = engine_section(args.engine, args.config)
    if len(args.images) != len(args.output):
        raise UserError(f"--output: {len(args.images)} files are needed, one for each of --images")
    manifests = [listed_images(manifest) for manifest in args.images]
    engine = open_engine(args.engine, section, args.cache)
    identity = [engine.name, engine.version, section.model_dump(mode="json"), decides_reading(args.engine)]
    with Store.at(args.store, sha256_json(identity)) as store:
        for manifest, listed, output in zip(args.images, manifests, args.output, strict=True):
            write_jsonl(output, [sealed(row) for row in read_manifest(engine, manifest.parent, listed, store)])


if __name__ == "__main__":
    run_cli(main)
