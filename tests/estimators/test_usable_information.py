"""What a softmax probe reads of a label, against channels whose information is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tl_emergence.errors import SettingError, StateError
from tl_emergence.estimators import usable_information


def clusters(n: int, k: int, flip: float, seed: int, d: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Return points of k separate clusters, and their numbers through a symmetric channel."""
    generator = torch.Generator().manual_seed(seed)
    centres = 10 * torch.randn(k, d, generator=generator)
    own = torch.randint(k, (n,), generator=generator)
    x = centres[own] + 0.1 * torch.randn(n, d, generator=generator)
    flipped = torch.rand(n, generator=generator) < flip
    other = (own + torch.randint(1, k, (n,), generator=generator)) % k
    return x, torch.where(flipped, other, own)


def channel_bits(k: int, flip: float) -> float:
    entropy = -flip * math.log2(flip) - (1 - flip) * math.log2(1 - flip) if flip else 0.0
    return math.log2(k) - entropy - flip * math.log2(k - 1)


@pytest.mark.parametrize(("k", "flip"), [(2, 0.1), (8, 0.2), (8, 0.0)])
def test_a_symmetric_channel_behind_separate_clusters_is_read_in_full(k: int, flip: float) -> None:
    found = usable_information(*clusters(1500, k, flip, 1))
    assert found.bits == pytest.approx(channel_bits(k, flip), abs=2 * found.stderr + 0.04)
    assert found.settings["accuracy"] == pytest.approx(1 - flip, abs=0.03)
    assert found.settings["label_bits"] == pytest.approx(math.log2(k), abs=0.02)
    assert found.pointwise is not None and float(found.pointwise.mean()) == pytest.approx(
        found.bits, abs=1e-4
    )


@pytest.mark.parametrize(("n", "d", "k"), [(60, 5, 2), (200, 5, 8), (40, 60, 2)])
def test_intervals_cover_zero_for_labels_that_x_does_not_know(n: int, d: int, k: int) -> None:
    hits = 0
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        x, labels = torch.randn(n, d, generator=generator), torch.randint(k, (n,), generator=generator)
        low, high = usable_information(x, labels).interval
        hits += low <= 0 <= high
    assert hits >= 45


