"""The statistics of correlations: SciPy as oracle, then simulations whose answers are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tl_emergence.circuits import resampling, statistics

N_LAYERS, N_HEADS = 6, 4
LAYERS = np.repeat(np.arange(N_LAYERS), N_HEADS)


def p_values(x: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int = 0) -> float:
    generator = np.random.default_rng(seed)
    ranks = statistics.unit_ranks(x), statistics.unit_ranks(y)
    return statistics.permutation_p_value(*ranks, groups=groups, permutations=199, generator=generator)


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    found: Any = stats.spearmanr(x, y)
    return float(found.statistic)


def mean_spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return statistics.rank_correlation(x, y).mean(axis=1, keepdims=True)


def estimate_and_replicates(
    x: np.ndarray, y: np.ndarray, same: bool, generator: np.random.Generator
) -> tuple[float, np.ndarray]:
    """Return Spearman's correlation of halves (or of two sets) as `correlate` forms it, with resamples."""
    n = x.shape[1]
    whole = np.ones((1, n), dtype=bool)
    first = resampling.disjoint_halves(n, 4, generator) if same else whole
    second = ~first if same else whole
    ones = np.ones((1, n))
    means = resampling.weighted_means(x, first, ones), resampling.weighted_means(y, second, ones)
    drawn = resampling.bootstrap(
        x,
        y,
        mean_spearman,
        halves=(first, second),
        copies=(ones[0], ones[0]),
        same_prompts=same,
        resamples=200,
        generator=generator,
    )
    return float(mean_spearman(*means)[0, 0]), drawn[:, 0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 30), st.integers(2, 6))
def test_rank_correlation_is_that_of_scipy_with_and_without_ties(seed: int, n: int, values: int) -> None:
    generator = np.random.default_rng(seed)
    x, y = generator.standard_normal((2, 3, n))
    tied = generator.integers(0, values, (3, n))
    tied[:, 0], tied[:, 1] = 0, 1  # not constant
    for other in (y, tied.astype(float)):
        expected = [spearman(a, b) for a, b in zip(x, other, strict=True)]
        assert statistics.rank_correlation(x, other) == pytest.approx(expected, abs=1e-12)


def test_partial_rank_correlation_given_one_variable_is_the_formula_of_the_textbooks() -> None:
    x, y, z = np.random.default_rng(0).standard_normal((3, 20)) + np.arange(20) / 5
    xy, xz, yz = (spearman(a, b) for a, b in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    found = statistics.partial_rank_correlation(x, y, stats.rankdata(z)[:, None])
    assert float(found) == pytest.approx(float(expected), abs=1e-12)


def test_a_constant_has_no_correlation_nor_what_depth_explains_wholly() -> None:
    x = np.arange(6.0)
    assert np.isnan(statistics.rank_correlation(x, np.ones(6)))
    assert np.isnan(statistics.partial_rank_correlation(x, x[::-1] ** 2, x[:, None]))


@pytest.mark.parametrize("within", [True, False])
def test_a_correlation_planted_through_depth_alone_vanishes_when_depth_is_held_fixed(within: bool) -> None:
    generator = np.random.default_rng(1)
    layers = LAYERS if within else np.arange(24)
    hump = 6.0 * np.sin(np.pi * layers / layers.max())  # not even monotone in depth
    x, y = hump + generator.standard_normal((2, 400, 24))
    plain = statistics.rank_correlation(x, y)
    left = statistics.partial_rank_correlation(x, y, statistics.depth_regressors(layers, within))
    assert plain.mean() > 0.75
    # 400 draws of spread 1 / sqrt(21): error 0.011. In ranks a hump is no parabola.
    assert abs(left.mean()) < (0.04 if within else 0.13)
    tests = [p_values(a[None], b[None], LAYERS) for a, b in zip(x[:100], y[:100], strict=True)]
    if within:
        assert np.mean(np.array(tests) <= 0.05) < 0.12


def test_a_correlation_beside_depth_stays_when_depth_is_held_fixed() -> None:
    generator = np.random.default_rng(2)
    shared = generator.standard_normal((200, 24))
    x, y = LAYERS + shared + 0.3 * generator.standard_normal((2, 200, 24))
    left = statistics.partial_rank_correlation(x, y, statistics.depth_regressors(LAYERS, True))
    assert left.mean() > 0.75


@pytest.mark.parametrize("groups", [LAYERS, np.zeros(24, int)])
def test_null_data_give_uniform_p_values(groups: np.ndarray) -> None:
    generator = np.random.default_rng(3)
    x, y = generator.standard_normal((2, 600, 24)) + 5 * generator.standard_normal(N_LAYERS)[groups]
    found = [p_values(a[None], b[None], groups, seed) for seed, (a, b) in enumerate(zip(x, y, strict=True))]
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.027)  # three errors of 600 draws


