"""Confidence intervals and tests over prompts, and over prompts and training seeds together.

Images of one prompt are no independent observations, and neither are pictures of one trained model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
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


@dataclass(frozen=True)
class TwoWay:
    """Arm − control and (arm − control) / control, with intervals over prompts and training seeds together.

    `p_value` is of the difference, two-sided; NaN with a single training seed or prompt, or without any spread.
    """

    difference: Estimate
    relative: Estimate
    p_value: float


def two_way_bootstrap(
    arm: np.ndarray,
    control: np.ndarray,
    denominators: np.ndarray,
    weights: np.ndarray,
    seed_weights: np.ndarray,
    confidence: float,
) -> TwoWay:
    """Arm against control where both other prompts and other trainings could have been drawn (crossed random effects).

    Pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1(2), 386-411): prompts and training seeds are drawn
    with replacement, each for itself, and their weights multiplied. No bootstrap of such data has the right variance
    (McCullagh 2000, Bernoulli 6(2), 285-310). Owen's is conservative in what is neither the prompt's nor the seed's
    effect: it counts the variance of a single cell (seed, prompt) three times, once with the prompts, once with the
    seeds, once with both. It is not conservative in the seeds' effect where they are few: it sees (S − 1) / S of their
    variance, and its percentiles have a normal distribution's tails. Here each margin is drawn with the other as it
    is, so that the third count is left out; both variances are made unbiased and added, error² = V(prompts) + V(seeds);
    and the interval is value ± t' · error with Cochran's (1964, Biometrics 20(1), 191-195) t' = Σ V t(n − 1) / Σ V,
    n the number of prompts and of seeds. It stays conservative: a cell counts twice. tests/unit/test_statistics.py
    simulates coverage and level. A relative change cannot lie below −1.

    With a single training seed only prompts are resampled: then the bounds are those of `paired_bootstrap_delta` and
    `paired_bootstrap_relative`, and say nothing of other trainings.

    Args:
        arm: [S, P], of every training seed and prompt, for example the mean number of edits.
        control: [S, P] of the same seeds, or [1, P] of a model without training seeds; the arm may be [1, P] as well.
        denominators: [P], positive, for example characters asked for.
        weights: [R, P] from `resample`.
        seed_weights: [R, S] from `resample`; not looked at with a single seed.
        confidence: of the intervals, in (0, 1).

    Returns:
        Both, with bounds of NaN for a single prompt; relative to a control that is 0, or in any resample, as
        `paired_bootstrap_relative`.
    """
    seeds = max(len(arm), len(control))
    if {len(arm), len(control)} - {1, seeds} or (seeds > 1 and seed_weights.shape != (len(weights), seeds)):
        raise ValueError(f"{len(arm)} and {len(control)} training seeds, {seed_weights.shape}: [R, S] weights needed")
    for own in (arm, control):
        check(own[0], denominators, weights)
    one, other = (np.broadcast_to(own, (seeds, own.shape[1])) for own in (arm, control))
    if seeds == 1:
        pair = (one[0], denominators, other[0], denominators, weights, confidence)
        return TwoWay(paired_bootstrap_delta(*pair), paired_bootstrap_relative(*pair), float("nan"))
    mine, its = (ratios(own, denominators, weights, seed_weights) for own in (one, other))
    value, against = (float(own.mean(0).sum() / denominators.sum()) for own in (one, other))
    difference = Spread.of(value - against, [a - c for a, c in zip(mine, its, strict=True)], one.shape)
    nan = float("nan")
    relative = Estimate(value / against - 1 if against else nan, nan, nan)
    if against and all(own.all() for own in its):
        shares = [a / c - 1 for a, c in zip(mine, its, strict=True)]
        found = Spread.of(relative.value, shares, one.shape).interval(confidence)
        relative = Estimate(found.value, float(np.maximum(found.low, -1.0)), found.high)
    return TwoWay(difference.interval(confidence), relative, difference.p_value())


def ratios(
    numerators: np.ndarray, denominators: np.ndarray, weights: np.ndarray, seed_weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Σ numerators / Σ denominators [R] with prompts resampled, and with training seeds resampled."""
    by_seed = (weights @ numerators.T) / (weights @ denominators)[:, None]
    whole = numerators.sum(1) / denominators.sum()
    return by_seed.mean(1), seed_weights @ whole / len(numerators)


@dataclass(frozen=True)
class Spread:
    """A value, and of prompts and of training seeds its variance by them and their number."""

    value: float
    variances: tuple[float, float]
    numbers: tuple[int, int]

    @staticmethod
    def of(value: float, replicates: Sequence[np.ndarray], shape: tuple[int, int]) -> "Spread":
        """From the replicates of prompts and of seeds; `shape`: seeds (> 1), prompts."""
        alone = (float(np.mean((own - value) ** 2)) for own in replicates)
        numbers = (shape[1], shape[0])
        variances = tuple(v * n / (n - 1) if n > 1 else float("nan") for v, n in zip(alone, numbers, strict=True))
        return Spread(value, variances, numbers)

    def half(self, level: float) -> float:
        """Half the width of the interval that leaves `level` outside; NaN for a single prompt."""
        total = sum(self.variances)
        if not total:
            return 0.0
        shares = ((v / total, n - 1) for v, n in zip(self.variances, self.numbers, strict=True))
        return float(np.sqrt(total) * sum(share * t.isf(level / 2, freedom) for share, freedom in shares))

    def interval(self, confidence: float) -> Estimate:
        """The value with its interval."""
        half = self.half(1 - confidence)
        return Estimate(self.value, self.value - half, self.value + half)

    def p_value(self) -> float:
        """The level whose interval ends at zero; NaN for a single prompt, or where nothing varies."""
        if not sum(self.variances) > 0:
            return float("nan")

        def beyond(exponent: float) -> float:
            return self.half(10**exponent) - abs(self.value)

        return 1e-15 if beyond(-15) < 0 else float(10 ** brentq(beyond, -15, 0)) if self.value else 1.0


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