def falling(n: int, seed: int, d: int = 640) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return rows N(0, diag(1/k)) in which a label moves coordinate 20 by 3 of its standard deviations to
    either side, that label, and one that x does not know."""
    generator = torch.Generator().manual_seed(seed)
    spread = 1 / torch.arange(1, d + 1).sqrt()
    x = spread * torch.randn(n, d, generator=generator)
    labels, others = torch.randint(2, (2, n), generator=generator)
    x[:, 19] += 3 * spread[19] * (2 * labels - 1)
    return x, labels, others


@pytest.mark.parametrize("n", [100, 200, 400, 800])
def test_a_label_is_read_from_fewer_rows_than_dimensions(n: int) -> None:
    x, labels, others = falling(n, 0)
    found = usable_information(x, labels)
    assert found.bits >= 0.9 and found.settings["accuracy"] > 0.97
    assert max(found.settings["components_read"]) <= 32
    nothing = usable_information(x, others)
    assert abs(nothing.bits) <= 2 * nothing.stderr


def test_labels_that_x_does_not_know_are_not_read_on_average() -> None:
    runs = []
    for seed in range(8):
        x, _, others = falling(60, seed, d=200)
        runs.append(usable_information(x, others).bits)
    values = torch.tensor(runs)
    assert float(values.mean()) <= 2 * float(values.std()) / math.sqrt(len(runs))
    assert float(values.mean()) > -0.02


@pytest.mark.parametrize("copies", [2, 10])
def test_a_row_that_is_held_out_is_not_read_from_its_copies(copies: int) -> None:
    generator = torch.Generator().manual_seed(copies)
    x, labels = torch.randn(40, 60, generator=generator), torch.randint(2, (40,), generator=generator)
    order = torch.randperm(40 * copies, generator=generator)
    x, labels = x.repeat(copies, 1)[order], labels.repeat(copies)[order]
    found = usable_information(x * (1 + 1e-7 * torch.randn(x.shape, generator=generator)), labels)
    assert found.bits <= 2 * found.stderr and found.settings["accuracy"] < 0.75
    assert found.settings["repeated_rows"] == 40 * (copies - 1)


def test_copies_do_not_make_the_error_smaller() -> None:
    x, labels = clusters(60, 2, 0.1, 11)
    once = usable_information(x, labels)
    found = usable_information(x.repeat(9, 1), labels.repeat(9))
    assert found.stderr == pytest.approx(once.stderr, rel=0.5)


def test_names_of_labels_and_scale_of_directions_do_not_matter() -> None:
    x, labels = clusters(300, 4, 0.1, 2, d=3)
    plain = usable_information(x, labels)
    found = usable_information(x * torch.tensor([100.0, 1.0, 0.01]), 1000 - 7 * labels.to(torch.int32))
    assert found.bits == pytest.approx(plain.bits, abs=0.05)


def test_a_label_in_a_small_direction_is_read() -> None:
    x, labels = clusters(400, 4, 0.0, 8, d=3)
    large = 1000 * torch.randn(400, 70, generator=torch.Generator().manual_seed(9))
    both = torch.cat([large, x], dim=1)
    assert usable_information(both, labels).bits > 1.8
    assert usable_information(both, labels, components=64).bits < 0.1


def test_noise_hides_the_label() -> None:
    x, labels = clusters(300, 4, 0.0, 3)
    bits = [usable_information(x, labels, sigma=sigma).bits for sigma in (0.0, 20.0, 1e6)]
    assert bits[0] > bits[1] > bits[2] == 0.0


def test_a_label_that_training_never_saw_costs_a_finite_number_of_bits() -> None:
    x, labels = clusters(100, 2, 0.0, 4)
    labels[0] = 5
    found = usable_information(x, labels)
    assert math.isfinite(found.bits) and found.settings["labels"] == 3


@pytest.mark.parametrize("constant", ["x", "labels"])
def test_a_constant_side_gives_exactly_zero(constant: str) -> None:
    x, labels = clusters(60, 3, 0.0, 5)
    x, labels = (torch.full_like(x, 0.1), labels) if constant == "x" else (x, torch.full_like(labels, 4))
    found = usable_information(x, labels)
    assert (found.bits, found.stderr) == (0.0, 0.0)


def test_it_is_repeatable_and_touches_nothing_else() -> None:
    x, labels = clusters(80, 3, 0.1, 6)
    copies = x.clone(), labels.clone()
    state = torch.get_rng_state().clone()
    with torch.inference_mode():
        first = usable_information(x, labels, sigma=0.1, seed=2)
    assert first.bits == usable_information(x, labels, sigma=0.1, seed=2).bits
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(x, copies[0]) and torch.equal(labels, copies[1])


X, LABELS = clusters(40, 2, 0.0, 7)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("x", "labels", "options", "error", "message"),
    [
        (X, LABELS.float(), {}, StateError, "labels are not whole numbers: saw torch.float32"),
        (X, LABELS.tolist(), {}, StateError, "labels are not whole numbers: saw list"),
        (X, LABELS[:30], {}, StateError, r"not paired: saw 40 rows of x and labels of shape \(30,\)"),
        (
            X,
            torch.arange(40),
            {},
            StateError,
            "labels that do not recur: saw 40 of 40 samples whose label is that of one",
        ),
        (
            X[:25].repeat(4, 1),
            torch.arange(25).repeat(4),
            {},
            StateError,
            "saw 100 of 100 samples whose label",
        ),
        (
            X[:15].repeat(4, 1),
            LABELS[:15].repeat(4),
            {},
            StateError,
            "too few distinct samples: saw 15 distinct",
        ),
        (X[:10], LABELS[:10], {}, StateError, "x has too few rows: saw 10; expected at least 20"),
        (X[:, 0], LABELS, {}, StateError, "x has the wrong shape"),
        (X, LABELS, {"sigma": -1}, SettingError, "sigma out of range"),
        (X, LABELS, {"sigma": "a"}, SettingError, "sigma is not a number"),
        (X, LABELS, {"seed": 0.5}, SettingError, "seed is not a whole number"),
        (X, LABELS, {"folds": 1}, SettingError, "folds out of range: saw 1"),
        (X, LABELS, {"components": 0}, SettingError, "components out of range"),
    ],
)
def test_bad_input_gets_a_typed_error(
    x: Any, labels: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        usable_information(x, labels, **options)
