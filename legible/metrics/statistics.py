"""Confidence intervals and tests whose unit is the prompt: images of one prompt are no independent observations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, t


@dataclass(frozen=True)
class Estimate:
    """A value and its percentile interval; the bounds are NaN where they cannot be estimated (a single prompt)."""

    value: float
    low: float
    high: float


def resample(prompts: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each prompt occurs in each bootstrap resample: int64 [resamples, prompts], rows sum to `prompts`.

    Drawing prompts with replacement is a multinomial draw of these counts. Sharing them between arms pairs the arms.
    """
    return rng.multinomial(prompts, np.full(prompts, 1.0 / prompts), size=resamples)


def cluster_bootstrap(
    numerators: np.ndarray, denominators: np.ndarray, weights: np.ndarray, confidence: float
) -> Estimate:
    """Σ numerators / Σ denominators with a percentile bootstrap interval clustered by prompt (Efron & Tibshirani 1993).

    Args:
        numerators: [P], for example each prompt's mean number of edits (micro CER) or its mean exact match.
        denominators: [P], positive, for example each prompt's number of characters; ones for a plain mean.
        weights: [R, P] from `resample`.
        confidence: of the interval, in (0, 1).
    """
    check(numerators, denominators, weights)
    value = float(numerators.sum() / denominators.sum())
    return interval(value, (weights @ numerators) / (weights @ denominators), len(numerators), confidence)


def paired_bootstrap_delta(
    numerators: np.ndarray,
    denominators: np.ndarray,
    control_numerators: np.ndarray,
    control_denominators: np.ndarray,
    weights: np.ndarray,
    confidence: float,
) -> Estimate:
    """Arm − control of the ratio that `cluster_bootstrap` estimates, on the same prompts and the same resamples.

    All arrays [P] in the same order of prompts, `weights` [R, P].
    """
    check(numerators, denominators, weights)
    check(control_numerators, control_denominators, weights)
    value = float(numerators.sum() / denominators.sum() - control_numerators.sum() / control_denominators.sum())
    arm = (weights @ numerators) / (weights @ denominators)
    control = (weights @ control_numerators) / (weights @ control_denominators)
    return interval(value, arm - control, len(numerators), confidence)


def paired_bootstrap_relative(
    numerators: np.ndarray,
    denominators: np.ndarray,
    control_numerators: np.ndarray,
    control_denominators: np.ndarray,
    weights: np.ndarray,
    confidence: float,
) -> Estimate:
    """(Arm − control) / control of the same ratios, on the same prompts and the same resamples: −0.2 is a fifth less.

    All arrays [P] in the same order of prompts, `weights` [R, P]. Everything is NaN where the control is 0, and the
    bounds are where it is 0 in any of the resamples: leaving these out would hide how uncertain so rare an event is.
    """
    check(numerators, denominators, weights)
    check(control_numerators, control_denominators, weights)
    nan, control_value = float("nan"), float(control_numerators.sum() / control_denominators.sum())
    if control_value == 0:
        return Estimate(nan, nan, nan)
    value = float(numerators.sum() / denominators.sum()) / control_value - 1
    control = (weights @ control_numerators) / (weights @ control_denominators)
    if not control.all():
        return Estimate(value, nan, nan)
    arm = (weights @ numerators) / (weights @ denominators)
    return interval(value, arm / control - 1, len(numerators), confidence)


def check(numerators: np.ndarray, denominators: np.ndarray, weights: np.ndarray) -> None:
    """Raise a ValueError unless the arrays are [P], [P] and [R, P] and the denominators positive."""
    if not numerators.shape == denominators.shape == weights.shape[1:] or not len(numerators):
        raise ValueError(f"shapes {numerators.shape}, {denominators.shape}, {weights.shape}: [P], [P], [R, P] needed")
    if not (denominators > 0).all():
        raise ValueError("every denominator must be positive")


def interval(value: float, replicates: np.ndarray, prompts: int, confidence: float) -> Estimate:
    """`value` with the central `confidence` of the bootstrap replicates [R]; none from a single prompt."""
    if prompts < 2:
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high))


def exact_mcnemar(better: int, worse: int) -> float:
    """Two-sided exact p-value of McNemar's test from the two kinds of discordant pairs; 1 when there is none.

    Of `better + worse` units that changed, each is as likely to have improved as not under the null hypothesis. Where a
    prompt has several images, give the numbers of *prompts* whose mean improved or fell (the sign test): images of one
    prompt are not independent.
    """
    return float(binomtest(better, better + worse, 0.5).pvalue) if better + worse else 1.0


def draw_signs(prompts: int, rng: np.random.Generator, times: int = 9999) -> np.ndarray:
    """Random signs for `sign_flip`: float64 [times, prompts] of −1 and 1. Sharing them between arms pairs the arms."""
    return 2.0 * rng.integers(0, 2, (times, prompts)) - 1.0


def sign_flip(differences: np.ndarray, signs: np.ndarray) -> float:
    """Two-sided p-value of a paired randomisation test (Fisher 1935, Pitman 1937) on the sum of `differences`.

    Under the null hypothesis a prompt's difference has either sign with equal probability. The unit is the prompt; the
    smallest p-value is 1 / (R + 1).

    Args:
        differences: [P], arm − control.
        signs: [R, P] from `draw_signs`.
    """
    rounding = 1e-9 * np.abs(differences).sum()  # equal sums count as equal
    reached = np.abs(signs @ differences) >= abs(differences.sum()) - rounding
    return float((1 + reached.sum()) / (1 + len(signs)))


def seed_interval(deltas: Sequence[float], confidence: float) -> tuple[float, float]:
    """Student's t interval of the mean over training seeds; (NaN, NaN) for fewer than two.

    It says how a difference varies from one training to the next, on these prompts.
    """
    if len(deltas) < 2:
        return float("nan"), float("nan")
    half = float(t.ppf((1 + confidence) / 2, len(deltas) - 1) * np.std(deltas, ddof=1) / np.sqrt(len(deltas)))
    return float(np.mean(deltas)) - half, float(np.mean(deltas)) + half


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (1979), in the order given: below α means significant at family-wise α."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted.tolist()
