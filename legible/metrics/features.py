"""The images of a manifest, and their features under a CLIP."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from legible.errors import UserError
from legible.metrics.distances import Key
from legible.metrics.files import open_image, read_rows
from legible.models.clip import OpenedClip

BATCH = 64


def read_images(manifest: Path) -> tuple[list[Key], np.ndarray]:
    """(prompt id, image seed), sorted, and the images, uint8 [N, H, W, 3], that a manifest lists.

    Raises:
        UserError: an image is missing, damaged, doubled or of another size.
    """
    listed = read_rows(manifest)
    rows = {(row["prompt_id"], row["image_seed"]): row for row in listed}
    keys = sorted(rows)
    if len(keys) < len(listed) or not keys:
        raise UserError(f"{manifest}: one image per prompt and image seed is needed, got {len(listed)} rows")
    # A manifest's file name is data: only the folder's own files are read.
    files = [(manifest.parent / Path(rows[key]["file"]).name, rows[key].get("sha256")) for key in keys]
    images = [np.asarray(open_image(*file).convert("RGB")) for file in files]
    if len({image.shape for image in images}) > 1:
        raise UserError(f"{manifest}: images of one size are needed")
    return keys, np.stack(images)


def clip_features(clip: OpenedClip, images: np.ndarray) -> np.ndarray:
    """Features [N, D] of the image tower, not normalised; images uint8 [N, H, W, 3] are resized to its input."""
    height, width = clip.size
    resized = [np.asarray(Image.fromarray(i).resize((width, height), Image.Resampling.BICUBIC)) for i in images]
    pixels = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        parts = [clip.model.encode_image((part - clip.mean) / clip.std) for part in pixels.split(BATCH)]
    return torch.cat(parts).double().numpy()
