"""Windows of latents: what is decoded of them is the region; and the soft limit of decoded pixels."""

import pytest
import torch
from gradients import assert_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import BOXES, OWNERS, random
from torch import Tensor

from legible.losses.regions import crop_regions, grown_boxes, latent_windows, soft_limit


def enlarged(latents: Tensor, factor: int) -> Tensor:
    """A decoder that does nothing but enlarge."""
    return latents.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


corners = st.tuples(st.floats(-6, 120), st.floats(-6, 60), st.floats(2, 60), st.floats(2, 40))


@settings(max_examples=200)
@given(st.lists(corners, min_size=1, max_size=4), st.floats(0, 6), st.sampled_from([4, 8]), st.booleans())
def test_a_crop_of_the_window_is_the_crop_of_the_whole_image(drawn, margin, factor, reader_shaped):
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in drawn], dtype=torch.float64)
    owners = torch.arange(len(boxes)) % 2
    latents = random(2, 3, 80 // factor, 128 // factor)
    size = (16, 32) if reader_shaped else (16, 16)
    windows, shifted = latent_windows(latents, owners, boxes, factor, margin, aspect=size[1] / size[0])
    whole = crop_regions(enlarged(latents, factor), owners, boxes, size, margin)
    parts = crop_regions(enlarged(windows, factor), torch.arange(len(boxes)), shifted, size, margin)
    torch.testing.assert_close(parts, whole, atol=1e-9, rtol=0)


def test_windows_have_the_size_of_the_largest_region_and_stay_in_the_image():
    latents = random(2, 3, 20, 32)
    owners = torch.tensor([1, 0, 1])
    boxes = torch.tensor([[40.0, 32.0, 60.0, 40.0], [0.0, 0.0, 5.0, 4.0], [120.0, 70.0, 128.0, 80.0]])
    windows, shifted = latent_windows(latents, owners, boxes, 4, 2.0, context=1)
    assert windows.shape == (3, 3, 6, 9)  # cells 9 … 16 by 7 … 11, and one of context on each side
    assert torch.equal(windows[0], latents[1, :, 6:12, 8:17])
    assert torch.equal(windows[1], latents[0, :, :6, :9])
    assert torch.equal(windows[2], latents[1, :, 14:, 23:])
    assert shifted.tolist() == [[8.0, 8.0, 28.0, 16.0], [0.0, 0.0, 5.0, 4.0], [28.0, 14.0, 36.0, 24.0]]


def test_a_window_is_at_most_the_latent():
    latents = random(2, 3, 4, 6)
    windows, shifted = latent_windows(latents, OWNERS, BOXES / 4, 4, 30.0)
    assert torch.equal(windows, latents[OWNERS])
    assert torch.equal(shifted, BOXES / 4)


def test_no_regions_give_no_windows():
    windows, shifted = latent_windows(random(2, 3, 4, 6), OWNERS[:0], BOXES[:0], 4, 2.0)
    assert len(windows) == len(shifted) == 0
    assert windows.shape[1] == 3


def test_gradients_pass_through_the_window_to_its_own_latent_only():
    latents = random(2, 3, 10, 16).requires_grad_(True)
    windows, _ = latent_windows(latents, torch.tensor([1]), torch.tensor([[24.0, 16.0, 32.0, 20.0]]), 4, 0.0, 1)
    windows.sum().backward()
    expected = torch.zeros_like(latents)
    expected[1, :, 3:6, 5:9] = 1
    assert torch.equal(latents.grad, expected)


def test_the_box_grown_to_the_readers_shape_fits_its_window():
    box = torch.tensor([[30.0, 40.0, 34.0, 60.0]])
    _, shifted = latent_windows(random(1, 3, 20, 32), OWNERS[:1], box, 4, 2.0, 0, aspect=2.0)
    windows, _ = latent_windows(random(1, 3, 20, 32), OWNERS[:1], box, 4, 2.0, 0, aspect=2.0)
    grown = grown_boxes(shifted, 2.0, 2.0)[0]
    assert grown.min() >= 0
    assert grown[2] <= 4 * windows.shape[3]
    assert grown[3] <= 4 * windows.shape[2]


@given(st.floats(-3, 3), st.floats(0, 0.95))
def test_the_soft_limit_changes_nothing_within_the_knee_and_never_leaves_the_range(value, knee):
    x = torch.tensor(value, dtype=torch.float64)
    limited = soft_limit(x, knee).item()
    assert abs(limited) <= 1
    assert limited == value if abs(value) <= knee else abs(limited) <= abs(value)
    assert soft_limit(-x, knee).item() == -limited


def test_the_soft_limit_keeps_a_gradient_where_a_clamp_has_none():
    x = torch.tensor([-1.3, -1.01, -0.9, 0.0, 0.5, 0.9, 0.95, 1.0, 1.2, 3.0], requires_grad=True)
    limited = soft_limit(x)
    assert limited.abs().max() < 1
    limited.sum().backward()
    assert x.grad.min() > 0
    assert x.grad[2:6].tolist() == [1, 1, 1, 1]
    assert limited[7].item() == pytest.approx(0.95, rel=1e-6)
    assert_gradient(lambda values: soft_limit(values).sum(), random(40), 1e-6, 1e-5)
