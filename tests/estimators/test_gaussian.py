"""Gaussian information against the closed form, and where it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tl_emergence.errors import SettingError, StateError
from tl_emergence.estimators import ESTIMATORS, StateChain, mutual_information
from tl_emergence.estimators.components import principal_components
from tl_emergence.estimators.jackknife import blocks_of, jackknife_stderr

GAUSSIAN = ESTIMATORS["gaussian"]


def correlated(n: int, d: int, rho: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, z = torch.randn(2, n, d, generator=generator)
    return x, rho * x + math.sqrt(1 - rho**2) * z


def truth(d: int, rho: float) -> float:
    return -d / 2 * math.log2(1 - rho**2)


@pytest.mark.parametrize("rho", [0.5, 0.0])
def test_the_mean_of_ten_draws_has_the_bias_of_the_plug_in_removed(rho: float) -> None:
    runs = [mutual_information(*correlated(2000, 64, rho, seed), estimator="gaussian") for seed in range(10)]
    bits = np.array([run.bits for run in runs])
    assert abs(bits.mean() - truth(64, rho)) <= 3 * bits.std(ddof=1) / math.sqrt(10)


@pytest.mark.parametrize(("n", "d", "rho"), [(400, 3, 0.7), (600, 20, 0.3), (300, 1, 0.0)])
def test_intervals_cover_the_truth(n: int, d: int, rho: float) -> None:
    runs = [mutual_information(*correlated(n, d, rho, seed), estimator="gaussian") for seed in range(50)]
    hits = sum(abs(run.bits - truth(d, rho)) <= 1.96 * run.stderr for run in runs)
    assert hits >= 45


@pytest.mark.parametrize(("n", "most"), [(22, 9), (40, 18), (100, 46)])
def test_as_many_dimensions_as_are_accepted_have_a_finite_error(n: int, most: int) -> None:
    found = mutual_information(*correlated(n, most, 0.5, 1), estimator="gaussian")
    assert math.isfinite(found.stderr) and found.stderr > 0
    with pytest.raises(SettingError, match=f"components= of at most {most}"):
        mutual_information(*correlated(n, most + 1, 0.5, 1), estimator="gaussian")


def test_rotation_scale_and_a_constant_column_do_not_matter() -> None:
    x, y = correlated(500, 6, 0.6, 1)
    plain = mutual_information(x, y, estimator="gaussian")
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2))).Q
    other = torch.cat([3 * x @ rotation, torch.full((500, 1), 7.0), 2 * x[:, :1]], dim=1)
    found = mutual_information(other, y - 5, estimator="gaussian")
    assert found.bits == pytest.approx(plain.bits, abs=1e-4)
    assert (found.settings["rank_x"], found.settings["components_x"]) == (6, 6)


def test_a_dimension_a_million_times_the_others_hides_nothing() -> None:
    x, y = correlated(2000, 4, 0.6, 3)
    plain = mutual_information(x.double(), y, estimator="gaussian")
    x = x.double() * torch.tensor([1e6, 1.0, 1.0, 1.0], dtype=torch.float64)
    assert mutual_information(x, y, estimator="gaussian").bits == pytest.approx(plain.bits, abs=1e-3)


def test_noise_of_size_sigma_lowers_the_information_as_it_should() -> None:
    x, _ = correlated(20_000, 3, 0.0, 4)
    for sigma in (0.5, 2.0):
        found = mutual_information(x, x, estimator="gaussian", sigma=sigma)
        expected = truth(3, 1 / (1 + sigma**2))
        assert abs(found.bits - expected) <= 3 * found.stderr


def test_components_are_the_leading_ones() -> None:
    x, y = correlated(1000, 5, 0.8, 5)
    x = x * torch.tensor([5.0, 4.0, 0.1, 0.1, 0.1])
    found = mutual_information(x, y, estimator="gaussian", components=2)
    alone = mutual_information(x[:, :2], y, estimator="gaussian", components=2)
    assert found.settings["components_x"] == 2 and found.settings["rank_x"] == 5
    assert found.settings["variance_share_x"] > 0.99
    assert found.bits == pytest.approx(alone.bits, abs=0.05)


def test_states_that_determine_each_other_are_refused_without_a_noise_floor() -> None:
    x, _ = correlated(200, 4, 0.0, 6)
    with pytest.raises(StateError, match="states that determine each other.* Pass sigma= above 0"):
        mutual_information(x, x @ torch.ones(4, 4).tril(), estimator="gaussian")


def test_too_few_rows_are_refused() -> None:
    x, y = correlated(40, 20, 0.5, 7)
    with pytest.raises(SettingError, match=r"saw 20 \+ 20 dimensions and 40 rows, 38 without .*at most 18"):
        mutual_information(x, y, estimator="gaussian")
    assert mutual_information(x, y, estimator="gaussian", components=15).stderr > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": -1.0}, "sigma out of range: saw"),
        ({"components": 0}, "components out of range: saw 0; expected 1 or more"),
        ({"components": 1.5}, "components is not a whole number"),
    ],
)
def test_bad_settings_get_a_typed_error(options: dict[str, float], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        mutual_information(*correlated(50, 2, 0.1, 8), estimator="gaussian", **options)  # type: ignore[arg-type]


def test_a_chain_gives_what_its_pairs_give_alone_and_jackknifes_the_mean() -> None:
    x, y = correlated(400, 6, 0.5, 9)
    rows = torch.stack([torch.arange(400), torch.arange(400).flip(0), torch.zeros(400, dtype=torch.int64)])
    chain = StateChain("test", [x, y], (3, 4), ((0, 1),), rows)
    found = GAUSSIAN.chain(chain, sigmas=(0.1, 0.5), seed=1)
    alone = mutual_information(x, y, estimator="gaussian", sigma=0.5, seed=2)
    assert abs(float(found.bits[1, 0, 0]) - alone.bits) <= 3 * alone.stderr
    assert bool((found.bits[0] >= found.bits[1]).all())
    assert float(found.bits[0, 0, 2]) == 0.0 and float(found.stderr[0, 0, 2]) == 0.0
    assert float(found.mean_stderr[0, 0, 0]) == float(found.stderr[0, 0, 0])
    assert sorted(found.subsamples) == [100, 200]


def test_components_of_few_distinct_rows_are_those_of_all_samples() -> None:
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(10))
    counts = torch.tensor([3, 1, 4, 0, 2])
    few = principal_components(x, counts.double() / 10, None)
    many = principal_components(x.repeat_interleave(counts, 0), torch.full((10,), 0.1), None)
    assert few.rank == many.rank == 3
    assert torch.allclose(few.rows.repeat_interleave(counts, 0).abs(), many.rows.abs(), atol=1e-9)


def test_constant_rows_have_no_component() -> None:
    found = principal_components(torch.full((4, 3), 0.1), torch.full((4,), 0.25), 2)
    assert (found.rank, found.share, tuple(found.rows.shape)) == (0, 1.0, (4, 0))


def test_blocks_are_of_equal_size_and_the_same_for_a_seed() -> None:
    blocks = blocks_of(torch.arange(1000), 3)
    assert torch.bincount(blocks).tolist() == [50] * 20
    assert torch.equal(blocks, blocks_of(torch.arange(1000), 3)) and not torch.equal(
        blocks, blocks_of(torch.arange(1000), 4)
    )
    assert blocks_of(torch.arange(5), 0).sort().values.tolist() == [0, 1, 2, 3, 4]


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    x = torch.randn(30, generator=torch.Generator().manual_seed(11))
    left_out = (x.sum() - x) / 29
    assert float(jackknife_stderr(left_out)) == pytest.approx(float(x.std()) / math.sqrt(30), rel=1e-5)
