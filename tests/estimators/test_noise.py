"""The noise estimator against its slow twin, closed forms, bounds and invariances."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.estimators.oracles import noise_envelope, noise_information_slowly, two_point_information
from tl_emergence.errors import SettingError
from tl_emergence.estimators import NoiseEstimator, StateChain, mutual_information
from tl_emergence.estimators.noise_kernel import Mixture

NOISE = NoiseEstimator()


def cloud(n: int, d: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def agree(bits: float, stderr: float, other: float, other_stderr: float = 0.0) -> bool:
    return abs(bits - other) <= 3 * math.hypot(stderr, other_stderr) + 1e-6


@pytest.mark.parametrize("sigma", [0.1, 0.4, 1.0, 3.0])
@pytest.mark.parametrize(("n", "d_x", "d_y"), [(40, 3, 3), (25, 2, 7), (30, 20, 20)])
def test_noise_agrees_with_its_slow_twin_on_random_clouds(n: int, d_x: int, d_y: int, sigma: float) -> None:
    x, y = cloud(n, d_x, seed=n), cloud(n, d_y, seed=n + 1)
    y[:, 0] += x[:, 0]
    found = mutual_information(x, y, estimator="noise", sigma=sigma, seed=3)
    uniform = np.full(n, 1 / n)
    slow, slow_error = noise_information_slowly(x.numpy(), y.numpy(), uniform, sigma, draws=40, seed=4)
    assert agree(found.bits, found.stderr, slow, slow_error)


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_noise_agrees_with_its_slow_twin_on_weighted_clouds(sigma: float) -> None:
    x, y = cloud(12, 3, seed=5), cloud(12, 4, seed=6)
    counts = torch.tensor([9, 1, 1, 4, 2, 7, 1, 1, 3, 1, 1, 5])
    found = mutual_information(
        x.repeat_interleave(counts, 0), y.repeat_interleave(counts, 0), estimator="noise", sigma=sigma, seed=7
    )
    weights = counts.double().numpy() / int(counts.sum())
    slow, slow_error = noise_information_slowly(x.numpy(), y.numpy(), weights, sigma, draws=120, seed=8)
    assert agree(found.bits, found.stderr, slow, slow_error)
    assert found.cap_bits == math.log2(int(counts.sum()))


@pytest.mark.parametrize(
    ("a", "b", "sigma"), [(1.0, 1.0, 1.0), (0.5, 2.0, 1.0), (1.0, 0.3, 0.5), (0.2, 0.1, 0.5), (2.0, 1.0, 0.7)]
)
def test_noise_information_of_two_points_is_the_binary_channel_capacity(
    a: float, b: float, sigma: float
) -> None:
    x, y = torch.tensor([[a], [-a]]), torch.tensor([[b, 0.0], [-b, 0.0]])
    found = mutual_information(x, y, estimator="noise", sigma=sigma, seed=1)
    assert found.stderr < 0.02
    assert agree(found.bits, found.stderr, two_point_information(a, b, sigma))


@pytest.mark.parametrize("sigma", [0.2, 0.7, 2.0])
def test_noise_lies_between_the_pairwise_distance_bounds(sigma: float) -> None:
    x, y = cloud(60, 4, seed=11), cloud(60, 4, seed=12)
    low, high = noise_envelope(x.numpy(), y.numpy(), np.full(60, 1 / 60), sigma)
    found = mutual_information(x, y, estimator="noise", sigma=sigma, seed=2)
    assert low - 3 * found.stderr <= found.bits <= high + 3 * found.stderr


@pytest.mark.parametrize("n", [512, 2048])
@pytest.mark.parametrize("sigma", [0.25, 0.5, 1.0, 2.0])
def test_default_settings_give_a_standard_error_of_at_most_a_twentieth_of_a_bit(n: int, sigma: float) -> None:
    for d, scale in ((640, 0.06), (64, 0.3), (8, 1.0)):
        found = mutual_information(
            cloud(n, d, 21, scale), cloud(n, d, 22, scale), estimator="noise", sigma=sigma, seed=0
        )
        assert found.stderr <= 0.05


def test_the_standard_error_is_the_spread_between_seeds() -> None:
    x, y = cloud(64, 6, seed=31, scale=0.5), cloud(64, 6, seed=32, scale=0.5)
    runs = [mutual_information(x, y, estimator="noise", sigma=0.5, seed=seed, draws=4) for seed in range(60)]
    spread = float(np.std([run.bits for run in runs], ddof=1))
    claimed = float(np.mean([run.stderr for run in runs]))
    # A sample standard deviation of 60 values is itself uncertain by about 9 %.
    assert claimed == pytest.approx(spread, rel=0.3)


@pytest.fixture
def large_sets_begin_early(monkeypatch: pytest.MonkeyPatch) -> None:
    from tl_emergence.estimators import noise

    monkeypatch.setattr(noise, "_EFFECTIVE_DRAWS", 60)  # some 60 rows are then a large set


def of_two_kinds() -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows that are close together, and rows far apart that stand there three times each."""
    x, y = cloud(60, 4, seed=33, scale=0.4), cloud(60, 4, seed=34, scale=0.4)
    far_x, far_y = cloud(20, 4, seed=35, scale=6.0), cloud(20, 4, seed=36, scale=6.0)
    return torch.cat([x, far_x, far_x, far_x]), torch.cat([y, far_y, far_y, far_y])


