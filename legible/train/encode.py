"""The cache that training reads: latents and conditioning of every sign, computed once by the frozen encoders."""

from pathlib import Path

import numpy as np
import torch

from legible.config import Model
from legible.models.family import embed_prompts, open_model
from legible.progress import progress
from legible.render.dataset import load_images, load_table
from legible.train.data import TrainingData, alphabet_of
from legible.train.glyph_maps import character_map, latent_masks

BATCH = 64


def encode(dataset: Path, model: Model, key: str, threads: int) -> TrainingData:
    """Encode every sign of `dataset` (Parquet)."""
    table, images = load_table(dataset), torch.from_numpy(load_images(dataset))
    prompts = table["caption"].tolist()
    conditioning = embed_prompts(model, [*prompts, ""], threads)
    opened = open_model(model, ("autoencoder",), threads)
    _, height, width = opened.latent_shape(images.shape[1], images.shape[2])
    ink = load_images(dataset, "mask")
    latents = []
    for start in progress(range(0, len(images), BATCH), "encode images", unit="batch"):
        pixels = images[start : start + BATCH].permute(0, 3, 1, 2).float() / 127.5 - 1.0
        latents.append(opened.encode_images(pixels).cpu())
    regions = [
        (sample, box, line)
        for sample, (boxes, text) in enumerate(zip(table["line_boxes"], table["text"], strict=True))
        for box, line in zip(boxes, text.split("\n"), strict=True)
    ]
    alphabet = alphabet_of(table["characters"])
    size = (2 * height, 2 * width)
    signs = zip(ink, table["character_boxes"], table["characters"], strict=True)
    characters = [
        character_map(mask, boxes, own, alphabet, size) if alphabet else np.zeros(size, np.uint8)
        for mask, boxes, own in signs
    ]
    return TrainingData(
        key=key,
        latents=torch.cat(latents),
        conditioning=conditioning.pick(range(len(prompts))),
        empty=conditioning.pick([len(prompts)]),
        captions=tuple(prompts),
        boxes=torch.tensor([list(map(float, box)) for _, box, _ in regions]),
        owners=torch.tensor([sample for sample, _, _ in regions]),
        texts=tuple(line for _, _, line in regions),
        masks=(latent_masks(torch.from_numpy(ink), images.shape[1] // height) * 255).round().to(torch.uint8),
        characters=torch.from_numpy(np.stack(characters)),
        alphabet=alphabet,
        stages=tuple(table["stage"].value_counts(sort=False).sort_index().tolist()),
    )
