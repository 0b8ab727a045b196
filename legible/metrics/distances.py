"""How far two sets of images lie apart, pair by pair and as distributions; what drift is made of."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from skimage.metrics import structural_similarity

from legible.errors import UserError
from legible.metrics.drift import DISTANCES, Drift

Key = tuple[str, int]  # prompt id, image seed


def check_pairs(first: np.ndarray, second: np.ndarray) -> None:
    """Raise a ValueError unless both arrays have the same shape and hold something."""
    if first.shape != second.shape or not len(first):
        raise ValueError(f"shapes {first.shape} and {second.shape}: pairs of the same shape are needed")


def pixel_rmse(images: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Root mean square difference of the pixels of each pair, [N], 0 (equal) … 1 (black against white).

    Args:
        images, base: uint8 RGB [N, H, W, 3], paired by prompt and image seed.

    Raises:
        ValueError: the shapes differ, or there is no image.
    """
    check_pairs(images, base)
    difference = (images.astype(np.float64) - base.astype(np.float64)) / 255
    return np.sqrt((difference**2).mean(axis=(1, 2, 3)))


def dssim(images: np.ndarray, base: np.ndarray) -> np.ndarray:
    """1 − SSIM of each pair, [N], 0 (equal) … 2; perceptual, and without any network.

    Source: Wang et al. 2004, with their Gaussian window of 11 × 11 pixels (σ = 1.5), averaged over the channels.

    Args:
        images, base: uint8 RGB [N, H, W, 3], paired; at least 11 × 11 pixels.

    Raises:
        ValueError: the shapes differ, there is no image, or the images are smaller than the window.
    """
    check_pairs(images, base)
    settings = {"channel_axis": 2, "data_range": 255, "gaussian_weights": True, "use_sample_covariance": False}
    return np.array([1 - structural_similarity(a, b, sigma=1.5, **settings) for a, b in zip(images, base, strict=True)])


def feature_distance(features: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Cosine distance of each pair of feature vectors, [N], 0 (same direction) … 2.

    Args:
        features, base: [N, D], no vector zero, paired.

    Raises:
        ValueError: the shapes differ, or there is no pair.
    """
    check_pairs(features, base)
    lengths = np.linalg.norm(features, axis=1) * np.linalg.norm(base, axis=1)
    return (1 - (features * base).sum(axis=1) / lengths).clip(0, 2)  # rounding can end up at −1e-17


def kid(features: np.ndarray, base: np.ndarray, paired: bool = False) -> float:
    """Unbiased squared maximum mean discrepancy of two sets of features under the kernel (x·y / D + 1)³; about 0 … ∞.

    It is about 0 for two samples of one distribution, and then as often below as above. The estimator is that of KID
    (Bińkowski et al. 2018, arXiv 1801.01401), but on features of a CLIP image tower, as in CMMD (arXiv 2401.09603):
    the numbers are not comparable to a KID on Inception features.

    Args:
        features: [N, D], not normalised.
        base: [M, D].
        paired: row i of both belongs together (N = M; same prompt, same noise), so the two are not independent. The
            kernel of such a pair is left out (Gretton et al. 2012, equation 4), which keeps the estimate unbiased and
            makes it 0 for equal features.

    Raises:
        ValueError: fewer than two vectors, different D, or pairs of different numbers.
    """
    n, m, dimension = len(features), len(base), features.shape[1]
    if min(n, m) < 2 or base.shape[1] != dimension or (paired and n != m):
        raise ValueError(f"shapes {features.shape}, {base.shape}: [N ≥ 2, D] and [M ≥ 2, D] are needed, paired: N = M")

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x.astype(np.float64) @ y.T.astype(np.float64) / dimension + 1) ** 3

    def off_diagonal_mean(matrix: np.ndarray) -> float:
        return float((matrix.sum() - np.trace(matrix)) / (len(matrix) * (len(matrix) - 1)))

    between = kernel(features, base)
    mean_between = off_diagonal_mean(between) if paired else float(between.mean())
    own, theirs = kernel(features, features), kernel(base, base)
    return off_diagonal_mean(own) + off_diagonal_mean(theirs) - 2 * mean_between


def measure_drift(
    images: np.ndarray, features: np.ndarray, base_images: np.ndarray, base_features: np.ndarray, keys: Sequence
) -> Drift:
    """All distances of a model's images to the base images they are paired with.

    The KID is the mean over image seeds: with one image a prompt, the pairs are independent of one another.

    Args:
        images, base_images: uint8 RGB [N, H, W, 3].
        features, base_features: [N, D].
        keys: (prompt id, image seed) of each of the N images; every prompt has every image seed.
    """
    prompts, seeds = (np.array(values) for values in zip(*keys, strict=True))
    measured = (pixel_rmse(images, base_images), dssim(images, base_images), feature_distance(features, base_features))
    distances = dict(zip(DISTANCES, measured, strict=True))
    of_seed = [seeds == seed for seed in np.unique(seeds)]
    kids = [kid(features[own], base_features[own], paired=True) for own in of_seed]
    return Drift(pd.DataFrame(distances).groupby(prompts, sort=True).mean(), float(np.mean(kids)))


def next_seed(keys: Sequence[Key]) -> list[int]:
    """For every image the index of the same prompt's image under the next image seed, cyclically.

    Raises:
        UserError: an image is missing.
    """
    seeds = sorted({seed for _, seed in keys})
    following = dict(zip(seeds, [*seeds[1:], seeds[0]], strict=True))
    place = {key: number for number, key in enumerate(keys)}
    if missing := [(prompt, following[seed]) for prompt, seed in keys if (prompt, following[seed]) not in place]:
        raise UserError(f"base: the image of {missing[0][0]} under seed {missing[0][1]} is missing; generate it first")
    return [place[prompt, following[seed]] for prompt, seed in keys]
