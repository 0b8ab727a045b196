"""Bootstrap, McNemar and Holm: by hand, against SciPy, and coverage on simulated data."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from legible.metrics.statistics import (
    cluster_bootstrap,
    draw_signs,
    exact_mcnemar,
    holm,
    paired_bootstrap_delta,
    paired_bootstrap_relative,
    resample,
    seed_interval,
    sign_flip,
    two_way_bootstrap,
)


def test_resamples_are_draws_with_replacement():
    weights = resample(20, 4000, np.random.default_rng(0))
    assert weights.shape == (4000, 20)
    assert (weights.sum(1) == 20).all()
    # Each count is Binomial(20, 1/20): mean 1, variance 0.95.
    assert weights.mean() == 1.0
    assert weights.var(0).mean() == pytest.approx(0.95, abs=0.03)
    assert (resample(20, 4000, np.random.default_rng(0)) == weights).all()


def test_the_interval_agrees_with_scipy():
    rng = np.random.default_rng(1)
    numerators, denominators = rng.poisson(2.0, 60).astype(float), rng.integers(2, 7, 60).astype(float)
    ours = cluster_bootstrap(numerators, denominators, resample(60, 20_000, rng), 0.9)
    theirs = stats.bootstrap(
        (numerators, denominators),
        lambda n, d, axis: n.sum(axis) / d.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        batch=2000,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert ours.value == numerators.sum() / denominators.sum()
    assert ours.low == pytest.approx(theirs.low, abs=0.004)
    assert ours.high == pytest.approx(theirs.high, abs=0.004)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Prompts differ in difficulty, images of a prompt do not: ignoring the clusters would cover far less."""
    rng = np.random.default_rng(3)
    prompts, images, trials = 60, 8, 400
    covered = naive = 0
    for _ in range(trials):
        difficulty = rng.beta(0.7, 1.4, prompts)
        outcomes = rng.random((prompts, images)) < difficulty[:, None]
        clustered = cluster_bootstrap(outcomes.mean(1), np.ones(prompts), resample(prompts, 400, rng), 0.95)
        covered += clustered.low <= 1 / 3 <= clustered.high
        half = 1.96 * outcomes.std() / np.sqrt(outcomes.size)
        naive += abs(outcomes.mean() - 1 / 3) <= half
    assert 0.91 <= covered / trials <= 0.98
    assert naive / trials < 0.85


def test_pairing_removes_what_the_arms_share():
    rng = np.random.default_rng(4)
    control = rng.normal(0.5, 0.3, 100)
    arm, ones = control - 0.1 + rng.normal(0, 0.02, 100), np.ones(100)
    weights = resample(100, 2000, rng)
    delta = paired_bootstrap_delta(arm, ones, control, ones, weights, 0.95)
    assert delta.value == pytest.approx((arm - control).mean())
    alone = cluster_bootstrap(arm, ones, weights, 0.95)
    assert delta.high - delta.low < 0.2 * (alone.high - alone.low)
    assert delta.low < -0.1 < delta.high


def test_the_delta_of_an_arm_to_itself_is_zero():
    values, ones = np.arange(10.0), np.ones(10)
    delta = paired_bootstrap_delta(values, ones, values, ones, resample(10, 100, np.random.default_rng(0)), 0.95)
    assert (delta.value, delta.low, delta.high) == (0.0, 0.0, 0.0)


def test_a_relative_difference_by_hand():
    # Ratios 3/8 and 6/8; the resamples see 1/4 : 2/4 and 2/4 : 4/4.
    arm, control, characters = np.array([1.0, 2.0]), np.array([2.0, 4.0]), np.array([4.0, 4.0])
    weights = np.array([[2.0, 0.0], [0.0, 2.0]])
    relative = paired_bootstrap_relative(arm, characters, control, characters, weights, 0.95)
    assert (relative.value, relative.low, relative.high) == pytest.approx((-0.5, -0.5, -0.5))
    # Resamples 1/2 − 1 and 6/4 − 1; their central half.
    relative = paired_bootstrap_relative(np.array([1.0, 6.0]), characters, control, characters, weights, 0.5)
    assert (relative.value, relative.low, relative.high) == pytest.approx((7 / 6 - 1, -0.25, 0.25))


