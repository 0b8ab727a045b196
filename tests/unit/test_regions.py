"""Text regions: crops that keep the aspect ratio, stay inside the image and pass gradients to the pixels."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from legible.losses.regions import crop_regions, grown_boxes


def picture(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def box(*corners: float) -> torch.Tensor:
    return torch.tensor([corners], dtype=torch.float64)


FIRST = torch.tensor([0])


def test_the_whole_image_is_cropped_unchanged():
    images = picture(2, 3, 32, 64)
    crops = crop_regions(images, torch.tensor([1, 0]), box(0, 0, 64, 32).repeat(2, 1), (32, 64))
    torch.testing.assert_close(crops, images.flip(0), atol=1e-12, rtol=0)


def test_a_box_on_whole_pixels_is_the_slice():
    images = picture(1, 3, 32, 64)
    crops = crop_regions(images, FIRST, box(5, 3, 37, 19), (16, 32))
    torch.testing.assert_close(crops[0], images[0, :, 3:19, 5:37], atol=1e-12, rtol=0)


def test_enlarging_by_two_is_bilinear():
    images = picture(1, 3, 16, 32)
    crops = crop_regions(images, FIRST, box(0, 0, 32, 16), (32, 64))
    expected = F.interpolate(images, size=(32, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(crops, expected, atol=1e-12, rtol=0)


@given(
    st.floats(-5, 60), st.floats(-5, 25), st.floats(1, 40), st.floats(1, 30), st.floats(0, 8), st.floats(0.25, 4)
)  # fmt: skip
def test_grown_boxes_hold_the_region_with_its_margin_at_the_readers_aspect(x, y, width, height, margin, aspect):
    grown = grown_boxes(box(x, y, x + width, y + height), margin, aspect)[0]
    assert grown[0] <= x - margin + 1e-9
    assert grown[1] <= y - margin + 1e-9
    assert grown[2] >= x + width + margin - 1e-9
    assert grown[3] >= y + height + margin - 1e-9
    new_width, new_height = grown[2] - grown[0], grown[3] - grown[1]
    assert abs(new_width / new_height - aspect) < 1e-9
    assert abs((grown[0] + grown[2]) / 2 - (x + width / 2)) < 1e-9
    assert abs((grown[1] + grown[3]) / 2 - (y + height / 2)) < 1e-9
    # No larger than needed: one of the two sides is exactly the region with its margin.
    assert min(new_width - width - 2 * margin, new_height - height - 2 * margin) < 1e-9


def test_letters_are_not_distorted():
    # A disc stays a disc, although region (24 × 8) and crop (32 × 64) have different proportions.
    ys, xs = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    disc = (((xs - 32) ** 2 + (ys - 16) ** 2) < 16).double()[None, None]
    crop = crop_regions(disc, FIRST, box(20, 12, 44, 20), (32, 64))[0, 0]
    rows, columns = (crop > 0.5).any(1).sum(), (crop > 0.5).any(0).sum()
    assert abs(int(rows) - int(columns)) <= 1
    assert rows > 16  # enlarged


def test_the_margin_is_added_on_every_side():
    images = picture(1, 1, 32, 64)
    with_margin = crop_regions(images, FIRST, box(20, 10, 36, 18), (16, 24), margin=4)
    torch.testing.assert_close(with_margin[0], images[0, :, 6:22, 16:40], atol=1e-12, rtol=0)


def test_beyond_the_image_its_border_is_repeated():
    images = picture(1, 3, 16, 32)
    crop = crop_regions(images, FIRST, box(24, 0, 40, 16), (16, 16))[0]
    torch.testing.assert_close(crop[..., :8], images[0, ..., 24:], atol=1e-12, rtol=0)
    torch.testing.assert_close(crop[..., 8:], images[0, ..., -1:].expand(-1, -1, 8), atol=1e-12, rtol=0)


def test_a_shrinking_crop_is_filtered():
    # One-pixel stripes: sampled as they are, a crop at a third would be black or white by luck.
    stripes = (torch.arange(96) % 2).double().expand(1, 1, 48, 96)
    crop = crop_regions(stripes, FIRST, box(0, 0, 96, 48), (16, 32))
    assert (crop[..., 2:-2] - 0.5).abs().max() < 0.2
    ink = []
    for column in range(30, 45):
        line = torch.zeros(1, 1, 48, 96, dtype=torch.float64)
        line[..., column] = 1
        ink.append(crop_regions(line, FIRST, box(0, 0, 96, 48), (16, 32)).sum(-1).mean().item())
    assert min(ink) > 0.15  # no stroke falls between the sampled points
    assert abs(sum(ink) / len(ink) - 1 / 3) < 1e-9  # and its ink shrinks as the crop does


def test_a_crop_does_not_depend_on_the_other_regions():
    images = picture(2, 3, 64, 128)
    boxes = torch.tensor([[0, 0, 128, 64], [20, 10, 52, 26], [4, 4, 100, 60]], dtype=torch.float64)
    owners = torch.tensor([0, 1, 1])
    together = crop_regions(images, owners, boxes, (16, 32), margin=1.0)
    for i in range(3):
        alone = crop_regions(images, owners[i : i + 1], boxes[i : i + 1], (16, 32), margin=1.0)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-12, rtol=0)


def test_without_regions_there_are_no_crops():
    none = torch.zeros(0, dtype=torch.long)
    crops = crop_regions(picture(2, 3, 16, 32), none, torch.zeros(0, 4), (8, 16))
    assert crops.shape == (0, 3, 8, 16)


@pytest.mark.parametrize("size", [(8, 12), (3, 5)])
def test_gradients_are_those_of_finite_differences(size):
    images = picture(2, 2, 9, 14).requires_grad_(True)
    boxes = torch.tensor([[1.3, 2.1, 9.7, 7.2], [-1.0, 3.0, 6.0, 10.0], [0.0, 0.0, 14.0, 9.0]], dtype=torch.float64)

    def crop(pixels: torch.Tensor) -> torch.Tensor:
        return crop_regions(pixels, torch.tensor([0, 1, 0]), boxes, size, margin=0.5)

    assert torch.autograd.gradcheck(crop, (images,), eps=1e-6, atol=1e-7)


def test_only_pixels_in_and_around_the_box_get_a_gradient():
    images = picture(2, 1, 32, 64).requires_grad_(True)
    crop_regions(images, FIRST, box(20, 10, 36, 18), (8, 16)).square().sum().backward()
    assert images.grad[1].abs().max() == 0
    touched = torch.nonzero(images.grad[0, 0])
    assert touched.min(0).values.tolist() == [10, 20]
    assert touched.max(0).values.tolist() == [17, 35]
