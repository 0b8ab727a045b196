"""Compute latents and conditioning once, so that training opens neither VAE encoder nor text encoder."""

import argparse
import shutil
from pathlib import Path

from legible.config import sections
from legible.errors import run_cli
from legible.io import atomic_path, sha256_file, sha256_json
from legible.models.hub import pinned
from legible.models.spec import spec_of
from legible.provenance import decides_encoding
from legible.train.data import load_training_data, save_training_data
from legible.train.encode import encode


def content_key(dataset: Path, config: dict) -> str:
    """Hash of everything the cache depends on: the signs, the encoders' files (or hub revision), the code."""
    model = config["model"]
    folders = spec_of(model.family).folders("autoencoder", "text")
    files = [path for part in folders for path in sorted((Path(model.path) / part).glob("*"))]
    # With the folder in the name: each component has its config.json, and that of the VAE scales the latents.
    encoders = {f"{path.parent.name}/{path.name}": sha256_file(path) for path in files if path.is_file()}
    encoders = encoders or [model.path, model.revision]
    about = [encoders, model.family, model.dtype, model.max_sequence_length, decides_encoding(model)]
    return sha256_json([sha256_file(dataset), *about])


def main() -> None:
    """Parse, look the content up in the store, encode what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="JSON with the section model")
    parser.add_argument("--dataset", type=Path, required=True, help="train.parquet")
    parser.add_argument("--store", type=Path, required=True, help="folder shared by experiments, keyed by content")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    config = sections(arguments.config, "model")
    config["model"] = pinned(config["model"])
    key = content_key(arguments.dataset, config)
    stored = arguments.store / f"{key[:16]}.safetensors"
    if stored.exists() and load_training_data(stored).key == key:
        print(f"already computed: {stored}")
    else:
        save_training_data(stored, encode(arguments.dataset, config["model"], key, arguments.threads))
    with atomic_path(arguments.output) as temporary:
        # No hard link: Snakemake touches its outputs, and another experiment's cache would look newer than its runs.
        shutil.copyfile(stored, temporary)


if __name__ == "__main__":
    run_cli(main)
