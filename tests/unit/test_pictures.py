"""Colours, edges and distances of pictures, by hand."""

import numpy as np
import pytest

from legible.metrics.pictures import colour_entropy, distance_to_others, edge_density


def plain(value: int, count: int = 1) -> np.ndarray:
    return np.full((count, 8, 16, 3), value, np.uint8)


def test_colour_entropy_counts_colours():
    halves = plain(0)
    halves[:, :, 8:] = 255
    quarters = halves.copy()
    quarters[:, 4:, :, 0] = 128
    near = plain(0)
    near[:, :, 8:] = 31  # the same eighth of the range
    found = colour_entropy(np.concatenate([plain(7), halves, quarters, near]))
    assert found == pytest.approx([0, 1, 2, 0])


def test_edge_density_is_the_share_of_pixels_at_an_edge():
    halves = plain(0)
    halves[:, :, 8:] = 255
    assert edge_density(np.concatenate([plain(99), halves])) == pytest.approx([0, 2 / 16])


def test_distance_to_others_is_the_mean_root_mean_square_difference():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 8, 16, 3)).astype(np.uint8)
    values = images / 255
    expected = [np.mean([np.sqrt(((values[i] - values[j]) ** 2).mean()) for j in range(5) if j != i]) for i in range(5)]
    assert distance_to_others(images) == pytest.approx(expected)
    assert distance_to_others(plain(40, 3)) == pytest.approx([0, 0, 0], abs=1e-6)
    assert distance_to_others(np.concatenate([plain(0), plain(255)])) == pytest.approx([1, 1])
    with pytest.raises(ValueError, match="two pictures"):
        distance_to_others(plain(0))
