"""What pictures look like, without any network: colours, edges, and how unlike one another they are."""

import numpy as np
from skimage.color import rgb2gray
from skimage.filters import sobel

BINS = 8  # a colour channel
EDGE = 0.1  # of a gradient's length in grey values 0 … 1, from which a pixel counts as one of an edge


def colour_entropy(images: np.ndarray) -> np.ndarray:
    """Entropy [N] in bits, 0 (one colour) … 9, of the colours of uint8 RGB [N, H, W, 3], 8 values a channel."""
    levels = images.astype(np.int64) * BINS // 256
    codes = (levels * np.array([BINS * BINS, BINS, 1])).sum(-1).reshape(len(images), -1)
    counts = np.stack([np.bincount(row, minlength=BINS**3) for row in codes])
    shares = counts / counts.sum(1, keepdims=True)
    return -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(1)


def edge_density(images: np.ndarray) -> np.ndarray:
    """Share [N] of the pixels of uint8 RGB [N, H, W, 3] that lie on an edge, by the Sobel operator on grey values."""
    return np.array([(sobel(rgb2gray(image)) > EDGE).mean() for image in images])


def distance_to_others(images: np.ndarray) -> np.ndarray:
    """Mean root mean square difference [N] of each picture to all others, 0 (all alike) … 1.

    Args:
        images: uint8 RGB [N ≥ 2, H, W, 3], each of another prompt: a model that draws one thing for all comes down.

    Raises:
        ValueError: there are fewer than two pictures.
    """
    if len(images) < 2:
        raise ValueError("at least two pictures are needed")
    flat = images.reshape(len(images), -1) / 255
    squares = (flat**2).sum(1)
    apart = np.maximum(squares[:, None] + squares[None] - 2 * flat @ flat.T, 0) / flat.shape[1]
    np.fill_diagonal(apart, 0)
    return np.sqrt(apart).sum(1) / (len(images) - 1)
