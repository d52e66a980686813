"""Dimension, prompt entropy, norm and cosine against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_emergence.estimators.components import principal_components
from tl_emergence.geometry import (
    cosine_to_previous,
    effective_rank,
    mean_norm,
    participation_ratio,
    prompt_entropy,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_k_directions_of_equal_variance_have_dimension_k(k: int) -> None:
    variances = torch.cat([torch.full((k,), 2.5), torch.zeros(4)])
    assert effective_rank(variances) == pytest.approx(k)
    assert participation_ratio(variances) == pytest.approx(k)


def test_effective_rank_is_of_singular_values_and_participation_of_variances() -> None:
    p, q = 3 / 4, 1 / 4  # singular values 3 and 1
    found = torch.tensor([9.0, 1.0])
    assert effective_rank(found) == pytest.approx(p**-p * q**-q)
    assert participation_ratio(found) == pytest.approx(100 / 82)


def test_the_effective_rank_of_weighted_rows_is_that_of_the_singular_values_of_all_samples() -> None:
    counts = torch.tensor([3, 1, 4, 2])
    x = normal(4, 12)
    samples = x.repeat_interleave(counts, 0)
    singular = np.linalg.svd((samples - samples.mean(0)).numpy(), compute_uv=False)
    share = singular[singular > 1e-12] / singular.sum()
    found = effective_rank(principal_components(x, counts.double() / 10, 2).variances)
    assert found == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-6)
    assert found <= 3


def test_a_constant_state_has_no_dimension() -> None:
    variances = principal_components(torch.full((4, 3), 0.1), torch.full((4,), 0.25), 2).variances
    assert effective_rank(variances) == 0.0 and participation_ratio(variances) == 0.0


def test_orthogonal_tokens_have_the_entropy_of_their_number_and_equal_ones_none() -> None:
    bits = prompt_entropy(torch.stack([3 * torch.eye(4), torch.ones(4, 4)]))
    assert torch.allclose(bits[0], torch.tensor([1.0, 2.0, 3.0, 4.0]).double().log2(), atol=1e-9)
    assert torch.allclose(bits[1], torch.zeros(4).double(), atol=1e-9)


def test_two_unit_tokens_at_an_angle_have_the_entropy_of_their_gram_matrix() -> None:
    cosine = 0.6
    x = torch.tensor([[[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]]])
    p = (1 + cosine) / 2
    expected = -p * math.log2(p) - (1 - p) * math.log2(1 - p)
    assert float(prompt_entropy(x)[0, 1]) == pytest.approx(expected, abs=1e-6)


def test_a_prompt_of_zeros_has_no_entropy() -> None:
    assert prompt_entropy(torch.zeros(2, 3, 4)).tolist() == [[0.0] * 3] * 2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 5), st.floats(0.01, 100))
def test_dimension_and_prompt_entropy_do_not_change_with_scale_and_rotation_and_stay_in_bounds(
    seed: int, n: int, d: int, scale: float
) -> None:
    x = normal(2, n, d, seed=seed)
    turned = scale * x @ torch.linalg.qr(normal(d, d, seed=seed + 1)).Q
    bits = prompt_entropy(x)
    assert torch.allclose(bits, prompt_entropy(turned), atol=1e-6)
    assert bool((bits <= torch.arange(1, n + 1).log2() + 1e-9).all()) and bool((bits >= 0).all())
    spectra = [principal_components(y[0], torch.full((n,), 1 / n), None).variances for y in (x, turned)]
    for measure in (effective_rank, participation_ratio):
        values = [measure(variances) for variances in spectra]
        assert values[0] == pytest.approx(values[1], abs=1e-4)
        assert values[0] <= min(n - 1, d) + 1e-4
    assert participation_ratio(spectra[0]) <= effective_rank(spectra[0]) + 1e-6


def test_norm_and_cosine_are_weighted_means_over_rows() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]])
    weights = torch.tensor([0.5, 0.25, 0.25])
    assert mean_norm(x, weights) == pytest.approx(2.75)
    before = torch.tensor([[6.0, 8.0], [1.0, 0.0], [1.0, 0.0]])
    assert cosine_to_previous(x, before, weights) == pytest.approx(0.5)
    assert cosine_to_previous(-2 * x, before, weights) == pytest.approx(-0.5)
