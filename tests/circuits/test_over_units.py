"""Chance over units: blocks that drift with depth, and intervals over heads, by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tl_emergence.circuits import statistics
from tl_emergence.circuits.effective_number import (
    autocorrelation,
    effective_interval,
    effective_number,
    t_test_p_value,
)
from tl_emergence.circuits.over_units import over_units
from tl_emergence.circuits.resampling import draw_units, units_interval


def drifting(generator: np.random.Generator, count: int, n: int, coefficient: float) -> np.ndarray:
    """Return series of a stationary autoregression of order 1."""
    steps = generator.standard_normal((count, n))
    values = np.empty_like(steps)
    values[:, 0] = steps[:, 0]
    for i in range(1, n):
        values[:, i] = coefficient * values[:, i - 1] + np.sqrt(1 - coefficient**2) * steps[:, i]
    return values


@pytest.mark.parametrize("partial", [False, True])
def test_blocks_that_drift_with_depth_are_rarely_called_associated(partial: bool) -> None:
    generator = np.random.default_rng(0)
    x, y = (drifting(generator, 2000, 18, 0.85) for _ in range(2))
    depth = statistics.depth_regressors(np.arange(18), within=False)
    given = depth if partial else None
    u, v = statistics.unit_ranks(x, given), statistics.unit_ranks(y, given)
    p = t_test_p_value((u * v).sum(axis=-1), effective_number(u, v), 2 if partial else 0)
    assert np.mean(p <= 0.05) <= 0.09
    assert np.mean(np.isnan(p)) < 0.02  # few are not testable
    if not partial:  # what permuting the blocks would say of the same pairs
        naive = t_test_p_value((u * v).sum(axis=-1), np.full(len(u), 18.0))
        assert np.mean(naive <= 0.05) > 0.2


def test_a_true_association_of_blocks_that_drift_is_still_found() -> None:
    generator = np.random.default_rng(1)
    x = drifting(generator, 500, 26, 0.5)
    y = x + 0.5 * drifting(generator, 500, 26, 0.5)
    u, v = statistics.unit_ranks(x), statistics.unit_ranks(y)
    assert np.mean(t_test_p_value((u * v).sum(axis=-1), effective_number(u, v)) <= 0.05) > 0.9


def test_independent_values_are_worth_nearly_their_number_and_a_trend_few() -> None:
    generator = np.random.default_rng(2)
    u, v = statistics.unit_ranks(generator.standard_normal((2, 500, 48)))
    assert np.median(effective_number(u, v)) > 44 and effective_number(u, v).max() <= 48
    trend = statistics.unit_ranks(np.arange(48.0))
    assert float(effective_number(trend, trend)) < 6
    alternating = statistics.unit_ranks(np.arange(12.0) % 2)
    smooth = statistics.unit_ranks(np.arange(12.0))
    assert float(effective_number(alternating, smooth)) == 12  # n* never exceeds n


def test_autocorrelation_is_that_of_the_definition() -> None:
    ranks = statistics.unit_ranks(np.random.default_rng(3).standard_normal(10))
    expected = [10 / (10 - k) * float(np.dot(ranks[:-k], ranks[k:])) for k in (1, 2, 3)]
    assert autocorrelation(ranks, 3).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("n", [17, 18, 26, 30, 37])
@pytest.mark.parametrize("sign", [1, -1])
def test_blocks_in_perfect_agreement_are_testable(n: int, sign: int) -> None:
    values = np.random.default_rng(n).standard_normal((1, n))
    layers = np.arange(n)
    depth = statistics.depth_regressors(layers, within=False)
    found = over_units(
        values, sign * values, np.array([sign * (1 + 2e-16), sign * 1.0]), layers=layers, within=False,
        depth=depth, baselines=[], resamples=20, permutations=19,
        seeds=(np.random.default_rng(0), np.random.default_rng(1)),
    )  # fmt: skip
    assert found.plain.p < 1e-6 and found.partial.p < 1e-6
    assert found.plain.low == found.plain.high == sign


def test_too_few_independent_blocks_have_no_interval_and_no_test() -> None:
    assert np.isnan(effective_interval(0.9, 4.0)).all() and not np.isnan(effective_interval(0.9, 4.1)).any()
    assert np.isnan(effective_interval(0.9, 6.0, regressors=2)).all()
    assert np.isnan(t_test_p_value(np.array(0.9), np.array(3.0)))
    assert float(t_test_p_value(np.array(0.5), np.array(18.0))) == pytest.approx(
        2 * stats.t.sf(0.5 * np.sqrt(16 / 0.75), 16)
    )


@pytest.mark.parametrize(("n_layers", "n_heads"), [(18, 4), (8, 4), (6, 12)])
def test_intervals_over_heads_cover_the_correlation_of_the_population(n_layers: int, n_heads: int) -> None:
    generator = np.random.default_rng(4)
    layers = np.repeat(np.arange(n_layers), n_heads)
    rho = 0.4
    truth = 6 / np.pi * np.arcsin(rho / 2)  # Spearman of a bivariate normal
    covered, covered_within = [], []
    given = statistics.depth_regressors(layers, within=True)
    for _ in range(200):
        x, noise = generator.standard_normal((2, len(layers)))
        y = rho * x + np.sqrt(1 - rho**2) * noise
        for groups, regressors, hits in (
            (np.zeros_like(layers), None, covered),
            (layers, given, covered_within),
        ):
            drawn = draw_units(groups, 200, generator)
            held = None if regressors is None else statistics.depth_regressors(layers[drawn[0]], True)
            replicates = statistics.unit_ranks(x[drawn], held) * statistics.unit_ranks(y[drawn], held)
            estimate = statistics.unit_ranks(x, regressors) @ statistics.unit_ranks(y, regressors)
            low, high = units_interval(float(estimate), replicates.sum(axis=-1), len(layers))
            hits.append(low <= truth <= high)
    # 200 draws of a coverage of .95 have an error of .015; small samples cover somewhat less.
    assert np.mean(covered) > 0.9
    assert np.mean(covered_within) > 0.9


def test_a_layer_of_two_heads_leaves_nothing_to_resample_within_layers() -> None:
    drawn = draw_units(np.array([0, 0, 1, 1]), 100, np.random.default_rng(0))
    assert drawn.shape == (100, 2)
    assert np.isnan(units_interval(0.5, np.full(100, np.nan), 4)).all()
