"""The null check of chains: the same estimate after samples got each other's states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tests.estimators.test_gaussian import correlated
from tl_emergence.errors import SettingError
from tl_emergence.estimators import (
    ESTIMATORS,
    ChainEstimate,
    DerangedEstimator,
    Estimator,
    ExactEstimator,
    StateChain,
    derangement,
)

QUICK: dict[str, dict[str, Any]] = {"mine_paper": {"steps": 5}}


@pytest.mark.parametrize("n", [2, 3, 50])
def test_a_derangement_leaves_no_sample_in_its_place(n: int) -> None:
    moved = derangement(n, 1)
    assert bool((moved != torch.arange(n)).all())
    assert torch.equal(moved.sort().values, torch.arange(n))


def test_one_sample_cannot_be_deranged() -> None:
    with pytest.raises(SettingError, match="number of samples out of range: saw 1"):
        derangement(1, 0)


def test_it_is_one_cycle_through_all_samples() -> None:
    once, place, seen = derangement(20, 3), 0, []
    for _ in range(20):
        seen.append(place)
        place = int(once[place])
    assert sorted(seen) == list(range(20)) and place == 0


def test_every_two_neighbours_are_deranged_by_the_same_cycle() -> None:
    chain_of_ids = [torch.arange(9.0)[:, None]] * 4
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Spy(ExactEstimator):
        def chain(self, chain: StateChain, *, sigmas: Sequence[float], seed: int = 0) -> ChainEstimate:
            seen.extend((chain.states[i][:, 0], chain.states[j][:, 0]) for i, j in chain.pairs)
            return super().chain(chain, sigmas=sigmas, seed=seed)

    pairs = [(0, 1), (1, 2), (2, 3)]
    chain = StateChain("test", chain_of_ids, (2, 3, 4, 5), pairs, torch.arange(9)[None])
    DerangedEstimator(Spy()).chain(chain, sigmas=(0.0,), seed=4)
    once = derangement(9, 4)
    assert len(seen) == 3
    for x, y in seen:
        assert torch.equal(y, once[x.long()].float())


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_a_deranged_chain_has_the_shape_of_the_chain(name: str) -> None:
    estimator: Estimator = ESTIMATORS[name]
    x, y = correlated(60, 3, 0.9, 1)
    rows = torch.stack([torch.arange(60), torch.arange(60) % 7, torch.zeros(60, dtype=torch.int64)])
    chain = StateChain("test", [x, y], (0, 1), ((0, 1),), rows)
    settings: dict[str, Any] = {"sigmas": (estimator.default_emergence_sigma,), "seed": 2}
    plain = estimator.chain(chain, **settings, **QUICK.get(name, {}))
    found = DerangedEstimator(estimator).chain(chain, **settings, **QUICK.get(name, {}))
    assert found.bits.shape == plain.bits.shape == found.stderr.shape == found.mean_stderr.shape
    for part in ("pointwise", "replicates"):
        one, other = getattr(found, part), getattr(plain, part)
        assert (one is None) == (other is None) and (one is None or one.shape == other.shape)
    assert sorted(found.subsamples) == sorted(plain.subsamples) and found.cap_bits == plain.cap_bits
    assert set(found.settings) - set(plain.settings) == {"deranged", "null_means"}
    assert float(found.bits[0, 0, 2]) == 0.0  # a constant state
    if name in ("gaussian", "nce", "vinfo"):
        if name != "nce":  # sixty rows are too few for a critic to show anything
            assert bool((plain.bits[0, 0, :2] > 0.5).all())
        assert bool((found.bits.abs() <= 3 * found.stderr + 1e-12).all())
    if name == "exact":
        assert float(found.bits[0, 0, 0]) == pytest.approx(math.log2(60))


@pytest.mark.parametrize("name", ["gaussian", "vinfo"])
def test_intervals_of_deranged_micro_series_cover_zero(name: str) -> None:
    """25 distinct rows, many samples of each: equal rows may get each other's."""
    hits = []
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.randn(2, 25, 6, generator=generator)
        rows = torch.randint(25, (2, 200), generator=generator)
        chain = StateChain("micro", [x, y], (0, 1), ((0, 1),), rows)
        found = DerangedEstimator(ESTIMATORS[name]).chain(chain, sigmas=(0.5,), seed=seed)
        hits += (found.bits.abs() <= 1.96 * found.stderr + 1e-12).flatten().tolist()
    assert sum(hits) >= 18
