"""The engine EasyOCR, with a user network or with EasyOCR's own downloaded networks (legible/recognizer.py)."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import easyocr.easyocr as easyocr_module
import torch
from PIL import Image

from legible.config import EasyOcr
from legible.models.recognizer import load_network
from legible.ocr import Engine, Reading, enlarged_bgr, to_reading

# Batches mix up boxes (EasyOCR #1038) and workers fork; greedy decoding has no dictionary that could correct spelling.
DECODING = {"decoder": "greedy", "batch_size": 1, "workers": 0}


def open_engine(section: EasyOcr, cache_dir: Path) -> Engine:
    """Open EasyOCR on the CPU, unquantised, without downloads; with `detect: false` the whole image is one line.

    Raises:
        UserError: files of the network are missing, corrupt or do not fit together.
    """
    reader, height, label = load_network(section.network, section.models, cache_dir, section.detect, "ocr.easyocr")

    def read(image: Image.Image) -> list[Reading]:
        # The input height of whichever network was opened last is a global of EasyOCR.
        easyocr_module.imgH = height
        pixels = enlarged_bgr(image, section.scale)
        with one_thread(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*pin_memory.*")
            if section.detect:
                found = reader.readtext(pixels, min_size=0, **DECODING)  # by default small boxes are dropped
            else:
                found = reader.recognize(pixels, **DECODING)
        return [to_reading(box, text, score, section.scale) for box, text, score in found if text.strip()]

    return Engine("easyocr", f"{version('easyocr')} {label}", read)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch on one thread: the result must not depend on how many cores a job was given."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