@pytest.mark.usefixtures("large_sets_begin_early")
def test_in_a_large_set_a_random_half_has_two_draws_and_the_error_is_the_spread_between_seeds() -> None:
    x, y = of_two_kinds()
    runs = [mutual_information(x, y, estimator="noise", sigma=0.5, seed=seed) for seed in range(300)]
    assert {run.settings["draws"] for run in runs} == {2}
    assert all(20 <= run.settings["rows_with_one_draw"] <= 45 for run in runs)
    spread = float(np.std([run.bits for run in runs], ddof=1))
    # The spread of 300 values is itself uncertain by about 4 %.
    claimed = float(np.sqrt(np.mean([run.stderr**2 for run in runs])))
    assert claimed == pytest.approx(spread, rel=0.15)
    many = mutual_information(x, y, estimator="noise", sigma=0.5, seed=0, draws=200)
    mean = float(np.mean([run.bits for run in runs]))
    assert agree(mean, spread / math.sqrt(300), many.bits, many.stderr)


@pytest.mark.usefixtures("large_sets_begin_early")
def test_the_rows_that_are_told_to_have_two_draws_are_those_that_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tl_emergence.estimators import noise

    original, seen = noise._in_pieces, []

    def spy(*args: Any) -> Any:
        found = original(*args)
        seen.append((args[-1], found[0]))
        return found

    monkeypatch.setattr(noise, "_in_pieces", spy)
    x, y = of_two_kinds()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    mutual_information(x[order], y[order], estimator="noise", sigma=0.5)
    twice, info = seen[0]
    differ = info[0, 0, 0, 0] != info[0, 0, 0, 1]  # rows that no other is near have no spread at all
    assert not bool((differ & ~twice).any())
    assert int(differ.sum()) > 20 and int((~twice).sum()) > 20


def test_precision_settings_are_held_off_and_put_back() -> None:
    x, y = cloud(64, 32, seed=37), cloud(64, 32, seed=38)
    plain = mutual_information(x, y, estimator="noise", sigma=0.5)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert mutual_information(x, y, estimator="noise", sigma=0.5).bits == plain.bits
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_same_seed_gives_the_same_value_and_another_seed_another() -> None:
    x, y = cloud(50, 5, seed=41), cloud(50, 5, seed=42)
    first, again, other = (mutual_information(x, y, estimator="noise", sigma=0.5, seed=s) for s in (9, 9, 10))
    assert first.bits == again.bits
    assert first.bits != other.bits


def test_the_number_of_threads_does_not_matter() -> None:
    x, y = cloud(300, 64, seed=43, scale=0.2), cloud(300, 64, seed=44, scale=0.2)
    found, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(mutual_information(x, y, estimator="noise", sigma=0.5, seed=0).bits)
    torch.set_num_threads(before)
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_global_random_state_is_not_touched() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state().clone()
    mutual_information(cloud(20, 3, 1), cloud(20, 3, 2), estimator="noise", sigma=0.5)
    assert torch.equal(before, torch.get_rng_state())


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.2, 0.6, 1.5]))
def test_row_order_and_a_common_rotation_do_not_matter(seed: int, sigma: float) -> None:
    x, y = cloud(40, 5, seed), cloud(40, 5, seed + 1)
    plain = mutual_information(x, y, estimator="noise", sigma=sigma, seed=0)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    rotation = torch.linalg.qr(cloud(5, 5, seed + 2)).Q
    # Five standard errors: with 30 comparisons of random data a run, three would fail now and then.
    for other in (
        mutual_information(x[order], y[order], estimator="noise", sigma=sigma, seed=1),
        mutual_information(x @ rotation, y @ rotation, estimator="noise", sigma=sigma, seed=2),
    ):
        assert abs(plain.bits - other.bits) <= 5 * math.hypot(plain.stderr, other.stderr) + 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_row_order_and_rotation_agree_within_three_standard_errors(seed: int) -> None:
    x, y = cloud(200, 16, seed, 0.4), cloud(200, 16, seed + 50, 0.4)
    plain = mutual_information(x, y, estimator="noise", sigma=0.5, seed=0)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
    rotation = torch.linalg.qr(cloud(16, 16, seed + 100)).Q
    shuffled = mutual_information(x[order], y[order], estimator="noise", sigma=0.5, seed=1)
    rotated = mutual_information(x @ rotation, y @ rotation, estimator="noise", sigma=0.5, seed=2)
    assert agree(plain.bits, plain.stderr, shuffled.bits, shuffled.stderr)
    assert agree(plain.bits, plain.stderr, rotated.bits, rotated.stderr)


