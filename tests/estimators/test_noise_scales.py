"""The noise estimator where sigma is tiny, or states are far from 0: rounding must not make information."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import tl_emergence as tle
from tests.estimators.oracles import noise_information_slowly, two_point_information
from tl_emergence.estimators import Estimate, NoiseEstimator, StateChain, mutual_information


def cloud(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def noise(x: torch.Tensor, y: torch.Tensor, sigma: float, **settings: Any) -> Estimate:
    return mutual_information(x, y, estimator="noise", sigma=sigma, **settings)


@pytest.fixture(scope="module")
def many() -> torch.Tensor:
    return torch.randint(5, 60, (64, 3), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("part", [1e-2, 5e-3, 2.6e-3, 1e-4, 1e-6, 3e-7, 1e-8, 1e-10, 1e-14, 1e-20, 1e-60])
def test_rows_that_are_equal_in_one_state_give_no_more_than_the_entropy_of_the_set(
    part: float, dtype: torch.dtype
) -> None:
    x, y = cloud(6, 16, 0)[torch.arange(24) % 6].to(dtype), cloud(24, 16, 1).to(dtype)
    sigma = part * float(x.norm(dim=1).max())
    for a, b in ((x, y), (y, x)):
        # Neighbouring rows are ten sigmas apart or more: nothing is lost, and nothing can be gained.
        assert noise(a, b, sigma).bits == pytest.approx(math.log2(6), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("exponent", [-8, -12, -16, -20, -23])
def test_two_clusters_tell_one_bit_more_than_the_two_points_in_each(
    exponent: int, dtype: torch.dtype
) -> None:
    sigma = 2.0**exponent  # 1 + sigma is a float32 number
    x = torch.tensor([[1 + sigma, 0], [1 - sigma, 0], [-1 + sigma, 0], [-1 - sigma, 0]], dtype=dtype)
    found = noise(x, x.flip(1), sigma, seed=1)
    right = 1 + two_point_information(1.0, 1.0, 1.0)
    assert abs(found.bits - right) <= 3 * found.stderr


@pytest.mark.parametrize("exponent", [-30, -40, -50])
def test_double_precision_states_are_read_to_their_last_digits(exponent: int) -> None:
    sigma = 2.0**exponent
    x = torch.tensor([[1 + sigma], [1 - sigma], [-1 + sigma], [-1 - sigma]], dtype=torch.float64)
    found = noise(x, x, sigma, seed=1)
    assert abs(found.bits - 1 - two_point_information(1.0, 1.0, 1.0)) <= 3 * found.stderr


def far_from_zero(offset: float) -> torch.Tensor:
    return cloud(30, 4, 2) + offset


def one_far_away(distance: float) -> torch.Tensor:
    x = 1e-3 * cloud(30, 4, 3)
    x[0] += distance
    return x


@pytest.mark.parametrize(
    ("x", "sigma"),
    [
        (far_from_zero(1e3), 0.5),
        (far_from_zero(1e5), 0.7),
        (far_from_zero(1e6), 0.2),
        (one_far_away(1e3), 1e-3),
        (one_far_away(1e5), 1e-3),
        (one_far_away(1e9), 2e-3),
    ],
)
def test_offsets_and_outliers_in_float32_change_nothing_but_the_digits_of_the_states(
    x: torch.Tensor, sigma: float
) -> None:
    found = noise(x, x, sigma, seed=3)
    same = noise(x.double(), x.double(), sigma, seed=3)
    assert found.bits == pytest.approx(same.bits, abs=1e-4)
    uniform = np.full(len(x), 1 / len(x))
    rows = x.double().numpy()
    slow, slow_error = noise_information_slowly(rows, rows, uniform, sigma, draws=40, seed=4)
    assert abs(found.bits - slow) <= 3 * math.hypot(found.stderr, slow_error)


@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1e-20, 1e-10, 1e10, 1e18, 1e20, 1e30])
def test_the_unit_of_the_states_does_not_matter(scale: float) -> None:
    x = cloud(40, 8, 5)
    expected = noise(x, x, 0.7).bits
    assert noise(scale * x, scale * x, 0.7 * scale).bits == pytest.approx(expected, abs=1e-4)


def test_two_rows_that_are_the_same_are_at_distance_zero_whatever_rounding_says() -> None:
    for seed in range(10):
        x = 1e3 * cloud(4, 16, seed).repeat_interleave(2, 0)
        x[:6, 0] += 1e-3 * torch.arange(6)  # the last two rows are the same, the others nearly
        chain = StateChain("test", [x, cloud(8, 16, 100)], (0, 1), ((0, 1),), torch.arange(8)[None])
        assert float(NoiseEstimator().chain(chain, sigmas=(1e3,)).closest[0]) == 0.0


@pytest.mark.parametrize("sigma", [1e-2, 1e-7, 1e-9, 1e-12])
def test_no_cell_of_a_model_is_above_its_exact_value(toy: Any, many: torch.Tensor, sigma: float) -> None:
    # At layer 0 prompts that end in the same token have the same state, at layer 1 each has its own.
    halves = tle.half_block_emergence(toy, many, sigma=sigma, prepend_bos=False)
    for _, found in halves.parts():
        assert bool((found.macro <= found.exact.macro + found.macro_stderr).all())
        assert bool((found.micro <= found.exact.micro + found.micro_stderr).all())


@pytest.mark.parametrize("sigma", [1e-9, 1e-12])
def test_no_cell_of_a_cache_is_above_its_exact_value(toy: Any, many: torch.Tensor, sigma: float) -> None:
    _, cache = toy.run_with_cache(many)
    distinct = many.unique()
    _, alone = toy.run_with_cache(distinct[:, None])
    found = tle.information_emergence_from_cache(
        cache, alone, tokens=many, micro_tokens=distinct, n_prefix=0, space="unit", sigma=sigma
    )
    assert bool((found.macro <= found.exact.macro + found.macro_stderr).all())
    assert bool((found.micro <= found.exact.micro + found.micro_stderr).all())
    assert found.macro[0, -1] == pytest.approx(float(found.exact.macro[0, -1]), abs=1e-6)
