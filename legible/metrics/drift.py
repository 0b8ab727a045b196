"""How far fine-tuning has moved the images of prompts without text away from the base model's.

Images of the same prompt and image seed start from the same noise, so they are compared in pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from skimage.metrics import structural_similarity

from legible.config import Scoring
from legible.metrics.statistics import Estimate, cluster_bootstrap, paired_bootstrap_delta, resample
from legible.metrics.summary import generator

NAN = float("nan")
DISTANCES = ("rmse", "dssim", "clip_distance")


@dataclass(frozen=True)
class Drift:
    """Of one model: `distances`, prompts × (rmse, dssim, clip_distance), averaged over image seeds, and its `kid`."""

    distances: pd.DataFrame
    kid: float


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


def drift_weights(scoring: Scoring, prompt_set: str, prompts: int) -> np.ndarray:
    """The resampling weights [R, P] of all drifts."""
    return resample(prompts, scoring.resamples, generator(scoring.seed, prompt_set, "drift")).astype(float)


def by_prompt(drifts: Mapping[tuple[str, int], Drift], prompt_set: str) -> pd.DataFrame:
    """Every distance of every prompt, (arm, training seed) by (arm, training seed): drift_by_prompt.parquet.

    With them any two arms can be compared in pairs. `kid` belongs to a run and stands in each of its rows.
    """
    tables = [
        run.distances.rename_axis("prompt_id").reset_index().assign(arm=arm, training_seed=seed, kid=run.kid)
        for (arm, seed), run in drifts.items()
    ]
    columns = ["arm", "training_seed", "prompt_set", "prompt_id", *DISTANCES, "kid"]
    return pd.concat(tables, ignore_index=True).assign(prompt_set=prompt_set)[columns]


def drift_rows(
    runs: Sequence[Drift], control: Sequence[Drift] | None, weights: np.ndarray, confidence: float
) -> list[dict]:
    """One row per metric of an arm: its training seeds averaged, intervals clustered by prompt, difference to control.

    Args:
        runs: the arm's training seeds, all with the same prompts in the same order.
        control: those of the control; None leaves the differences empty (NaN).
        weights: [R, P] from `resample`.
        confidence: of the intervals, in (0, 1). The KID has none: resampling would put copies into both samples.
    """
    mean = sum(run.distances for run in runs) / len(runs)
    control_mean = sum(run.distances for run in control) / len(control) if control else None
    ones, rows = np.ones(len(mean)), []
    for metric in mean.columns:
        numbers, delta = mean[metric].to_numpy(), Estimate(NAN, NAN, NAN)
        value = cluster_bootstrap(numbers, ones, weights, confidence)
        if control_mean is not None:
            delta = paired_bootstrap_delta(numbers, ones, control_mean[metric].to_numpy(), ones, weights, confidence)
        rows.append(drift_row(metric, value, delta))
    value = float(np.mean([run.kid for run in runs]))
    difference = value - float(np.mean([run.kid for run in control])) if control else NAN
    return [*rows, drift_row("kid", Estimate(value, NAN, NAN), Estimate(difference, NAN, NAN))]


def drift_row(metric: str, value: Estimate, delta: Estimate) -> dict:
    """The measured columns of one row of drift.csv."""
    measured = {"metric": metric, "value": value.value, "ci_low": value.low, "ci_high": value.high}
    return measured | {"delta_vs_control": delta.value, "delta_low": delta.low, "delta_high": delta.high}
