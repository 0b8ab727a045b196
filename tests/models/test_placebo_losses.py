"""Losses that know no text: surer of what is read anyway, and a random pattern in place of letters."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from gradients import assert_gradient
from pictures import BOXES, OWNERS, draw_signs, images_of, untouched
from torch import nn
from training import small_data

from legible.config import Aux, Reader
from legible.losses.auxiliary import open_aux_loss
from legible.losses.ctc import ctc_region_loss
from legible.losses.random_target import SIZE, pattern, random_target_loss
from legible.losses.regions import crop_regions, to_grey
from legible.losses.self_reading import greedy, self_reading_loss
from legible.models.reader import OpenedReader, open_reader
from legible.seeds import stateless_generator
from legible.train.step import forward_pass

ROOT = Path(__file__).resolve().parents[2]
WHOLE = torch.tensor([[0.0, 0.0, 64.0, 32.0]])
ROWS = torch.tensor([4, 0, 7])


@pytest.fixture
def reader(folders, tmp_path) -> OpenedReader:
    return open_reader(Reader(network=str(folders.recognizer)), tmp_path, torch.device("cpu"))


class Columns(nn.Module):
    """A reader with these logits [T, classes], moved by the picture's mean."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits, dtype=torch.float64)

    def forward(self, image: torch.Tensor, text: None) -> torch.Tensor:
        return self.logits + image.mean((1, 2, 3))[:, None, None] * torch.linspace(-1, 1, self.logits.shape[1])


def test_greedy_readings_have_neither_blanks_nor_repetitions():
    best = torch.tensor([[0, 2, 2, 0, 2, 1], [0, 0, 0, 0, 0, 0]])  # R = 2, T = 6
    assert greedy(nn.functional.one_hot(best.T, 3).float()) == [[2, 2, 1], []]


def test_the_loss_is_how_unlikely_the_own_reading_is():
    """By enumeration of all paths over (blank, A, B) that spell the reading, here "A"."""
    toy = OpenedReader(Columns([[0.0, 2.0, 1.0], [1.0, 0.5, 0.0], [3.0, 0.0, 1.0]]), "AB", (8, 16), 3)
    images = torch.zeros((1, 3, 32, 64), dtype=torch.float64)
    loss = self_reading_loss(toy, images, torch.tensor([0]), WHOLE.double(), 0.0)
    chances = toy.network(torch.zeros(1, 1, 8, 16), None).softmax(2)[0]
    total = sum(
        math.prod(chances[t, symbol].item() for t, symbol in enumerate(path))
        for path in itertools.product(range(3), repeat=3)
        if [symbol for symbol, _ in itertools.groupby(path) if symbol] == [1]
    )
    assert loss.item() == pytest.approx(-math.log(total), rel=1e-9)


def test_a_region_in_which_nothing_is_read_has_no_loss_and_no_gradient():
    toy = OpenedReader(Columns([[5.0, 0.0, 0.0]] * 3), "AB", (8, 16), 3)
    images = images_of(dtype=torch.float64).requires_grad_(True)
    loss = self_reading_loss(toy, images, OWNERS, BOXES.double(), 0.0)
    assert loss.tolist() == [0.0] * 3
    loss.sum().backward()
    assert images.grad.abs().max() == 0


def test_self_reading_gradients_are_those_of_finite_differences_at_a_fixed_reading(reader):
    reader.network.double()

    def loss(pixels: torch.Tensor) -> torch.Tensor:
        return self_reading_loss(reader, pixels, OWNERS, BOXES.double(), 2.0).sum()

    assert loss(images_of(dtype=torch.float64)) > 0.1  # something is read
    assert_gradient(loss, images_of(dtype=torch.float64), 1e-6, 1e-4)


