"""The segmentation of latents into characters: its loss, its training, its file."""

import math

import pytest
import torch
import torch.nn.functional as F
from gradients import assert_gradient
from pictures import classes_of, random, untouched
from torch import Tensor, nn

from legible.errors import UserError
from legible.losses.char_segmentation import char_segmentation_loss
from legible.models.segmenter import OpenedSegmenter, build_segmenter, load_segmenter, save_segmenter
from legible.train.segmenter import cell_accuracy, train_segmenter

CPU = torch.device("cpu")


def opened_segmenter(dtype: torch.dtype = torch.float64) -> OpenedSegmenter:
    return OpenedSegmenter(build_segmenter(4, 3, 8, 0).to(dtype).eval().requires_grad_(False), "ABC")


class Constant(nn.Module):
    """The same logits (0, 1, 3) in each cell."""

    def forward(self, latents: Tensor) -> Tensor:
        return torch.tensor([0.0, 1.0, 3.0]).view(1, 3, 1, 1).expand(len(latents), 3, 2, 2) + 0 * latents.sum()


def test_the_segmentation_loss_by_hand():
    total = math.log(1 + math.e + math.e**3)
    characters = torch.tensor([[[0, 0], [0, 2]], [[1, 2], [0, 0]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]])
    loss = char_segmentation_loss(OpenedSegmenter(Constant(), "AB"), torch.zeros(4, 4, 1, 1), characters)
    expected = [(total + total - 3) / 2, (total + total - 2) / 2, total, total - 1]
    assert loss.tolist() == pytest.approx(expected, rel=1e-6)


def test_segmentation_gradients_are_those_of_finite_differences():
    opened, characters = opened_segmenter(), classes_of(2, 6, 10, highest=3)

    def loss(latents: Tensor) -> Tensor:
        return char_segmentation_loss(opened, latents, characters).sum()

    assert_gradient(loss, random(2, 4, 3, 5), 1e-5, 1e-5)


def test_the_segmentation_gradient_reaches_the_latents_and_nothing_else():
    opened, latents = opened_segmenter(), random(2, 4, 3, 5).requires_grad_(True)
    before = {name: value.clone() for name, value in opened.network.state_dict().items()}
    char_segmentation_loss(opened, latents, classes_of(2, 6, 10, highest=3))[0].backward()
    assert latents.grad[0].abs().min() > 0
    assert latents.grad[1].abs().max() == 0  # a sample's loss is its own
    assert untouched(opened.network)
    assert all(torch.equal(value, before[name]) for name, value in opened.network.state_dict().items())


def striped(count: int) -> tuple[Tensor, Tensor]:
    """Latents [N, 4, 4, 6] whose channels say where A, B and C stand, and the classes of their cells."""
    coarse = (classes_of(count, 4, 6, highest=9).long() - 6).clamp(min=0)  # mostly background, as signs are
    latents = F.one_hot(coarse, 4).permute(0, 3, 1, 2).float()
    return latents, coarse.repeat_interleave(2, 1).repeat_interleave(2, 2).to(torch.uint8)


def test_training_is_deterministic_learns_and_measures_what_it_has_not_seen():
    latents, characters = striped(60)
    runs = [train_segmenter(latents, characters, "ABC", 16, 120, 16, 1e-2, seed) for seed in (3, 3, 4)]
    first, second, other = (network.state_dict() for network, _ in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    network, measured = runs[0]
    assert measured["steps"] == 120
    assert measured["held_out"] == 6
    assert measured["ink_accuracy"] > 0.8
    assert measured["background_accuracy"] > 0.8
    assert untouched(network)
    assert not network.training
    # Poisoned held-out samples change what is measured, and nothing of what is learnt.
    poisoned = torch.cat([characters[:54], (characters[54:] + 1) % 4])
    again, bad = train_segmenter(latents, poisoned, "ABC", 16, 120, 16, 1e-2, 3)
    assert all(torch.equal(value, first[name]) for name, value in again.state_dict().items())
    assert bad["ink_accuracy"] < 0.2


def test_training_leaves_the_global_random_state_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    train_segmenter(*striped(8), "ABC", 8, 1, 2, 1e-3, 0)
    assert torch.equal(torch.rand(3), expected)


def test_cell_accuracy_counts_ink_and_background_apart():
    found = torch.tensor([[[0, 1], [2, 2]]])
    logits = F.one_hot(found, 3).permute(0, 3, 1, 2).float()
    truth = torch.tensor([[[0, 0], [2, 1]]])
    assert cell_accuracy(lambda _: logits, torch.zeros(1, 4, 1, 1), truth) == {
        "ink_accuracy": 0.5,
        "background_accuracy": 0.5,
    }
    assert cell_accuracy(lambda _: logits, torch.zeros(1, 4, 1, 1), 0 * truth)["ink_accuracy"] == 0


@pytest.mark.parametrize("wrong", ["one sample", "another size", "a class too many"])
def test_unfitting_training_data_is_refused(wrong):
    latents, characters = striped(8)
    if wrong == "one sample":
        latents, characters = latents[:1], characters[:1]
    if wrong == "another size":
        characters = characters[:, :6]
    if wrong == "a class too many":
        characters[0, 0, 0] = 4
    with pytest.raises(UserError, match="segmenter: at least two samples"):
        train_segmenter(latents, characters, "ABC", 8, 1, 2, 1e-3, 0)


def test_a_saved_segmenter_comes_back_and_its_bytes_are_the_same_in_each_run(tmp_path):
    network = build_segmenter(4, 3, 8, 5)
    for name in ("a", "b"):
        save_segmenter(tmp_path / name, network, "AÉ{")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    opened = load_segmenter(tmp_path / "a", CPU)
    assert opened.alphabet == tuple("AÉ{")
    assert untouched(opened.network)
    latents = random(2, 4, 3, 5, dtype=torch.float32)
    with torch.no_grad():  # both: with a gradient another kernel may run, which rounds otherwise
        assert torch.equal(opened.network(latents), network(latents))


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign", "empty", "other weights"])
def test_a_damaged_segmenter_is_one_sentence(tmp_path, damage):
    path = tmp_path / "segmenter.safetensors"
    save_segmenter(path, build_segmenter(4, 3, 8, 5), "ABC")
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    if damage == "foreign":
        path.write_bytes(content.replace(b"legible", b"another"))
    if damage == "empty":
        path.write_bytes(b"")
    if damage == "other weights":
        path.write_bytes(content.replace(b'\\"ABC\\"', b'\\"ABD\\"').replace(b'\\"width\\": 8', b'\\"width\\": 9'))
        assert path.read_bytes() != content
    with pytest.raises(UserError, match="the segmenter is missing or damaged") as caught:
        load_segmenter(path, CPU)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