def test_halves_of_prompts_with_shared_noise_give_uniform_p_values_and_whole_means_do_not() -> None:
    generator = np.random.default_rng(4)
    groups = np.zeros(24, int)
    halves, whole = [], []
    for seed in range(300):
        noise = generator.standard_normal((24, 32))
        x, y = generator.standard_normal((2, 24, 1)) * 0.1 + noise  # one noise in both
        first = resampling.disjoint_halves(32, 8, generator)
        ones = np.ones((1, 32))
        split = [resampling.weighted_means(v, h, ones)[0] for v, h in ((x, first), (y, ~first))]
        halves.append(p_values(split[0], split[1], groups, seed))
        whole.append(p_values(x.mean(axis=1)[None], y.mean(axis=1)[None], groups, seed))
    assert np.mean(np.array(halves) <= 0.05) < 0.05 + 0.03
    assert np.mean(np.array(whole) <= 0.05) > 0.9


def test_the_p_value_of_a_small_group_is_that_of_all_its_permutations() -> None:
    x = np.arange(4.0)
    found = statistics.permutation_p_value(
        statistics.unit_ranks(x)[None], statistics.unit_ranks(x)[None], groups=np.zeros(4, int),
        permutations=20_000, generator=np.random.default_rng(0),
    )  # fmt: skip
    assert found == pytest.approx(2 / 24, abs=0.006)  # the order itself and its reverse


def test_permutations_stay_within_layers() -> None:
    x = np.array([0.0, 1.0, 10.0, 11.0])  # only two pairs to swap: four permutations
    found = p_values(x[None], x[None], np.array([0, 0, 1, 1]))
    assert found == pytest.approx(0.5, abs=0.12)  # both as they are, or both swapped
    assert np.isnan(p_values(x[None], x[None], np.arange(4)))


def test_freeing_ranks_of_layer_means_changes_nothing_for_a_permutation_within_layers() -> None:
    x, y = np.random.default_rng(5).standard_normal((2, 1, 24))
    depth = statistics.depth_regressors(LAYERS, True)
    found = [
        statistics.permutation_p_value(
            statistics.unit_ranks(x, of), statistics.unit_ranks(y, of), groups=LAYERS,
            permutations=999, generator=np.random.default_rng(0),
        )
        for of in (None, depth)
    ]  # fmt: skip
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("n_units", "rho", "noise", "same"),
    [
        (24, 0.0, 3.0, True),
        (24, 0.6, 3.0, True),
        (24, 0.95, 1.5, True),
        (10, 0.6, 3.0, True),
        (24, 0.6, 3.0, False),
        (10, 0.6, 3.0, False),
    ],
)
def test_intervals_cover_the_correlation_of_halves_with_the_units_fixed(
    n_units: int, rho: float, noise: float, same: bool
) -> None:
    n, draws = 40, 150
    generator = np.random.default_rng(6)
    truth = generator.standard_normal((2, n_units))
    truth[1] = rho * truth[0] + np.sqrt(1 - rho**2) * truth[1]
    used = n // 2 if same else n
    fresh = truth[:, None] + noise / np.sqrt(used) * generator.standard_normal((2, 4000, n_units))
    expected = float(statistics.rank_correlation(fresh[0], fresh[1]).mean())
    covered, estimates = 0, []
    for _ in range(draws):
        shared, *own = generator.standard_normal((3, n_units, n))
        # The same prompts disturb score and effect alike.
        x, y = (t[:, None] + noise * (0.8 * shared + 0.6 * o) for t, o in zip(truth, own, strict=True))
        if not same:
            y = truth[1][:, None] + noise * generator.standard_normal((n_units, n))
        estimate, drawn = estimate_and_replicates(x, y, same, generator)
        low, high = resampling.correlation_interval(estimate, drawn, n_units)
        covered += low <= expected <= high
        estimates.append(estimate)
    assert np.mean(estimates) == pytest.approx(expected, abs=4 * np.std(estimates) / draws**0.5)
    assert 0.90 <= covered / draws <= 0.995


