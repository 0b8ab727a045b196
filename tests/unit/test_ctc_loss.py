"""The CTC loss of text regions: its value by enumeration, whom its gradient reaches, and what it refuses."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gradients import assert_gradient
from PIL import Image
from torch import nn

from legible.config import EasyOcr, Reader
from legible.errors import UserError
from legible.losses.ctc import ctc_region_loss, encode_targets
from legible.models.reader import OpenedReader, open_reader
from legible.ocr import open_engine

OWNERS = torch.tensor([0, 1, 1])
BOXES = torch.tensor([[10.0, 8.0, 50.0, 24.0], [0.0, 0.0, 64.0, 32.0], [40.0, 20.0, 63.0, 31.0]])
TEXTS = ["OPEN", "4711", "X"]
WHOLE = torch.tensor([[0.0, 0.0, 64.0, 32.0]])


def images_of(seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand((2, 3, 32, 64), generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


@pytest.fixture
def reader(folders, tmp_path) -> OpenedReader:
    return open_reader(Reader(network=str(folders.recognizer)), tmp_path, torch.device("cpu"))


class Columns(nn.Module):
    """A reader whose logits [R, 4, 3] are an affine function of the picture's mean."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.slope, self.bias = (torch.randn((4, 3), generator=generator, dtype=dtype) for _ in range(2))

    def forward(self, image: torch.Tensor, text: None) -> torch.Tensor:
        return image.mean((1, 2, 3))[:, None, None] * self.slope + self.bias


def collapsed(path: tuple[int, ...]) -> str:
    """The text of a CTC path over (blank, A, B)."""
    return "".join(" AB"[symbol] for symbol, _ in itertools.groupby(path) if symbol)


@pytest.mark.parametrize("text", ["A", "AB", "AA", "BAB", "ABAB"])
def test_the_loss_is_the_probability_of_all_paths_that_spell_the_target(text):
    toy = OpenedReader(Columns(), "AB", (8, 16), 4)
    images = images_of(dtype=torch.float64)[:1]
    loss = ctc_region_loss(toy, images, torch.tensor([0]), WHOLE.double(), [text], 0.0)
    grey = torch.nn.functional.interpolate(images, (8, 16), mode="bilinear")
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(1, 3, 1, 1)
    given = []
    spy = replace(toy, network=lambda grey, text: given.append(grey) or toy.network(grey, text))
    ctc_region_loss(spy, images, torch.tensor([0]), WHOLE.double(), [text], 0.0)
    assert given[0].shape == (1, 1, 8, 16)
    assert (given[0].mean() - (grey * weights).sum(1).mean()).abs() < 0.1  # the same picture, filtered or not
    chances = toy.network(given[0], None).softmax(2)[0]
    total = sum(
        math.prod(chances[t, symbol].item() for t, symbol in enumerate(path))
        for path in itertools.product(range(3), repeat=4)
        if collapsed(path) == text
    )
    assert loss.item() == pytest.approx(-math.log(total) / len(text), rel=1e-9)


def test_gradients_are_those_of_finite_differences(reader):
    reader.network.double()

    def loss(pixels: torch.Tensor) -> torch.Tensor:
        return ctc_region_loss(reader, pixels, OWNERS, BOXES.double(), TEXTS, 2.0).sum()

    assert_gradient(loss, images_of(dtype=torch.float64), 1e-6, 1e-4)


def test_a_region_does_not_depend_on_the_other_regions(reader):
    together = ctc_region_loss(reader, images_of(), OWNERS, BOXES, TEXTS, 2.0)
    assert together.shape == (3,)
    for i in range(3):
        part = slice(i, i + 1)
        alone = ctc_region_loss(reader, images_of(), OWNERS[part], BOXES[part], TEXTS[part], 2.0)
        torch.testing.assert_close(together[part], alone, atol=1e-5, rtol=0)


def test_the_gradient_reaches_the_pixels_of_the_regions_and_no_weight(reader):
    images = images_of().requires_grad_(True)
    before = {name: value.clone() for name, value in reader.network.state_dict().items()}
    ctc_region_loss(reader, images, OWNERS[:1], BOXES[:1], TEXTS[:1], 0.0).sum().backward()
    assert images.grad[0, :, 10:22, 14:46].abs().min() > 0
    assert images.grad[1].abs().max() == 0
    assert all(p.grad is None and not p.requires_grad for p in reader.network.parameters())
    # Batch norm must not learn the statistics of young predictions.
    assert all(torch.equal(value, before[name]) for name, value in reader.network.state_dict().items())


def test_the_reader_is_the_network_that_easyocr_reads_with(folders, reader, tmp_path):
    # EasyOCR's own path (Pillow, 8 bits, its collation) and ours give the same columns.
    engine = open_engine("easyocr", EasyOcr(network=str(folders.recognizer), scale=1), tmp_path)
    pixels = (images_of()[0].permute(1, 2, 0) * 127.5 + 127.5).round().byte().numpy()
    read = "".join(part.text for part in engine.read(Image.fromarray(pixels)))
    grey = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float32)
    logits = reader.network(torch.from_numpy(grey / 127.5 - 1)[None, None], None)[0]
    best = "".join(reader.characters[s - 1] for s, _ in itertools.groupby(logits.argmax(1).tolist()) if s)
    assert read == best
    assert len(best) > 0
    assert reader.columns == len(logits)


def test_targets_are_encoded_in_the_readers_alphabet(reader):
    assert reader.characters == "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    assert encode_targets(reader, ["AB0", "A B"]) == [[1, 2, 27], [1, 2]]
    spaced = replace(reader, characters="AB ")
    assert encode_targets(spaced, ["A B"]) == [[1, 3, 2]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("CAFÉ", "does not know the character 'É'"),
        ("open", "does not know the character 'o'"),
        ("", "needs 0 columns"),
        ("A" * 20, "needs 39 columns, but the ctc loss's reader has 32"),
        ("AB" * 17, "needs 34 columns"),
    ],
)
def test_a_target_that_cannot_be_read_is_refused(reader, text, said):
    with pytest.raises(UserError, match=said) as caught:
        encode_targets(reader, ["OPEN", text])
    assert repr(text) in str(caught.value)
    assert encode_targets(reader, ["AB" * 16])  # as many characters as columns, no equal neighbours: it just fits


def test_standard_networks_are_looked_for_where_the_user_says(tmp_path):
    with pytest.raises(UserError, match=r"^reader\.models: not set"):
        open_reader(Reader(network="standard"), tmp_path, torch.device("cpu"))
