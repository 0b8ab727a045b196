"""Compute latents and caption embeddings once, so that training opens neither VAE encoder nor text encoder."""

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch

from legible.config import sections
from legible.errors import run_cli
from legible.io import atomic_path, sha256_file, sha256_json
from legible.losses.mask import character_map, latent_masks
from legible.models.family import embed_prompts, open_model
from legible.models.hub import pinned
from legible.progress import progress
from legible.provenance import code_fingerprint
from legible.render.dataset import load_images, load_table
from legible.train.data import TrainingData, alphabet_of, load_training_data, save_training_data


def content_key(dataset: Path, config: dict) -> str:
    """Hash of everything the cache depends on: the signs, the encoders' files (or hub revision), the code."""
    model = config["model"]
    files = [
        path for part in ("vae", "text_encoder", "tokenizer") for path in sorted((Path(model.path) / part).glob("*"))
    ]
    # With the folder in the name: each component has its config.json, and that of the VAE scales the latents.
    encoders = {f"{path.parent.name}/{path.name}": sha256_file(path) for path in files if path.is_file()}
    encoders = encoders or [model.path, model.revision]
    code = code_fingerprint(__file__)
    return sha256_json([sha256_file(dataset), encoders, model.dtype, model.max_sequence_length, code])


def encode(dataset: Path, config: dict, key: str, threads: int) -> TrainingData:
    """Encode every sign of `dataset`."""
    table, images = load_table(dataset), torch.from_numpy(load_images(dataset))
    captions = embed_prompts(config["model"], table["caption"].tolist(), threads)
    model = open_model(config["model"], ("vae",), threads)
    _, height, width = model.latent_shape(images.shape[1], images.shape[2])
    ink = load_images(dataset, "mask")
    latents = []
    for start in progress(range(0, len(images), 64), "encode images", unit="batch"):
        pixels = images[start : start + 64].permute(0, 3, 1, 2).float() / 127.5 - 1.0
        latents.append(model.encode_images(pixels).cpu())
    lengths = torch.tensor([0] + [len(caption) for caption in captions])
    regions = [
        (sample, box, line)
        for sample, (boxes, text) in enumerate(zip(table["line_boxes"], table["text"], strict=True))
        for box, line in zip(boxes, text.split("\n"), strict=True)
    ]
    texts = tuple(line for _, _, line in regions)
    alphabet = alphabet_of(texts)
    signs = zip(ink, table["character_boxes"], table["text"], strict=True)
    characters = [
        character_map(mask, boxes, "".join(text.split()), alphabet, (2 * height, 2 * width))
        for mask, boxes, text in signs
    ]
    return TrainingData(
        key=key,
        latents=torch.cat(latents),
        captions=torch.cat(captions),
        offsets=lengths.cumsum(0),
        boxes=torch.tensor([list(map(float, box)) for _, box, _ in regions]),
        owners=torch.tensor([sample for sample, _, _ in regions]),
        texts=texts,
        masks=(latent_masks(torch.from_numpy(ink), images.shape[1] // height) * 255).round().to(torch.uint8),
        characters=torch.from_numpy(np.stack(characters)),
    )


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
        save_training_data(stored, encode(arguments.dataset, config, key, arguments.threads))
    with atomic_path(arguments.output) as temporary:
        # No hard link: Snakemake touches its outputs, and another experiment's cache would look newer than its runs.
        shutil.copyfile(stored, temporary)


if __name__ == "__main__":
    run_cli(main)