def test_noise_tends_to_the_entropy_of_the_set_as_sigma_goes_to_zero() -> None:
    x = cloud(96, 8, seed=51)[torch.arange(128) % 96]  # 32 rows twice, 64 once
    entropy = 64 / 128 * math.log2(128) + 64 / 128 * math.log2(64)
    gaps = [entropy - mutual_information(x, x, estimator="noise", sigma=s).bits for s in (0.5, 0.2, 0.05)]
    assert gaps[0] > gaps[1] > gaps[2]
    for sigma in (1e-3, 1e-5):  # both beyond what float32 distances resolve
        assert mutual_information(x, x, estimator="noise", sigma=sigma).bits == pytest.approx(
            entropy, abs=1e-9
        )


def test_noise_tends_to_zero_as_sigma_grows() -> None:
    x = cloud(100, 8, seed=52)
    values = [mutual_information(x, x, estimator="noise", sigma=s).bits for s in (0.5, 1.0, 2.0, 4.0, 1e4)]
    assert values[0] > values[1] > values[2] > values[3]
    assert abs(values[4]) < 1e-5


def test_a_constant_side_gives_exactly_zero() -> None:
    x, constant = cloud(30, 4, seed=61), torch.full((30, 2), 3.7)
    for a, b in ((x, constant), (constant, x), (constant, constant)):
        found = mutual_information(a, b, estimator="noise", sigma=0.5)
        assert (found.bits, found.stderr, found.saturated) == (0.0, 0.0, False)


def test_pointwise_values_average_to_the_estimate() -> None:
    x = cloud(20, 3, seed=71)[torch.arange(50) % 20]
    found = mutual_information(x, x + 0.1, estimator="noise", sigma=0.5)
    assert found.pointwise is not None and found.pointwise.shape == (50,)
    assert float(found.pointwise.double().mean()) == pytest.approx(found.bits, abs=1e-5)


def chain_of(states: list[torch.Tensor], rows: torch.Tensor) -> StateChain:
    pairs = [(i, i + 1) for i in range(len(states) - 1)]
    return StateChain("test", states, range(len(states)), pairs, rows)


def test_a_chain_gives_what_its_pairs_give_alone() -> None:
    states = [cloud(80, 6, seed, 0.6) for seed in (81, 82, 83, 84)]
    whole = NOISE.chain(chain_of(states, torch.arange(80)[None]), sigmas=(0.3, 1.0), seed=5)
    tail = StateChain("test", states[2:], (2, 3), ((0, 1),), torch.arange(80)[None])
    part = NOISE.chain(tail, sigmas=(1.0,), seed=5)
    assert float(part.bits[0, 0, 0]) == pytest.approx(float(whole.bits[1, 2, 0]), abs=1e-6)


def test_a_chain_in_pieces_gives_the_same_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from tl_emergence.estimators import noise

    states = [cloud(60, 6, seed, 0.6) for seed in range(90, 96)]
    chain = chain_of(states, torch.arange(60)[None])
    whole = NOISE.chain(chain, sigmas=(0.4,), seed=1)
    monkeypatch.setattr(noise, "_STATE_BYTES", 3 * 60 * 6 * 4)
    pieces = NOISE.chain(chain, sigmas=(0.4,), seed=1)
    assert torch.allclose(whole.bits, pieces.bits, atol=1e-9)
    assert torch.equal(whole.closest, pieces.closest)


def test_every_series_of_a_chain_is_its_own_weighted_set() -> None:
    states = [cloud(10, 4, seed) for seed in (101, 102)]
    rows = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 1, 1, 8, 9, 9], [3] * 8])
    found = NOISE.chain(chain_of(states, rows), sigmas=(0.5,), seed=2)
    for t in range(2):
        alone = mutual_information(
            states[0][rows[t]], states[1][rows[t]], estimator="noise", sigma=0.5, seed=3
        )
        assert agree(float(found.bits[0, 0, t]), float(found.stderr[0, 0, t]), alone.bits, alone.stderr)
    assert float(found.bits[0, 0, 2]) == 0.0 and float(found.stderr[0, 0, 2]) == 0.0


