"""The loss of a recogniser's features: which layer, its value, its gradient."""

import pytest
import torch
from gradients import assert_gradient
from pictures import BOXES, OWNERS, images_of, untouched
from torch import Tensor, nn

from legible.config import Reader
from legible.errors import UserError
from legible.losses.recognizer_feature import reader_features, recognizer_feature_loss
from legible.models.reader import OpenedReader, open_reader

CPU = torch.device("cpu")


@pytest.fixture
def reader(folders, tmp_path) -> OpenedReader:
    return open_reader(Reader(network=str(folders.recognizer)), tmp_path, CPU)


def test_features_are_what_the_prediction_is_computed_from(reader):
    features = reader_features(reader, images_of(), OWNERS, BOXES, 2.0)
    given_crops = []
    hook = reader.network.register_forward_pre_hook(lambda _, inputs: given_crops.append(inputs[0]))
    reader_features(reader, images_of(), OWNERS, BOXES, 2.0)
    hook.remove()
    columns = reader.network.squeeze(reader.network.features(given_crops[0]).permute(0, 3, 1, 2).flatten(2)).relu()
    torch.testing.assert_close(features, reader.network.sequence(columns)[0])


def test_easyocrs_own_network_has_such_a_layer_too():
    from easyocr.model.vgg_model import Model as EasyOcrNetwork

    network = EasyOcrNetwork(1, 16, 8, 11).requires_grad_(False)
    opened = OpenedReader(network, "0123456789", (64, 128), 31)
    caught = []
    hook = network.Prediction.register_forward_hook(lambda _, inputs, __: caught.append(inputs[0]))
    features = reader_features(opened, images_of(), OWNERS, BOXES, 2.0)
    hook.remove()
    assert torch.equal(features, caught[0])


def test_the_feature_loss_has_no_unit(reader):
    images, clean = images_of(0), images_of(1)
    loss = recognizer_feature_loss(reader, images, clean, OWNERS, BOXES, 2.0)
    a, b = (reader_features(reader, pictures, OWNERS, BOXES, 2.0) for pictures in (images, clean))
    torch.testing.assert_close(loss, ((a - b) ** 2).sum((1, 2)) / (b**2).sum((1, 2)))
    # Not exactly 0: the pass without gradient may run other kernels than the one with it. They round each feature
    # otherwise, by some units of float32's 6e-8; the loss has the square of that.
    assert recognizer_feature_loss(reader, clean, clean, OWNERS, BOXES, 2.0).max() < 1e-11
    assert (loss > 0).all()


def test_feature_gradients_are_those_of_finite_differences(reader):
    reader.network.double()
    clean = images_of(1, torch.float64)

    def loss(pixels: Tensor) -> Tensor:
        return 100 * recognizer_feature_loss(reader, pixels, clean, OWNERS, BOXES.double(), 2.0).sum()

    assert_gradient(loss, images_of(dtype=torch.float64), 1e-6, 1e-4)


def test_the_feature_gradient_reaches_the_predicted_pixels_and_nothing_else(reader):
    images, clean = images_of(0).requires_grad_(True), images_of(1).requires_grad_(True)
    recognizer_feature_loss(reader, images, clean, OWNERS[:1], BOXES[:1], 0.0).sum().backward()
    assert images.grad[0, :, 10:22, 14:46].abs().min() > 0
    assert images.grad[1].abs().max() == 0
    assert clean.grad is None
    assert untouched(reader.network)


def test_no_hook_stays_behind(reader):
    def broken(*_: object) -> None:
        raise ValueError("broken")

    recognizer_feature_loss(reader, images_of(0), images_of(1), OWNERS, BOXES, 2.0)
    assert not any(module._forward_pre_hooks for module in reader.network.modules())
    hook = reader.network.prediction.register_forward_hook(broken)
    with pytest.raises(ValueError, match="broken"):
        recognizer_feature_loss(reader, images_of(0), images_of(1), OWNERS, BOXES, 2.0)
    hook.remove()
    assert not any(module._forward_pre_hooks for module in reader.network.modules())


def test_a_reader_without_such_a_layer_is_refused():
    opened = OpenedReader(nn.Sequential(nn.Conv2d(1, 2, 3)), "A", (32, 64), 4)
    with pytest.raises(UserError, match=r"the reader of the feature loss .* has no fully connected layer"):
        recognizer_feature_loss(opened, images_of(0), images_of(1), OWNERS, BOXES, 0.0)
