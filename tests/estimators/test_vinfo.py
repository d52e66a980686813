"""Usable information against closed forms: what linear predictors and probes get, held out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import MultivariateNormal

from tests.estimators.test_gaussian import correlated, truth
from tl_emergence.errors import SettingError, StateError
from tl_emergence.estimators import ESTIMATORS, StateChain, mutual_information
from tl_emergence.estimators.vinfo import held_out_bits, means_without_blocks

VINFO = ESTIMATORS["vinfo"]


@pytest.mark.parametrize(("d", "rho"), [(1, 0.7), (8, 0.5), (8, 0.0)])
def test_many_gaussian_rows_give_nearly_all_of_their_information(d: int, rho: float) -> None:
    found = mutual_information(*correlated(20_000, d, rho, 1), estimator="vinfo")
    assert abs(found.bits - truth(d, rho)) <= 3 * found.stderr
    assert found.stderr < 0.03 and found.direction == "none" and found.cap_bits is None


def test_fewer_rows_give_less_of_it() -> None:
    bits = [
        [mutual_information(*correlated(n, 16, 0.5, seed), estimator="vinfo").bits for seed in range(4)]
        for n in (200, 800, 3200)
    ]
    means = [sum(values) / len(values) for values in bits]
    assert means[0] < means[1] < means[2] < truth(16, 0.5)
    assert means[2] > 0.95 * truth(16, 0.5)


@pytest.mark.parametrize(("n", "d"), [(60, 1), (200, 30), (600, 20)])
def test_intervals_cover_zero_for_independent_states(n: int, d: int) -> None:
    runs = [mutual_information(*correlated(n, d, 0.0, seed), estimator="vinfo") for seed in range(50)]
    assert sum(run.interval[0] <= 0 <= run.interval[1] for run in runs) >= 45


def test_errors_describe_the_spread_between_samples() -> None:
    runs = [mutual_information(*correlated(400, 6, 0.6, seed), estimator="vinfo") for seed in range(40)]
    spread = float(torch.tensor([run.bits for run in runs]).std())
    mean_error = sum(run.stderr for run in runs) / len(runs)
    assert 0.7 < mean_error / spread < 1.5


def test_pointwise_values_average_to_the_estimate() -> None:
    found = mutual_information(*correlated(300, 3, 0.7, 2), estimator="vinfo")
    assert found.pointwise is not None and found.pointwise.shape == (300,)
    assert float(found.pointwise.mean()) == pytest.approx(found.bits, abs=1e-5)


def test_a_row_that_is_held_out_does_not_change_its_own_prediction() -> None:
    x, y = correlated(100, 2, 0.8, 3)
    folds = torch.arange(100) % 5
    before = held_out_bits(x, y, folds)
    x, y = x.clone(), y.clone()
    x[0], y[0] = 9.0, -9.0
    after = held_out_bits(x, y, folds)
    own = folds == 0
    assert torch.equal(before[own][1:], after[own][1:]) and float(before[0]) != float(after[0])
    assert not torch.equal(before[~own], after[~own])


def test_a_slow_twin_gives_the_same_values() -> None:
    """Ridge by normal equations, every leave-one-out fit made for itself, densities by torch."""
    x, y = (m.double() for m in correlated(40, 2, 0.9, 4))
    folds = torch.arange(40) % 4
    fast = held_out_bits(x, y, folds)
    for fold in range(4):
        train, held = folds != fold, folds == fold
        a, b = x[train], y[train]
        a_mean, a_scale, b_mean, b_scale = a.mean(0), a.std(0), b.mean(0), b.std(0)
        a, b = (a - a_mean) / a_scale, (b - b_mean) / b_scale
        strengths = [_best_strength(a, b[:, j]) for j in range(2)]
        alone, given = torch.zeros(2, 30, 2, dtype=torch.float64)
        for i in range(30):
            rest = torch.arange(30) != i
            alone[i] = b[i] - b[rest].mean(0)
            for j, strength in enumerate(strengths):
                given[i, j] = b[i, j] - _ridge_with_constant(a[rest], b[rest, j], strength * 30, a[i])
        c, d = (x[held] - a_mean) / a_scale, (y[held] - b_mean) / b_scale
        predicted = torch.stack(
            [_ridge_with_constant(a, b[:, j], s * 30, c) for j, s in enumerate(strengths)], dim=1
        )
        gain = MultivariateNormal(torch.zeros(2).double(), given.t() @ given / 30).log_prob(d - predicted)
        gain = gain - MultivariateNormal(torch.zeros(2).double(), alone.t() @ alone / 30).log_prob(d)
        assert torch.allclose(gain / math.log(2), fast[held], atol=1e-6)


def _best_strength(a: torch.Tensor, b: torch.Tensor) -> float:
    def score(strength: float) -> float:
        hat = a @ torch.linalg.solve(a.t() @ a + len(a) * strength * torch.eye(2), a.t())
        return float((b - hat @ b).square().sum() / (1 - (1 + hat.trace()) / len(a)) ** 2)

    return min(torch.logspace(-8, 3, 23, dtype=torch.float64).tolist(), key=score)


def _ridge_with_constant(
    a: torch.Tensor, b: torch.Tensor, penalty: float, rows: torch.Tensor
) -> torch.Tensor:
    inputs = torch.cat([a, torch.ones(len(a), 1)], dim=1)
    weights = torch.linalg.solve(
        inputs.t() @ inputs + penalty * torch.diag(torch.tensor([1.0, 1.0, 0.0])), inputs.t() @ b
    )
    return rows @ weights[:2] + weights[2]


def test_the_scale_of_a_direction_does_not_matter() -> None:
    x, y = correlated(500, 4, 0.7, 5)
    plain = mutual_information(x.double(), y, estimator="vinfo")
    x = x.double() * torch.tensor([1e4, 1.0, 1.0, 1e-2], dtype=torch.float64)
    found = mutual_information(x, 7 * y - 2, estimator="vinfo")
    assert found.bits == pytest.approx(plain.bits, abs=0.02)


def test_it_has_a_direction() -> None:
    x, _ = correlated(4000, 1, 0.0, 6)
    squares = torch.cat([x, x.square()], dim=1)
    noise = correlated(4000, 1, 0.0, 7)[0]
    y = x.square() + 0.1 * noise
    forward = mutual_information(squares, y, estimator="vinfo")
    assert forward.bits > 3 > 1 > mutual_information(x, y, estimator="vinfo").bits


def test_noise_of_size_sigma_lowers_it_as_it_should() -> None:
    x, _ = correlated(20_000, 3, 0.0, 8)
    found = mutual_information(x, x, estimator="vinfo", sigma=0.5)
    assert abs(found.bits - truth(3, 1 / (1 + 0.25))) <= 3 * found.stderr


def test_states_that_determine_each_other_are_refused_without_a_noise_floor() -> None:
    x, _ = correlated(200, 4, 0.0, 9)
    with pytest.raises(StateError, match="states that determine each other.* Pass sigma= above 0"):
        mutual_information(x, x @ torch.ones(4, 4).tril(), estimator="vinfo")


def test_too_few_rows_are_refused() -> None:
    x, y = correlated(50, 20, 0.5, 10)
    with pytest.raises(SettingError, match=r"saw 20 \+ 20 dimensions and 40 of 50 rows.*at most 19"):
        mutual_information(x, y, estimator="vinfo")
    assert mutual_information(x, y, estimator="vinfo", components=5).settings["components_y"] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": -1.0}, "sigma out of range: saw"),
        ({"components": 0}, "components out of range: saw 0; expected 1 or more"),
        ({"folds": 1}, "folds out of range: saw 1; expected 2 or more"),
        ({"folds": 21}, "folds out of range: saw 21; expected 2 to 20"),
        ({"folds": None}, "folds is not a whole number"),
    ],
)
def test_bad_settings_get_a_typed_error(options: dict[str, float], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        mutual_information(*correlated(50, 2, 0.1, 11), estimator="vinfo", **options)  # type: ignore[arg-type]


def test_a_chain_gives_what_its_pairs_give_alone_and_jackknifes_the_mean() -> None:
    x, y = correlated(400, 6, 0.5, 12)
    rows = torch.stack([torch.arange(400), torch.arange(400).flip(0), torch.zeros(400, dtype=torch.int64)])
    chain = StateChain("test", [x, y], (3, 4), ((0, 1),), rows)
    found = VINFO.chain(chain, sigmas=(0.1, 0.5), seed=1)
    alone = mutual_information(x, y, estimator="vinfo", sigma=0.5, seed=2)
    assert abs(float(found.bits[1, 0, 0]) - alone.bits) <= 3 * alone.stderr
    assert bool((found.bits[0] >= found.bits[1]).all())
    assert float(found.bits[0, 0, 2]) == 0.0 and float(found.stderr[0, 0, 2]) == 0.0
    assert float(found.mean_stderr[0, 0, 0]) == float(found.stderr[0, 0, 0])
    assert sorted(found.subsamples) == [100, 200]


def test_few_distinct_rows_are_no_trouble_with_a_noise_floor() -> None:
    generator = torch.Generator().manual_seed(13)
    x, y = torch.randn(2, 25, 40, generator=generator)
    rows = torch.randint(25, (1, 500), generator=generator)
    chain = StateChain("test", [x, y], (0, 1), ((0, 1),), rows)
    found, gaussian = (
        ESTIMATORS[name].chain(chain, sigmas=(0.3,), components=8) for name in ("vinfo", "gaussian")
    )
    assert float(found.bits) == pytest.approx(float(gaussian.bits), abs=0.5)  # of the same noisy rows
    assert 0 < float(found.stderr) < 0.5


def test_a_pair_that_is_held_out_is_not_read_from_its_copies() -> None:
    for seed in range(5):
        x, y = (m.repeat(6, 1) for m in correlated(50, 8, 0.0, seed))
        noise = 1e-3 * torch.randn(300, 8, generator=torch.Generator().manual_seed(seed))
        found = mutual_information(x, y, estimator="vinfo")
        assert abs(found.bits) <= 2 * found.stderr
        assert mutual_information(x + noise, y, estimator="vinfo").bits > 0.5  # what copies would read


def test_copies_of_one_prompt_share_their_fold_in_a_chain() -> None:
    x, y = correlated(50, 8, 0.0, 14)
    rows = torch.arange(50).repeat(6)[None]
    chain = StateChain("test", [x, y], (0, 1), ((0, 1),), rows, groups=rows[0])
    found = VINFO.chain(chain, sigmas=(0.05,))
    assert abs(float(found.bits)) <= 2 * float(found.stderr)
    assert float(VINFO.chain(replace(chain, groups=None), sigmas=(0.05,)).bits) > 0.5


def test_a_token_that_recurs_ties_no_pairs() -> None:
    words = torch.randn(25, 6, generator=torch.Generator().manual_seed(15))
    row = torch.randint(25, (1000,), generator=torch.Generator().manual_seed(16))
    y = words[row] + torch.randn(1000, 6, generator=torch.Generator().manual_seed(17))
    assert mutual_information(words[row], y, estimator="vinfo").bits > 1.5


def test_too_few_distinct_pairs_are_refused() -> None:
    x, y = (m.repeat(100, 1) for m in correlated(4, 1, 0.0, 18))
    with pytest.raises(
        StateError, match="too few distinct samples: saw 4 distinct among 400; expected at least 5"
    ):
        mutual_information(x, y, estimator="vinfo")


def test_the_mean_without_a_block_is_the_mean_of_the_rest() -> None:
    x, blocks = torch.randn(3, 30, dtype=torch.float64), torch.arange(30) % 4
    found = means_without_blocks(x, blocks)
    assert found.shape == (3, 4)
    assert torch.allclose(found[1, 2], x[1, blocks != 2].mean())
