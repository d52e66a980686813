"""The emergence criteria against the published systems and closed forms, and where they refuse."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_emergence.errors import SettingError, StateError
from tl_emergence.geometry import EmergenceCriteria, discrete_criteria, gaussian_criteria


def enumerated(
    n_parts: int, probability: Callable[[tuple[int, ...], tuple[int, ...]], float]
) -> EmergenceCriteria:
    """Return the criteria of a binary system whose whole is its parity, from every pair of states."""
    states = list(itertools.product((0, 1), repeat=n_parts))
    pairs = list(itertools.product(states, states))
    now, later = (torch.tensor([pair[side] for pair in pairs]) for side in (0, 1))
    weights = torch.tensor([probability(*pair) for pair in pairs], dtype=torch.float64)
    return discrete_criteria(now, later, now.sum(1) % 2, later.sum(1) % 2, weights=weights)


@pytest.mark.parametrize("n_parts", [2, 3, 4])
def test_a_part_that_becomes_the_parity_is_downward_causation(n_parts: int) -> None:
    found = enumerated(n_parts, lambda now, later: float(later[0] == sum(now) % 2))
    assert (found.psi, found.delta, found.gamma) == pytest.approx((0.0, 1.0, 1.0), abs=1e-4)


@pytest.mark.parametrize("n_parts", [2, 3, 4])
def test_a_parity_that_is_kept_while_its_parts_forget_is_causal_decoupling(n_parts: int) -> None:
    kept = 0.99
    found = enumerated(n_parts, lambda now, later: kept if sum(now) % 2 == sum(later) % 2 else 1 - kept)
    assert (found.psi, found.delta, found.gamma) == pytest.approx((0.9192, 0.0, 0.0), abs=1e-4)


def test_copies_of_one_bit_are_redundant_and_psi_is_minus_the_copies() -> None:
    bit = torch.tensor([[0, 0, 0], [1, 1, 1]])
    found = discrete_criteria(bit, bit, bit[:, 0], bit[:, 0])
    assert (found.psi, found.delta, found.gamma) == (-2.0, -2.0, 1.0)


def test_weights_stand_for_repeated_rows() -> None:
    x, y = torch.tensor([[0, 1], [1, 1], [1, 0]]), torch.tensor([[1, 1], [0, 1], [1, 0]])
    counts = torch.tensor([3, 1, 2])
    weighted = discrete_criteria(x, y, x.sum(1), y.sum(1), weights=counts.double())
    x, y = x.repeat_interleave(counts, 0), y.repeat_interleave(counts, 0)
    repeated = discrete_criteria(x, y, x.sum(1), y.sum(1))
    assert (weighted.psi, weighted.delta) == pytest.approx((repeated.psi, repeated.delta))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(2, 40))
def test_discrete_criteria_know_no_order_of_parts_and_no_names_of_labels(
    seed: int, n_parts: int, n: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randint(3, (2, n, n_parts), generator=generator)
    v, w = x.sum(1) % 3, y.sum(1) % 3
    found = discrete_criteria(x, y, v, w)
    order = torch.randperm(n_parts, generator=generator)
    other = discrete_criteria(7 - 2 * x[:, order], y[:, order] + 5, 3 * v, -w)
    for name in ("psi", "delta", "gamma"):
        assert getattr(found, name) == pytest.approx(getattr(other, name), abs=1e-9)
    assert found.delta <= found.gamma + 1e-9 and found.gamma >= -1e-9


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bits(*rho_squared: float) -> float:
    return sum(-0.5 * math.log2(1 - r) for r in rho_squared)


def within(found: EmergenceCriteria, psi: float, delta: float, gamma: float) -> None:
    assert abs(found.psi - psi) <= 4 * found.psi_stderr
    assert abs(found.delta - delta) <= 4 * found.delta_stderr
    assert abs(found.gamma - gamma) <= 4 * found.gamma_stderr


@pytest.mark.parametrize("whole", ["mean", "concatenation"])
@pytest.mark.parametrize("seed", range(4))
def test_independent_gaussians_have_no_criterion_above_its_error(whole: Any, seed: int) -> None:
    x, y = normal(2, 4, 2000, 8, seed=seed)
    found = gaussian_criteria(x, y, whole=whole, seed=seed)
    within(found, 0.0, 0.0, 0.0)
    assert max(abs(found.psi), abs(found.delta), abs(found.gamma)) < 0.05


@pytest.mark.parametrize("whole", ["mean", "concatenation"])
def test_copies_of_one_gaussian_make_psi_and_delta_very_negative(whole: Any) -> None:
    sigma, n_parts = 0.5, 5
    x = 2 * normal(20_000, 1).expand(n_parts, -1, -1)
    found = gaussian_criteria(x, x, whole=whole, sigma=sigma, components=1)
    one = bits((4 / (4 + sigma**2)) ** 2)
    if whole == "mean":
        within(found, one - n_parts * one, one - n_parts * one, one)
    else:  # V averages the noise of the parts away
        v = 4 + sigma**2 / n_parts
        crossed = bits(16 / v / (4 + sigma**2))
        psi = bits(16 / v**2) - n_parts * crossed
        within(found, psi, crossed - n_parts * one, crossed)
    assert found.psi < -4 and found.delta < -4


def test_parts_that_keep_to_themselves_have_neither_psi_nor_delta_side_by_side() -> None:
    sigma = 0.5
    x = normal(3, 20_000, 1, seed=1)
    found = gaussian_criteria(x, x, whole="concatenation", sigma=sigma, components=3)
    within(found, 0.0, 0.0, bits((1 / (1 + sigma**2)) ** 2))


def test_a_part_that_becomes_the_sum_is_downward_causation_of_the_mean() -> None:
    sigma, noise = 0.1, 0.01
    x = normal(2, 20_000, 1, seed=2)
    later = torch.stack([x.sum(dim=0), torch.zeros(20_000, 1)])
    found = gaussian_criteria(x, later, whole="mean", sigma=sigma)
    from_v = bits(1 / (0.5 + noise) / (2 + noise))
    from_part = bits(1 / (1 + noise) / (2 + noise))
    to_v = bits(0.25 / (1 + noise) / (0.5 + noise))
    whole = bits(0.25 / (0.5 + noise) ** 2)
    within(found, whole - 2 * to_v, from_v - 2 * from_part, from_v)
    assert found.delta > 1 and found.psi > 1


@pytest.mark.parametrize("whole", ["mean", "concatenation"])
def test_one_part_is_its_own_whole(whole: Any) -> None:
    x = normal(1, 300, 6, seed=3)
    found = gaussian_criteria(x, x + 1, whole=whole)
    assert (found.psi, found.delta) == pytest.approx((0.0, 0.0), abs=1e-12) and found.gamma > 1
    assert (found.psi_stderr, found.delta_stderr) == pytest.approx((0.0, 0.0), abs=1e-12)


def test_constant_parts_contribute_exactly_nothing() -> None:
    x, constant = normal(2, 300, 5, seed=4), torch.full((1, 300, 5), 0.1)
    plain = gaussian_criteria(x, x, whole="concatenation")
    more = gaussian_criteria(*[torch.cat([x, constant])] * 2, whole="concatenation")
    assert (more.psi, more.gamma, more.psi_stderr) == (plain.psi, plain.gamma, plain.psi_stderr)
    assert plain.delta < 0 == more.delta  # the largest of all parts, and that of a constant is 0
    nothing = gaussian_criteria(constant, constant)
    assert nothing == EmergenceCriteria(0.0, 0.0, 0.0)


def test_the_seed_decides_the_noise_and_global_random_state_is_not_touched() -> None:
    x, y = normal(2, 3, 200, 5, seed=5)
    before = torch.get_rng_state()
    assert gaussian_criteria(x, y, seed=1) == gaussian_criteria(x, y, seed=1)
    assert gaussian_criteria(x, y, seed=1) != gaussian_criteria(x, y, seed=2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"components": 0}, SettingError, "components out of range: saw 0; expected 1 or more"),
        ({"components": 19}, SettingError, r"saw 19 \+ 19 dimensions and 40 rows, 38 .*at most 18"),
        ({"sigma": 0}, SettingError, "sigma out of range: saw 0.0; expected a number above 0, between"),
        ({"sigma": 1e300}, SettingError, "sigma out of range"),
        ({"seed": 1.5}, SettingError, "seed is not a whole number"),
        ({"x": [[[0.0]]]}, StateError, "x is not a float tensor: saw list"),
        ({"x": normal(3, 1, 20), "x_next": normal(3, 1, 20)}, StateError, "one sample"),
        ({"sigma": math.inf}, SettingError, "sigma out of range"),
        ({"whole": "sum"}, SettingError, "unknown whole: saw 'sum'"),
        ({"x": normal(3, 40)}, StateError, r"x has the wrong shape: saw \(3, 40\)"),
        ({"x": normal(2, 40, 20)}, StateError, "two steps do not fit each other"),
        ({"x": normal(3, 40, 20).log()}, StateError, "x is not finite: saw NaN or infinity at"),
    ],
)
def test_gaussian_criteria_refuse_what_they_cannot_answer(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    x = normal(3, 40, 20)
    given = {"x": x, "x_next": x, **change}
    with pytest.raises(error, match=message):
        gaussian_criteria(**given)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": torch.zeros(3, dtype=torch.int64)}, r"parts and wholes do not fit each other: saw x \(4, 2\)"),
        ({"x_next": torch.zeros(4, 3, dtype=torch.int64)}, "do not fit each other"),
        ({"x": torch.zeros(4, dtype=torch.int64)}, r"x has the wrong shape: saw \(4,\)"),
        ({"weights": torch.tensor([1.0, -0.5, 0.2, 0.3])}, "weights do not fit the rows.*from -0.5 to 1"),
        ({"weights": torch.zeros(4)}, "weights do not fit the rows"),
        ({"weights": torch.ones(3)}, r"weights do not fit the rows: saw shape \(3,\)"),
        ({"weights": torch.ones(0)}, r"weights do not fit the rows: saw shape \(0,\)"),
        ({"v": torch.tensor([0.0, math.nan, 1.0, 1.0])}, "v is not a tensor of labels: saw torch.float32"),
        ({"x": [[0, 0]]}, "x is not a tensor of labels: saw list"),
        ({"x": torch.zeros(4, 2, dtype=torch.int64)}, "v is no function of the parts"),
    ],
)
def test_discrete_criteria_refuse_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    x = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    given = {"x": x, "x_next": x, "v": x.sum(1), "v_next": x.sum(1), **change}
    with pytest.raises(StateError, match=message):
        discrete_criteria(**given)