def test_an_interval_of_ranks_that_no_resample_changes_has_no_width() -> None:
    x = np.arange(6.0)[:, None] + 1e-6 * np.random.default_rng(0).standard_normal((6, 20))
    estimate, drawn = estimate_and_replicates(x, x, True, np.random.default_rng(0))
    low, high = resampling.correlation_interval(estimate, drawn, 6)
    assert low == high == estimate == pytest.approx(1.0)


def test_an_interval_contains_its_estimate_even_at_1() -> None:
    drawn = np.array([1.0] * 90 + [0.8] * 10)
    low, high = resampling.correlation_interval(1.0, drawn, 5)
    assert low < 0.9 and high == 1.0
    assert np.isnan(resampling.correlation_interval(np.nan, drawn, 5)).all()
    assert np.isnan(resampling.difference_interval(0.0, np.array([np.nan, 0.0]))).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(8, 41), st.integers(1, 6))
def test_halves_are_disjoint_and_use_every_prompt_equally(n: int, pairs: int) -> None:
    found = resampling.disjoint_halves(n, 2 * pairs, np.random.default_rng(n))
    assert (found.sum(axis=0) == pairs).all()
    assert (found[0::2] == ~found[1::2]).all()
    assert set(found.sum(axis=1).tolist()) <= {n // 2, n - n // 2}


def test_spearman_brown_foresees_the_reliability_of_twice_the_prompts_and_the_ceiling_is_reached() -> None:
    generator = np.random.default_rng(7)
    truth = generator.standard_normal(4000)

    def measured(n: int) -> np.ndarray:
        return truth + 2.0 / np.sqrt(n) * generator.standard_normal(4000)

    half = float(np.corrcoef(measured(8), measured(8))[0, 1])
    full = float(np.corrcoef(measured(16), measured(16))[0, 1])
    assert statistics.spearman_brown(float(half), 2) == pytest.approx(full, abs=0.03)
    perfect = float(statistics.rank_correlation(measured(8), measured(16)))
    assert statistics.ceiling(float(half), float(full)) == pytest.approx(perfect, abs=0.03)


def test_what_is_not_reliable_has_no_ceiling_above_0() -> None:
    assert statistics.spearman_brown(-0.4, 2) == -0.4
    assert statistics.ceiling(-0.4, 0.9) == 0.0


def test_q_values_are_those_of_scipy_and_leave_out_what_was_no_test() -> None:
    p = np.array([0.001, 0.5, np.nan, 0.02])
    found = statistics.q_values(p)
    assert np.isnan(found[2])
    assert found[[0, 1, 3]] == pytest.approx(stats.false_discovery_control(p[[0, 1, 3]]))
    assert np.isnan(statistics.q_values(np.array([np.nan]))).all()


def test_the_same_seed_gives_the_same_numbers_and_global_random_state_is_untouched() -> None:
    before = np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002  (the state that must not move)
    x, y = np.random.default_rng(8).standard_normal((2, 8, 20))
    found = [estimate_and_replicates(x, y, True, np.random.default_rng(1))[1] for _ in range(2)]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(before, np.random.get_state(legacy=False)["state"]["key"])  # noqa: NPY002
