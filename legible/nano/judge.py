"""How well do the nano models do? Held-out signs, sampled by the real pipeline and read by RapidOCR."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rapidfuzz.distance import Levenshtein

from legible.config import RapidOcr
from legible.models.family import Family
from legible.ocr import is_text, open_engine
from legible.seeds import image_noise


def read_cer(images: list[Image.Image], targets: list[str], work: Path) -> float:
    """Micro CER (0 is perfect) of RapidOCR readings, without case and spaces."""
    engine = open_engine("rapidocr", RapidOcr(), work)
    errors = 0
    for image, target in zip(images, targets, strict=True):
        reading = "".join(part.text for part in engine.read(image)).replace(" ", "").upper()
        errors += Levenshtein.distance(reading, target.replace(" ", "").upper())
    return errors / sum(len(target.replace(" ", "")) for target in targets)


def shows_text(images: list[Image.Image], work: Path) -> list[bool]:
    """In which pictures RapidOCR's detector finds a line that `is_text`.

    How often it takes pictures without text for text: `benchmarks/text_without_text.py`.
    """
    engine = open_engine("rapidocr", RapidOcr(detect=True, scale=4), work)
    return [any(is_text(line.text, line.confidence) for line in engine.read(image)) for image in images]


def to_images(pixels: torch.Tensor) -> list[Image.Image]:
    """Float images [B, 3, H, W] in −1 … 1 as pictures."""
    arrays = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(np.ascontiguousarray(array)) for array in arrays]


def sample_signs(
    model: Family,
    captions: list[str],
    size: tuple[int, int],
    steps: int,
    batch: int = 32,
    guidance_scale: float | None = None,
    seed: int = 0,
) -> list[Image.Image]:
    """One image of `size` (height, width) a caption, from noise of caption and `seed`; guidance None: off."""
    shape, images = model.latent_shape(*size), []
    scale = model.spec.guidance_off if guidance_scale is None else guidance_scale
    empty = None if guidance_scale is None else model.encode_prompts([""])
    for start in range(0, len(captions), batch):
        part = captions[start : start + batch]
        noise = torch.stack([image_noise(caption, seed, shape) for caption in part])
        sampled = model.sample(model.encode_prompts(part), noise, steps, scale, empty)
        images += [Image.fromarray(np.ascontiguousarray(picture)) for picture in sampled.numpy()]
    return images