def test_a_relative_difference_does_not_depend_on_the_scale():
    rng = np.random.default_rng(6)
    arm, control, ones = rng.random(50), rng.random(50) + 0.5, np.ones(50)
    weights = resample(50, 500, rng)
    small = paired_bootstrap_relative(arm, ones, control, ones, weights, 0.9)
    large = paired_bootstrap_relative(8 * arm, ones, 8 * control, ones, weights, 0.9)
    assert (small.value, small.low, small.high) == pytest.approx((large.value, large.low, large.high))
    assert small.low < small.value < small.high
    assert small.value == pytest.approx(arm.mean() / control.mean() - 1)


def test_there_is_no_relative_difference_to_zero_and_no_interval_where_a_resample_has_none():
    ones, weights = np.ones(2), np.array([[2.0, 0.0], [1.0, 1.0]])
    nothing = paired_bootstrap_relative(ones, ones, np.zeros(2), ones, weights, 0.95)
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()
    rare = paired_bootstrap_relative(ones, ones, np.array([0.0, 1.0]), ones, weights, 0.95)
    assert rare.value == 1.0
    assert np.isnan([rare.low, rare.high]).all()


def test_a_single_prompt_has_no_interval():
    estimate = cluster_bootstrap(np.ones(1), np.full(1, 2.0), np.ones((5, 1)), 0.95)
    assert estimate.value == 0.5
    assert np.isnan([estimate.low, estimate.high]).all()


def test_impossible_arrays_are_refused():
    with pytest.raises(ValueError, match="shapes"):
        cluster_bootstrap(np.ones(3), np.ones(2), np.ones((5, 3)), 0.95)
    with pytest.raises(ValueError, match="positive"):
        cluster_bootstrap(np.ones(2), np.array([1.0, 0.0]), np.ones((5, 2)), 0.95)


def test_mcnemar_by_hand():
    # 1 of 8: two-sided 2 · (C(8,0) + C(8,1)) / 2^8 = 18/256.
    assert exact_mcnemar(1, 7) == pytest.approx(18 / 256)
    assert exact_mcnemar(7, 1) == pytest.approx(18 / 256)
    assert exact_mcnemar(4, 4) == 1.0
    assert exact_mcnemar(0, 0) == 1.0
    assert exact_mcnemar(0, 10) == pytest.approx(2 / 1024)


def test_the_sign_flip_test_by_hand():
    every = np.array(list(itertools.product([-1.0, 1.0], repeat=4)))
    # |±1±1±1±1| ≥ 4 in 2 of 16 draws, and the observed one counts as a draw.
    assert sign_flip(np.ones(4), every) == pytest.approx(3 / 17)
    assert sign_flip(-np.ones(4), every) == sign_flip(np.ones(4), every)
    assert sign_flip(np.array([0.3, 0.1, -0.1, -0.3]), every) == 1.0
    assert sign_flip(np.zeros(4), every) == 1.0
    assert sign_flip(np.array([0.1, 0.2, 0.3]), every[:, :3]) == pytest.approx(5 / 17)  # each of 8 patterns twice


def test_the_sign_flip_test_rejects_as_often_as_it_says():
    rng = np.random.default_rng(0)
    signs = draw_signs(20, rng, 499)
    assert set(signs.ravel()) == {-1.0, 1.0}
    rejected = np.mean([sign_flip(rng.standard_t(3, 20), signs) <= 0.05 for _ in range(2000)])
    assert 0.03 < rejected < 0.07
    assert sign_flip(rng.normal(1, 1, 20), signs) <= 0.01


