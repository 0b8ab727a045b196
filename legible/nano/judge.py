"""How well do the nano models do? Held-out signs, sampled by the real pipeline and read by RapidOCR."""

from pathlib import Path

import numpy as np
import torch
from diffusers import ZImagePipeline
from PIL import Image
from rapidfuzz.distance import Levenshtein

from legible.config import RapidOcr
from legible.ocr import open_engine


def read_cer(images: list[Image.Image], targets: list[str], work: Path) -> float:
    """Micro CER (0 is perfect) of RapidOCR readings, without case and spaces."""
    engine = open_engine("rapidocr", RapidOcr(), work)
    errors = 0
    for image, target in zip(images, targets, strict=True):
        reading = "".join(part.text for part in engine.read(image)).replace(" ", "").upper()
        errors += Levenshtein.distance(reading, target.replace(" ", "").upper())
    return errors / sum(len(target.replace(" ", "")) for target in targets)


def to_images(pixels: torch.Tensor) -> list[Image.Image]:
    """Float images [B, 3, H, W] in −1 … 1 as pictures."""
    arrays = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(np.ascontiguousarray(array)) for array in arrays]


def sample_signs(
    pipeline: ZImagePipeline, captions: list[str], size: tuple[int, int], batch: int = 32
) -> list[Image.Image]:
    """One image a caption: 8 steps, guidance 0, noise seeded by the caption's number; `size` is (height, width)."""
    pipeline.set_progress_bar_config(disable=True)
    images = []
    for start in range(0, len(captions), batch):
        part = captions[start : start + batch]
        generators = [torch.Generator().manual_seed(start + i) for i in range(len(part))]
        images += pipeline(
            prompt=list(part),
            height=size[0],
            width=size[1],
            num_inference_steps=8,
            guidance_scale=0.0,
            generator=generators,
            max_sequence_length=32,
        ).images
    return images
