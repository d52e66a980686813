"""The contrastive bound: known answers from below, a limit that holds, nothing from nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tl_emergence.errors import SettingError, StateError
from tl_emergence.estimators import ESTIMATORS, StateChain, mutual_information
from tl_emergence.estimators.certified import certified_nats, mean_limit
from tl_emergence.estimators.critic import Task, contrastive_nats, train_critics
from tl_emergence.estimators.variates import LINEAR_RIDGES, linear_variates, normal_scores, ranks


def correlated(n: int, d: int, rho: float, seed: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    x, z = torch.randn(2, n, d, generator=draws)
    return x, rho * x + math.sqrt(1 - rho**2) * z


def labelled(n: int, labels: int, flip: float, seed: int, d: int = 40) -> tuple[Tensor, Tensor, float]:
    """Return clusters that share a label through a symmetric channel, and the bits they share."""
    draws = torch.Generator().manual_seed(seed)
    of_x = torch.randint(labels, (n,), generator=draws)
    moved = torch.randint(1, labels, (n,), generator=draws) * (torch.rand(n, generator=draws) < flip)
    centres = 2 * torch.randn(2, labels, d, generator=draws)
    x, y = centres[0][of_x], centres[1][(of_x + moved) % labels]
    noise = 0.3 * torch.randn(2, n, d, generator=draws)
    lost = -flip * math.log2(flip) - (1 - flip) * math.log2(1 - flip) if flip else 0.0
    return x + noise[0], y + noise[1], math.log2(labels) - lost - flip * math.log2(labels - 1)


def test_gaussian_information_is_read_from_below() -> None:
    truth = -math.log2(1 - 0.8**2)  # two dimensions
    found = mutual_information(*correlated(2_000, 2, 0.8, 0), estimator="nce")
    assert 0.9 * truth < found.bits < truth + 2 * found.stderr
    assert found.certified_bits is not None and 0.25 * truth < found.certified_bits < truth
    assert found.direction == "lower bound" and not found.saturated


@pytest.mark.parametrize("flip", [0.0, 0.2])
def test_labels_through_a_channel_are_read_from_clusters(flip: float) -> None:
    x, y, truth = labelled(1_500, 8, flip, 1)
    found = mutual_information(x, y, estimator="nce")
    assert 0.9 * truth < found.bits < truth + 2 * found.stderr


def test_a_dependence_without_correlation_is_found() -> None:
    x = torch.randn(1_500, 1, generator=torch.Generator().manual_seed(2))
    noise = 0.1 * torch.randn(1_500, 1, generator=torch.Generator().manual_seed(3))
    found = mutual_information(x, x.square() + noise, estimator="nce")
    assert found.bits > 1.0 > 0.1 > mutual_information(x, x.square() + noise, estimator="gaussian").bits


@pytest.mark.slow
def test_independent_rows_give_zero_within_the_error_and_nothing_certified() -> None:
    runs = [mutual_information(*correlated(300, 3, 0.0, seed), estimator="nce") for seed in range(50)]
    assert sum(run.interval[0] <= 0 <= run.interval[1] for run in runs) >= 45
    assert sum(run.certified_bits == 0 for run in runs) == 50


@pytest.mark.slow
def test_the_certified_limit_is_below_the_truth() -> None:
    truth = -math.log2(1 - 0.8**2)
    runs = [mutual_information(*correlated(1_500, 2, 0.8, seed), estimator="nce") for seed in range(50)]
    limits = [run.certified_bits for run in runs if run.certified_bits is not None]
    assert len(limits) == 50 and sum(limit <= truth for limit in limits) >= 45
    assert max(limits) > 0


@pytest.mark.slow
def test_intervals_hold_the_mean_of_the_estimates_on_small_samples() -> None:
    """`python -m benchmarks.nce_coverage` prints the table with more data sets."""
    runs = [mutual_information(*correlated(60, 2, 0.9, seed), estimator="nce") for seed in range(60)]
    mean = sum(run.bits for run in runs) / len(runs)
    assert sum(run.interval[0] <= mean <= run.interval[1] for run in runs) >= 54


@pytest.mark.parametrize("name", ["svd", "cholesky", "eigh", "qr"])
def test_small_matrices_are_decomposed_in_float64(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A float32 SVD of a finite matrix of 34 columns came back as NaN on ordinary draws."""
    plain, seen = getattr(torch.linalg, name), []

    def watched(m: Tensor, *args: Any, **options: Any) -> Any:
        seen.append(m.dtype)
        return plain(m, *args, **options)

    monkeypatch.setattr(torch.linalg, name, watched)
    x, y = correlated(120, 80, 0.5, 21)
    train = torch.arange(100)
    views = [normal_scores(ranks(m), train, most) for m, most in ((x, 70), (y, None))]
    found = linear_variates(views[0], views[1], train, LINEAR_RIDGES, torch.Generator().manual_seed(0))
    assert set(seen) == {torch.float64} and found.x.dtype == torch.float32


