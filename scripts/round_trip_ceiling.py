"""Send the ceiling's renders through the VAE: what the best possible transformer could still show."""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from legible.config import sections
from legible.errors import run_cli
from legible.io import atomic_path, read_jsonl, sealed, sha256_file, write_jsonl
from legible.models.family import open_model
from legible.progress import progress


def main() -> None:
    """Parse, encode and decode every image of the manifest, write PNGs and (last) the new manifest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="JSON with the section model")
    parser.add_argument("--images", type=Path, required=True, help="folder with manifest.jsonl")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    config = sections(arguments.config, "model")
    model = open_model(config["model"], ("autoencoder",), arguments.threads)
    rows = []
    for row in progress(read_jsonl(arguments.images / "manifest.jsonl"), "round trip", unit="image"):
        pixels = np.asarray(Image.open(arguments.images / row["file"]).convert("RGB"))
        tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1.0
        with torch.no_grad():
            decoded = model.decode(model.encode_images(tensor))[0].clamp(-1, 1)
        array = ((decoded.permute(1, 2, 0) + 1) * 127.5).round().byte().cpu().numpy()
        with atomic_path(arguments.output_dir / row["file"]) as temporary:
            Image.fromarray(array).save(temporary)
        rows.append(row | {"model": "ceiling_vae", "sha256": sha256_file(arguments.output_dir / row["file"])})
    write_jsonl(arguments.output_dir / "manifest.jsonl", [sealed(row) for row in rows])


if __name__ == "__main__":
    run_cli(main)