def test_the_interval_over_training_seeds_by_hand():
    # t of 2 degrees of freedom at 97.5 %: 4.3027; the standard deviation of 1 2 3 is 1.
    assert seed_interval([1.0, 2.0, 3.0], 0.95) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)
    assert np.isnan(seed_interval([1.0], 0.95)).all()


def test_holm_by_hand():
    # Sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04, then the running maximum.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_raw_and_the_bonferroni_value(p_values):
    for raw, adjusted in zip(p_values, holm(p_values), strict=True):
        assert raw <= adjusted <= min(1.0, len(p_values) * raw) + 1e-12


def every_draw(seeds: int, prompts: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of prompts and of seeds: all resamples that there are, each as often as it is drawn."""
    drawn = [
        [np.bincount(draw, minlength=size).astype(float) for draw in itertools.product(range(size), repeat=size)]
        for size in (prompts, seeds)
    ]
    pairs = list(itertools.product(*drawn))
    return np.stack([own for own, _ in pairs]), np.stack([own for _, own in pairs])


def test_the_two_way_interval_by_hand():
    # Effects of prompts 0 1 2 and of seeds 0 and .4, added up: variances of their means 1/3 and .04.
    cells = np.array([[0.0, 1.0, 2.0], [0.4, 1.4, 2.4]])
    found = two_way_bootstrap(cells + 1, np.ones((2, 3)), np.ones(3), *every_draw(2, 3), 0.95)
    # All resamples see variances of 2/9 and .02: two thirds and a half of these.
    error = np.sqrt(1 / 3 + 0.04)
    share = (1 / 3) / (1 / 3 + 0.04)
    half = error * (share * stats.t.ppf(0.975, 2) + (1 - share) * stats.t.ppf(0.975, 1))
    assert found.difference.value == pytest.approx(1.2)
    assert (found.difference.low, found.difference.high) == pytest.approx((1.2 - half, 1.2 + half))
    level = share * stats.t.isf(found.p_value / 2, 2) + (1 - share) * stats.t.isf(found.p_value / 2, 1)
    assert level == pytest.approx(1.2 / error, rel=1e-6)
    # The control is 1 in every cell and every resample.
    assert found.relative.value == pytest.approx(1.2)
    assert found.relative.high == pytest.approx(1.2 + half)
    assert found.relative.low == max(-1.0, 1.2 - half)


cells = st.lists(st.lists(st.integers(0, 20), min_size=4, max_size=4), min_size=2, max_size=3)


@given(cells, st.integers(0, 9))
def test_a_two_way_interval_excludes_zero_exactly_where_its_test_rejects(errors, number):
    rng = np.random.default_rng(number)
    arm = np.array(errors, dtype=float)
    control, characters = rng.integers(1, 20, arm.shape).astype(float), np.array([2.0, 3.0, 5.0, 4.0])
    draws = resample(4, 50, rng).astype(float), resample(len(arm), 50, rng).astype(float)
    found = two_way_bootstrap(arm, control, characters, *draws, 0.9)
    other = two_way_bootstrap(control, arm, characters, *draws, 0.9)
    difference = found.difference
    assert difference.value == pytest.approx((arm - control).sum() / (len(arm) * characters.sum()))
    assert (difference.low, difference.high) == pytest.approx((-other.difference.high, -other.difference.low))
    assert difference.low <= difference.value <= difference.high
    if not np.isnan(found.p_value) and abs(found.p_value - 0.1) > 1e-6:
        assert (found.p_value < 0.1) == (difference.low > 0 or difference.high < 0)
    assert found.relative.low >= -1 or np.isnan(found.relative.low)


def test_a_single_training_seed_leaves_the_interval_over_prompts_and_no_test():
    rng = np.random.default_rng(5)
    arm, control, characters = rng.poisson(1.0, (1, 40)) * 1.0, rng.poisson(2.0, (1, 40)) + 1.0, np.full(40, 4.0)
    weights = resample(40, 300, rng).astype(float)
    found = two_way_bootstrap(arm, control, characters, weights, np.ones((300, 1)), 0.95)
    pair = (arm[0], characters, control[0], characters, weights, 0.95)
    assert found.difference == paired_bootstrap_delta(*pair)
    assert found.relative == paired_bootstrap_relative(*pair)
    assert np.isnan(found.p_value)


def test_a_model_without_training_seeds_is_the_same_beside_every_one():
    rng = np.random.default_rng(6)
    arm, base, characters = rng.poisson(1.0, (3, 40)) * 1.0, rng.poisson(2.0, (1, 40)) + 1.0, np.full(40, 4.0)
    draws = resample(40, 300, rng).astype(float), resample(3, 300, rng).astype(float)
    found = two_way_bootstrap(arm, base, characters, *draws, 0.95)
    assert found == two_way_bootstrap(arm, np.repeat(base, 3, axis=0), characters, *draws, 0.95)
    assert found.relative.value == pytest.approx(arm.mean(0).sum() / base.sum() - 1)
    with pytest.raises(ValueError, match="2 and 3 training seeds"):
        two_way_bootstrap(arm[:2], np.repeat(base, 3, axis=0), characters, *draws, 0.95)
    none = two_way_bootstrap(arm, np.zeros((1, 40)), characters, *draws, 0.95)
    assert np.isnan([none.relative.value, none.relative.low]).all()
    same = two_way_bootstrap(arm, arm, characters, *draws, 0.95).difference
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    alone = two_way_bootstrap(arm[:, :1], arm[:, 1:2] + 1, np.ones(1), np.ones((300, 1)), draws[1], 0.95)
    assert np.isnan([alone.difference.low, alone.difference.high, alone.relative.low, alone.p_value]).all()


@pytest.mark.parametrize(("seeds", "training"), [(5, 0.0), (5, 0.03), (5, 0.1), (3, 0.03), (3, 0.1)])
def test_two_way_intervals_cover_and_their_tests_keep_their_level_where_prompts_alone_do_not(seeds, training):
    """Trainings differ by `training` in CER, whatever the prompt: what prompts alone cannot see, and take for a gain.

    300 experiments without an effect (a difference of the rates) and as many with a quarter less.
    """
    rng, prompts = np.random.default_rng([seeds, round(1000 * training)]), 80
    covered = prompts_covered = rejected = flipped = relative = 0
    for _ in range(300):
        characters = rng.integers(2, 7, prompts).astype(float)
        difficulty = np.clip(rng.normal(0.4, 0.15, prompts), 0.05, None)
        control = difficulty + rng.normal(0, 0.02, (seeds, 1)) + rng.normal(0, 0.1, (seeds, prompts))
        own = rng.normal(0, training, (seeds, 1)) + rng.normal(0, 0.15, prompts)
        arm = control + own + rng.normal(0, 0.1, (seeds, prompts))
        draws = resample(prompts, 300, rng).astype(float), resample(seeds, 300, rng).astype(float)
        found = two_way_bootstrap(arm * characters, control * characters, characters, *draws, 0.95)
        covered += found.difference.low <= 0 <= found.difference.high
        rejected += found.p_value <= 0.05
        edits = ((arm - control) * characters).mean(0)
        alone = paired_bootstrap_delta(
            (arm * characters).mean(0), characters, (control * characters).mean(0), characters, draws[0], 0.95
        )
        prompts_covered += alone.low <= 0 <= alone.high
        flipped += sign_flip(edits, draw_signs(prompts, rng, 199)) <= 0.05
        less = two_way_bootstrap((arm - 0.1) * characters, control * characters, characters, *draws, 0.95).relative
        relative += less.low <= -0.25 <= less.high
    assert 0.93 <= covered / 300 <= 1.0
    assert 0.93 <= relative / 300 <= 1.0
    assert rejected / 300 <= 0.07  # 5 % and two standard errors
    if training >= 0.03:
        assert flipped / 300 > 0.08
        assert prompts_covered / 300 < 0.92