def test_the_limit_of_a_mean_holds_and_comes_near() -> None:
    draws = torch.Generator().manual_seed(4)
    rare = (torch.rand(400, 1_000, generator=draws) < 0.1).double()
    limits = torch.tensor([mean_limit(row, 0.05) for row in rare])
    assert float((limits > 0.1).double().mean()) <= 0.05
    assert float(limits.mean()) > 0.1 - 3 * 0.3 / 1_000**0.5


def test_a_wild_critic_certifies_nothing() -> None:
    draws = torch.Generator().manual_seed(5)
    logits = 50 * torch.randn(3, 80, 80, generator=draws)
    assert certified_nats(logits[0], logits[1], logits[2], 0.05) == 0


def test_a_perfect_critic_certifies_most_of_a_label() -> None:
    label = torch.randint(8, (2_000,), generator=torch.Generator().manual_seed(6))
    same = 20.0 * (label[:, None] == label).float()
    bits = certified_nats(same[:400, :400], same, same[:, :400], 0.05) / math.log(2)
    assert 0.6 * 3 < bits < 3


def test_the_order_of_the_callers_rows_certifies_nothing() -> None:
    label = torch.arange(800) % 8
    noise = torch.randn(2, 800, 6, generator=torch.Generator().manual_seed(14))
    centres = 3 * torch.randn(8, 6, generator=torch.Generator().manual_seed(15))
    found = mutual_information(centres[label] + noise[0], centres[label] + noise[1], estimator="nce")
    assert found.certified_bits is not None and 0 < found.certified_bits < 3


def test_the_value_reads_ranks_only() -> None:
    x, y = correlated(300, 2, 0.7, 7)
    plain = mutual_information(x, y, estimator="nce")
    bent = mutual_information(x.exp(), y**3, estimator="nce")
    assert plain.bits == bent.bits and plain.certified_bits == bent.certified_bits


def test_nothing_is_certified_where_rows_repeat() -> None:
    x, y = (m.repeat(4, 1) for m in correlated(60, 3, 0.0, 8))
    found = mutual_information(x, y, estimator="nce")
    assert found.certified_bits is None and found.settings["repeated_rows"] == 180
    label = torch.arange(240)[:, None].remainder(2).float()
    assert mutual_information(x + label, label, estimator="nce").certified_bits is None


def test_a_pair_that_is_held_out_is_not_read_from_its_copies() -> None:
    x, y = (m.repeat(4, 1) for m in correlated(100, 16, 0.0, 16))
    found = mutual_information(x, y, estimator="nce")
    assert abs(found.bits) <= 2 * found.stderr and found.cap_bits == math.log2(20)
    chain = StateChain("test", [x[:100], y[:100]], (0, 1), ((0, 1),), torch.arange(100).repeat(4)[None])
    by_heart = ESTIMATORS["nce"].chain(chain, sigmas=(0.0,))
    grouped = ESTIMATORS["nce"].chain(replace(chain, groups=chain.rows[0]), sigmas=(0.0,))
    assert float(by_heart.bits) > 3 and abs(float(grouped.bits)) <= 2 * float(grouped.stderr)