def test_the_error_of_a_mean_over_series_accounts_for_shared_draws() -> None:
    states = [cloud(10, 4, seed, 0.5) for seed in (103, 104)]
    same = torch.arange(10).repeat(3, 1)
    found = NOISE.chain(chain_of(states, same), sigmas=(0.5,), seed=2)
    # Three times the same series: the mean is no better known than one of them.
    assert torch.allclose(found.mean_stderr[0, 0], found.stderr[0, 0, :1].expand(3), rtol=1e-6)


def test_subsamples_are_the_estimate_on_half_and_a_quarter_of_the_rows() -> None:
    x = cloud(64, 8, seed=111)
    found = NOISE.chain(chain_of([x, x], torch.arange(64)[None]), sigmas=(1e-2,), seed=0)
    assert {n: round(float(v), 6) for n, v in found.subsamples.items()} == {32: 5.0, 16: 4.0}


def test_closest_is_the_smallest_distance_between_rows() -> None:
    x = cloud(40, 6, seed=121)
    x[7] = x[30] + 1e-4
    found = NOISE.chain(chain_of([x, x], torch.arange(40)[None]), sigmas=(0.5,), seed=0)
    assert float(found.closest[0]) == pytest.approx(1e-4 * math.sqrt(6), rel=1e-2)


def test_float32_and_float64_states_agree() -> None:
    x, y = cloud(100, 32, seed=131, scale=0.3), cloud(100, 32, seed=132, scale=0.3)
    single = mutual_information(x, y, estimator="noise", sigma=0.5, seed=4)
    double = mutual_information(x.double(), y.double(), estimator="noise", sigma=0.5, seed=4)
    assert single.bits == pytest.approx(double.bits, abs=1e-4)


def test_half_precision_states_are_upcast() -> None:
    x = cloud(30, 4, seed=133).to(torch.bfloat16)
    assert (
        mutual_information(x, x, estimator="noise", sigma=0.5).bits
        == mutual_information(x.float(), x.float(), estimator="noise", sigma=0.5).bits
    )


@pytest.mark.parametrize("n_distinct", [3, 10, 200])
def test_a_mixture_adds_up_the_same_by_runs_and_by_product(n_distinct: int) -> None:
    generator = torch.Generator().manual_seed(7)
    weights = torch.randint(0, n_distinct, (3, 200), generator=generator).float().sort(dim=1).values
    weights /= weights.sum(dim=1, keepdim=True)
    kernel = torch.rand(2, 5, 200, generator=generator)
    mixture = Mixture(weights)
    parts = torch.empty(2, 5, mixture.n_parts)
    mixture.add_up(kernel, parts)
    assert torch.allclose(mixture.log2_density(parts), (kernel @ weights.t()).log2(), atol=1e-5)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_sigma_must_be_a_finite_number_above_zero(sigma: float) -> None:
    with pytest.raises(SettingError, match=r"sigma out of range: saw .* expected numbers above 0"):
        mutual_information(cloud(4, 2, 0), cloud(4, 2, 1), estimator="noise", sigma=sigma)


def test_fewer_than_two_draws_are_refused() -> None:
    with pytest.raises(SettingError, match="too few draws: saw 1"):
        mutual_information(cloud(4, 2, 0), cloud(4, 2, 1), estimator="noise", sigma=0.5, draws=1)


def test_the_error_near_saturation_is_that_of_one_draw_more_that_loses_a_bit() -> None:
    points = 100 * torch.eye(16)
    found = mutual_information(points, points, estimator="noise", sigma=0.5, draws=10)
    assert found.bits == pytest.approx(4.0, abs=1e-6)
    assert found.stderr == pytest.approx(1 / 160, rel=1e-3)


def test_a_constant_series_has_no_draw_to_lose_in_the_mean() -> None:
    points = 100 * torch.eye(16)
    rows = torch.stack([torch.arange(16), torch.zeros(16, dtype=torch.long)])
    chain = StateChain("mean", [points, points], (0, 1), ((0, 1),), rows)
    found = NoiseEstimator().chain(chain, sigmas=(0.5,), draws=10)
    assert float(found.stderr[0, 0, 1]) == 0.0
    assert float(found.mean_stderr[0, 0, 1]) == pytest.approx(float(found.stderr[0, 0, 0]) / 2, rel=1e-6)