def test_on_a_real_sign_it_is_the_ctc_loss_of_what_is_read_whatever_that_is(tmp_path):
    """With the shipped reader: a misspelt sign counts as a right one, and a blurred one is made clearer as it is."""
    reader = open_reader(Reader(network=str(ROOT / "resources/nano/recognizer_conv")), tmp_path, torch.device("cpu"))
    drawn = draw_signs(["OPEN", "OPNE"])
    clear = torch.stack([torch.from_numpy(sign.image).permute(2, 0, 1).float() / 127.5 - 1 for sign in drawn])
    place = torch.arange(2), torch.tensor([sign.line_boxes[0] for sign in drawn]).float()
    own = self_reading_loss(reader, clear, *place, 2.0)
    torch.testing.assert_close(own, ctc_region_loss(reader, clear, *place, ["OPEN", "OPNE"], 2.0))
    assert own.max() < 0.1

    def read(pictures: torch.Tensor) -> list[list[int]]:
        crops = to_grey(crop_regions(pictures, *place, reader.size, 2.0))
        return greedy(reader.network(crops, None).transpose(0, 1))

    noise = torch.randn(clear.shape, generator=torch.Generator().manual_seed(1))
    moved = (0.5 * clear + 0.3 * noise).requires_grad_(True)
    before, losses = read(moved), []
    assert all(before)
    for _ in range(30):
        loss = self_reading_loss(reader, moved, *place, 2.0).sum()
        (gradient,) = torch.autograd.grad(loss, moved)
        moved = (moved - 0.3 * gradient / gradient.norm()).detach().requires_grad_(True)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert read(moved) == before
    assert untouched(reader.network)


def test_patterns_are_smooth_different_and_always_the_same():
    patterns = torch.stack([pattern(row) for row in range(40)])
    assert torch.equal(patterns[3], pattern(3))
    assert patterns.shape == (40, 3, *SIZE)
    assert torch.allclose(patterns.abs().flatten(1).amax(1), torch.ones(40))
    assert (patterns - patterns.roll(1, 0)).flatten(1).std(1).min() > 0.2
    for axis in (-1, -2):  # neighbours differ by little: no detail of the size of a stroke
        assert patterns.diff(dim=axis).abs().mean() < 0.2 * patterns.std()
    spectrum = torch.fft.rfft2(patterns).abs().square().sum((0, 1))
    assert spectrum[:5, :9].sum() + spectrum[-4:, :9].sum() > 0.95 * spectrum.sum()


def test_the_random_target_is_reached_by_its_own_picture_only():
    picture = pattern(4)[None]
    reached = random_target_loss(picture, torch.tensor([0]), WHOLE, torch.tensor([4]), 0.0)
    other = random_target_loss(picture, torch.tensor([0]), WHOLE, torch.tensor([5]), 0.0)
    assert reached.item() < 1e-10
    assert other.item() == pytest.approx((pattern(4) - pattern(5)).square().mean().item(), rel=1e-4)


def test_random_target_gradients_are_those_of_finite_differences():
    def loss(pixels: torch.Tensor) -> torch.Tensor:
        return random_target_loss(pixels, OWNERS, BOXES.double(), ROWS, 2.0).sum()

    assert_gradient(loss, images_of(dtype=torch.float64), 1e-6, 1e-4)


def test_a_region_has_its_pattern_in_whatever_batch_it_comes(folders, zimage):
    data, aux = small_data(folders.zimage), Aux.model_validate({"loss": "random_target", "lambda": 1.0})
    loss = open_aux_loss(aux, {}, data.texts)
    noise = torch.randn(data.latents.shape, generator=stateless_generator(1))

    def losses(picked: list[int]) -> torch.Tensor:
        places = torch.tensor(picked)
        conditioning = data.conditioning.pick(picked)
        levels = torch.full((len(picked),), 0.5)
        _, view = forward_pass(zimage, data, places, None, aux, noise[places], levels, conditioning)
        assert view(torch.arange(len(picked))).rows.tolist() == data.region_rows(places).tolist()
        return loss(view(torch.arange(len(picked)))).detach()

    together = losses([0, 1, 5, 9])
    assert torch.allclose(together, torch.cat([losses([sample]) for sample in (0, 1, 5, 9)]), atol=1e-4)
    assert data.region_rows(torch.tensor([3, 0])).tolist() == [4, 5, 0, 1]