def test_a_token_that_recurs_ties_no_pairs() -> None:
    words = 2 * torch.randn(25, 8, generator=torch.Generator().manual_seed(17))
    row = torch.randint(25, (800,), generator=torch.Generator().manual_seed(18))
    y = words[row] + torch.randn(800, 8, generator=torch.Generator().manual_seed(19))
    assert mutual_information(words[row], y, estimator="nce").bits > 3.5


def test_too_few_distinct_pairs_are_refused() -> None:
    x, y = (m.repeat(40, 1) for m in correlated(25, 2, 0.0, 20))
    with pytest.raises(
        StateError, match="too few distinct samples: saw 25 distinct among 1000; expected at l"
    ):
        mutual_information(x, y, estimator="nce")


def test_equal_states_reach_the_cap_and_are_called_saturated() -> None:
    x, _ = correlated(200, 6, 0.0, 8)
    found = mutual_information(x, x, estimator="nce")
    assert found.cap_bits == math.log2(40)
    assert found.saturated and found.bits <= math.log2(40)


def test_ties_share_their_mean_rank() -> None:
    x = torch.tensor([[2.0], [1.0], [2.0], [5.0]])
    scores = normal_scores(ranks(x), torch.arange(4), None).flatten()
    assert scores[0] == scores[2] and scores[1] < scores[0] < scores[3]
    later = normal_scores(ranks(x), torch.tensor([0, 1, 3]), None).flatten()
    assert later[2] == later[0]


def test_variates_of_training_rows_are_not_learned_by_heart() -> None:
    x, y = correlated(400, 120, 0.0, 9)
    train = torch.arange(300)
    draws = torch.Generator().manual_seed(0)
    found = linear_variates(x, y, train, LINEAR_RIDGES, draws)
    in_sample = torch.linalg.svdvals(torch.linalg.qr(x[train]).Q.t() @ torch.linalg.qr(y[train]).Q)
    assert float(in_sample[:8].min()) > 0.9
    # Not 0: the rotation onto the directions of all training rows has seen them.
    assert float(found.correlations.max()) < 0.7


def test_critics_do_not_depend_on_those_trained_beside_them() -> None:
    def task(seed: int, width: int) -> Task:
        x, y = correlated(120, width, 0.8, seed)
        rows = torch.arange(120)
        draws = torch.Generator().manual_seed(seed)
        return Task(x, y, torch.zeros(120, 1), torch.zeros(120, 1), rows[:90], rows[90:], draws)

    alone = [train_critics([task(*which)])[0] for which in ((0, 2), (1, 3))]
    together = train_critics([task(0, 2), task(1, 3)])
    for one, same in zip(alone, together, strict=True):
        assert one.steps == same.steps
        assert torch.allclose(
            contrastive_nats(one.x @ one.y.t()), contrastive_nats(same.x @ same.y.t()), atol=1e-4
        )


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (39, {}, "too few rows for three disjoint parts: saw 39 rows in 5 folds; expected at least 40"),
        (60, {"folds": 1}, "folds"),
        (60, {"folds": 21}, "folds out of range: saw 21; expected 2 to 20"),
        (60, {"components": 0}, "components"),
    ],
)
def test_what_cannot_work_is_refused(n: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        mutual_information(*correlated(n, 2, 0.1, 11), estimator="nce", **options)


def test_a_chain_reads_what_a_pair_reads() -> None:
    x, y = correlated(200, 3, 0.9, 12)
    chain = StateChain("pair", [x, y], (4, 5), [(0, 1)], torch.arange(200)[None, :])
    found = ESTIMATORS["nce"].chain(chain, sigmas=(0.0,), seed=0)
    alone = mutual_information(x, y, estimator="nce")
    assert found.cap_bits == alone.cap_bits and found.direction == "lower bound"
    assert abs(float(found.bits[0, 0, 0]) - alone.bits) < 3 * alone.stderr
    assert found.replicates is not None and found.replicates.shape == (1, 1, 1, 20)


def test_gradients_are_trained_where_the_caller_switched_them_off() -> None:
    x, y = correlated(200, 2, 0.6, 13)
    with torch.no_grad():
        off = mutual_information(x, y, estimator="nce")
    assert off.bits == mutual_information(x, y, estimator="nce").bits
