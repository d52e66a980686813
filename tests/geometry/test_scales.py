"""Geometry whatever the unit of the states, and weights that need not sum to 1."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tl_emergence.errors import EmergenceError, SettingError, StateError
from tl_emergence.geometry import (
    companion_geometry,
    cosine_to_previous,
    effective_rank,
    gaussian_criteria,
    mean_norm,
    participation_ratio,
    prompt_entropy,
)

SCALES = [1e-200, 1e-30, 1e-9, 1e30, 1e200]
THREE = torch.randn(8, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
X, BEFORE, WEIGHTS = THREE[:, 0], THREE[:, 1], torch.full((8,), 1 / 8)


@pytest.mark.parametrize("scale", SCALES)
def test_shapes_and_directions_do_not_depend_on_the_unit(scale: float) -> None:
    variances = torch.tensor([4.0, 4.0, 0.0], dtype=torch.float64)
    assert effective_rank(scale * variances) == pytest.approx(2.0)
    assert participation_ratio(scale * variances) == pytest.approx(2.0)
    assert torch.allclose(prompt_entropy(scale * THREE), prompt_entropy(THREE))
    right = cosine_to_previous(X, BEFORE, WEIGHTS)
    assert cosine_to_previous(scale * X, BEFORE, WEIGHTS) == pytest.approx(right)
    assert cosine_to_previous(X, scale * BEFORE, WEIGHTS) == pytest.approx(right)
    assert mean_norm(scale * X, WEIGHTS) == pytest.approx(scale * mean_norm(X, WEIGHTS))


@pytest.mark.parametrize("total", [1, 3.0, 1e300])
def test_weights_need_not_sum_to_one(total: float) -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 1.0]], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64) * total
    assert mean_norm(x, weights) == pytest.approx(3.0)
    assert cosine_to_previous(x, 2 * x, weights) == pytest.approx(1.0)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    "weights",
    [
        None,
        [0.5] * 8,
        torch.ones(7),
        torch.ones(8, 1),
        -torch.ones(8),
        torch.zeros(8),
        torch.full((8,), math.nan),
        torch.ones(8).to_sparse(),
        torch.ones(8, device="meta"),
        torch.ones(8, dtype=torch.complex64),
    ],
)
def test_weights_that_do_not_fit_get_a_typed_error(weights: Any) -> None:
    for call in (lambda: mean_norm(X, weights), lambda: cosine_to_previous(X, BEFORE, weights)):
        with pytest.raises(StateError, match="weights"):
            call()


def test_variances_below_zero_are_rounding_or_refused() -> None:
    assert effective_rank(torch.tensor([1.0, 1.0, -1e-8])) == pytest.approx(2.0)
    assert participation_ratio(torch.tensor([1.0, 1.0, -1e-8])) == pytest.approx(2.0)
    for function in (effective_rank, participation_ratio):
        with pytest.raises(StateError, match="variances below 0: saw -0.5"):
            function(torch.tensor([1.0, -0.5]))


@pytest.mark.usefixtures("as_shipped")
def test_states_of_other_rows_or_width_are_refused() -> None:
    for other in (BEFORE[:7], BEFORE[:, :2]):
        with pytest.raises(StateError, match="x and previous are not paired"):
            cosine_to_previous(X, other, WEIGHTS)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_criteria_of_very_few_samples_say_how_many_are_needed(n: int) -> None:
    x = torch.randn(2, n, 3, generator=torch.Generator().manual_seed(n))
    with pytest.raises(SettingError, match="too few rows for a Gaussian model.*Pass more rows: 5 or more"):
        gaussian_criteria(x, x, components=1)


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_criteria_refuse_states_whose_squares_are_no_numbers(scale: float) -> None:
    x = scale * torch.randn(2, 40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(StateError, match="cannot be squared"):
        gaussian_criteria(x, x)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("states", "settings", "message"),
    [
        (X, {}, "no captured states: saw Tensor; expected CapturedStates"),
        (None, {}, "no captured states: saw NoneType"),
    ],
)
def test_the_geometry_of_a_run_needs_captured_states(
    states: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(EmergenceError, match=message):
        companion_geometry(states, space="unit", **settings)
