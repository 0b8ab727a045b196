"""The loss of inked cells, and the maps of ink and characters that losses on latents are given."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from gradients import assert_gradient
from pictures import draw_signs, random
from torch import Tensor

from legible.config import Fonts
from legible.errors import UserError
from legible.losses.glyph_mask import glyph_mask_loss
from legible.train.glyph_maps import character_map, latent_masks

ALPHABET = Fonts().characters


def test_the_glyph_mask_loss_by_hand():
    predicted = torch.zeros(3, 2, 1, 2)
    velocity = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]]).repeat(3, 1, 1, 1)  # squared, over channels: 5 and 10
    masks = torch.tensor([[[1.0, 0.0]], [[0.25, 0.75]], [[0.0, 0.0]]])
    assert glyph_mask_loss(predicted, velocity, masks).tolist() == [5.0, 8.75, 0.0]


def test_glyph_mask_gradients_are_those_of_finite_differences():
    velocity, masks = random(2, 4, 3, 5, seed=1), random(2, 3, 5, seed=2).abs().clamp(max=1)

    def loss(predicted: Tensor) -> Tensor:
        return glyph_mask_loss(predicted, velocity, masks).sum()

    assert_gradient(loss, random(2, 4, 3, 5), 1e-5, 1e-6)


def test_the_glyph_mask_gradient_reaches_inked_cells_and_nothing_else():
    predicted, velocity = (random(2, 4, 3, 5, seed=seed).requires_grad_(True) for seed in (0, 1))
    masks = torch.zeros(2, 3, 5, dtype=torch.float64)
    masks[0, 1, 2:4] = 0.5
    masks.requires_grad_(True)
    glyph_mask_loss(predicted, velocity, masks).sum().backward()
    assert predicted.grad[0, :, 1, 2:4].abs().min() > 0
    assert int((predicted.grad != 0).sum()) == 8  # the second sample is empty: 0, not NaN
    assert velocity.grad is None
    assert masks.grad is None


def test_latent_masks_are_mean_coverages():
    masks = torch.zeros(2, 4, 8, dtype=torch.uint8)
    masks[0, :2, :4] = 255
    masks[1, 3, 7] = 51
    expected = [[[0.5, 0.0]], [[0.0, 0.0125]]]
    torch.testing.assert_close(latent_masks(masks, 4), torch.tensor(expected), atol=1e-7, rtol=0)
    with pytest.raises(UserError, match="masks of 4 × 8 pixels: 3 must divide both sides"):
        latent_masks(masks, 3)


def test_the_character_map_by_hand():
    mask = np.zeros((4, 12), np.uint8)
    mask[:, 0:3] = 255  # A, box 0 … 3: the second cell is half its own
    mask[2:, 5:9] = 255  # B, box 5 … 9
    mask[0, 10] = 203  # 203 / (4 · 255) < 0.2
    mask[2, 10] = 204  # = 0.2
    boxes = [[0, 0, 3, 4], [5, 2, 9, 4], [10, 0, 11, 4]]
    found = character_map(mask, boxes, "AB0", "AB0", (2, 6))
    assert found.dtype == np.uint8
    assert found.tolist() == [[1, 1, 0, 0, 0, 0], [1, 1, 2, 2, 2, 3]]
    assert not character_map(mask, [], "", "AB0", (2, 6)).any()


def test_where_boxes_overlap_most_ink_and_then_the_nearer_centre_decides():
    mask = np.full((2, 12), 255, np.uint8)
    assert character_map(mask, [[0, 0, 7, 2], [5, 0, 12, 2]], "AB", "AB", (1, 6)).tolist() == [[1, 1, 1, 2, 2, 2]]
    assert character_map(mask, [[0, 0, 8, 2], [4, 0, 12, 2]], "AB", "AB", (1, 6)).tolist() == [[1, 1, 1, 2, 2, 2]]
    # Ink that no box claims is nobody's.
    assert character_map(mask, [[0, 0, 4, 2]], "A", "AB", (1, 6)).tolist() == [[1, 1, 0, 0, 0, 0]]


def test_the_character_map_of_a_sign_shows_its_letters_in_order():
    sign = draw_signs(["HI 7"])[0]
    found = character_map(sign.mask, list(sign.character_boxes), "HI7", ALPHABET, (16, 32))
    columns = [np.flatnonzero((found == 1 + ALPHABET.index(character)).any(0)) for character in "HI7"]
    assert all(a.max() < b.min() for a, b in pairwise(columns))
    covered = sign.mask.reshape(16, 2, 32, 2).mean((1, 3)) >= 0.2 * 255
    assert np.array_equal(found > 0, covered)


@pytest.mark.parametrize(
    ("characters", "boxes", "size", "said"),
    [
        ("É", [[0, 0, 2, 2]], (2, 4), "the character 'É' is not in"),
        ("AB", [[0, 0, 2, 2]], (2, 4), "'AB': 2 characters have 1 character boxes"),
        ("A", [[0, 0, 2, 2]], (3, 4), "cannot be cut into"),
    ],
)
def test_a_character_map_that_makes_no_sense_is_refused(characters, boxes, size, said):
    with pytest.raises(UserError, match=said):
        character_map(np.zeros((4, 8), np.uint8), boxes, characters, "AB", size)
