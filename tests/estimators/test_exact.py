"""Exact entropies of identities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tl_emergence.errors import SettingError
from tl_emergence.estimators import ESTIMATORS, ExactEstimator, StateChain, mutual_information
from tl_emergence.estimators.exact import closest_distance, entropy_bits, miller_madow_bits


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60))
def test_entropy_is_minus_the_sum_of_p_log_p(values: list[int]) -> None:
    ids = torch.tensor(values)
    p = torch.bincount(ids).double() / len(ids)
    p = p[p > 0]
    assert entropy_bits(ids) == pytest.approx(-float((p * p.log2()).sum()), abs=1e-12)


def test_distinct_rows_carry_log2_n() -> None:
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    found = mutual_information(x, x.flip(1), estimator="exact")
    assert found.bits == pytest.approx(math.log2(300), abs=1e-12)
    assert (found.stderr, found.cap_bits, found.saturated, found.direction) == (0.0, None, False, "exact")


def test_information_is_shared_identity() -> None:
    x = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    y = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    assert mutual_information(x, y, estimator="exact").bits == 0.0
    assert mutual_information(x, x + 3, estimator="exact").bits == 1.0


def test_a_constant_side_gives_exactly_zero() -> None:
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    found = mutual_information(x, torch.ones(30, 1), estimator="exact")
    assert (found.bits, found.stderr) == (0.0, 0.0)


def test_settings_report_distinct_rows_and_the_closest_pair() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    found = mutual_information(x, x, estimator="exact")
    assert found.settings["distinct_x"] == 2
    assert found.settings["closest_x"] == pytest.approx(5.0)


def test_closest_distance_of_one_row_is_infinite() -> None:
    assert closest_distance(torch.zeros(1, 3)) == math.inf


def test_the_closest_pair_is_found_beside_a_massive_dimension() -> None:
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(2))
    x[:, 0] += 5e4
    x[17, 1:] = x[60, 1:] + 1e-3
    x[17, 0] = x[60, 0]
    assert closest_distance(x) == pytest.approx(1e-3 * math.sqrt(7), rel=1e-3)


def test_collisions_are_seen_in_a_chain() -> None:
    apart = torch.tensor([[0.0], [1.0], [2.0]])
    together = torch.tensor([[0.0], [5.0], [5.0]])
    chain = StateChain("test", [apart, together], (0, 1), ((0, 1),), torch.arange(3)[None])
    assert ExactEstimator().chain(chain, sigmas=(0.0,)).closest.tolist() == [1.0, 0.0]


def test_a_chain_counts_what_both_states_distinguish() -> None:
    states = [torch.tensor([[0.0], [0.0], [1.0]]), torch.tensor([[0.0], [1.0], [2.0]])]
    rows = torch.tensor([[0, 1, 2, 2], [0, 0, 0, 0]])
    found = ExactEstimator().chain(StateChain("test", states, (0, 1), ((0, 1),), rows), sigmas=(0.0,))
    assert found.bits.tolist() == [[[1.0, 0.0]]]


def test_miller_madow_corrects_the_plug_in_and_refuses_mostly_singletons() -> None:
    ids = torch.arange(8).repeat(4)
    assert miller_madow_bits(ids) == pytest.approx(3 + 7 / (64 * math.log(2)))
    with pytest.raises(SettingError, match="3 of 5 rows occur once"):
        miller_madow_bits(torch.tensor([0, 1, 2, 3, 3]))


def test_exact_refuses_noise() -> None:
    with pytest.raises(SettingError, match="exact takes no noise: saw sigma=0.5"):
        mutual_information(torch.zeros(3, 1), torch.zeros(3, 1), estimator="exact", sigma=0.5)


def test_every_estimator_keeps_its_name() -> None:
    assert all(name == estimator.name for name, estimator in ESTIMATORS.items())
