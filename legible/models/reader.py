"""The recogniser that losses read with, opened by EasyOCR itself."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from legible.config import Reader
from legible.models.recognizer import load_network


@dataclass(frozen=True)
class OpenedReader:
    """A frozen recogniser: grey crops [R, 1, h, w] in −1 … 1 → logits [R, T, 1 + number of characters], blank first."""

    network: nn.Module
    characters: str
    size: tuple[int, int]
    columns: int  # T


def open_reader(reader: Reader, cache: Path, device: torch.device) -> OpenedReader:
    """Open the configured recogniser through EasyOCR itself: a user network, or one that EasyOCR has downloaded.

    Raises:
        UserError: files are missing, corrupt or do not fit together.
    """
    opened, height, _ = load_network(reader.network, reader.models, cache, False, "reader")
    network = opened.recognizer.to(device).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.RNNBase):
            module.train()  # cuDNN refuses the backward pass of an evaluating RNN; without dropout the mode is the same
            module.dropout = 0.0
    size = (height, round(height * reader.aspect))
    with torch.no_grad():
        columns = network(torch.zeros(1, 1, *size, device=device), None).shape[1]
    return OpenedReader(network, "".join(opened.converter.character[1:]), size, columns)


def open_critic(section: Reader, cache: Path, device: torch.device) -> OpenedReader:
    """The reader as a critic; EasyOCR finds its network in `cache`."""
    return open_reader(section, cache, device)
