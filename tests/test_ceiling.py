"""The exact values of the paper's prompt sets, to 1e-9."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests import toys
from tl_emergence import exact_emergence, exact_population
from tl_emergence.errors import SettingError
from tl_emergence.prompts import demonstrations, from_tokens

KNOWN = [
    # entities, shots, prompts; the printed table has 4 decimals, the closed form has them all.
    ("country", 25, 4, 303_600, 18.2118, 2.3219, 15.8899),
    ("animal", 16, 5, 524_160, 18.9996, 2.0000, 16.9996),
    ("color", 15, 5, 360_360, 18.4591, 1.9534, 16.5056),
]


@pytest.mark.parametrize(("name", "k", "shots", "size", "entropy", "micro", "emergence"), KNOWN)
def test_exact_gives_the_known_values_of_the_enumerated_sets(
    name: str, k: int, shots: int, size: int, entropy: float, micro: float, emergence: float, tokenizer: Any
) -> None:
    prompts = demonstrations(name, tokenizer, n="all")
    found = exact_emergence(prompts, layers=[0, 1, 17])
    assert len(prompts) == size == math.perm(k, shots)
    prefix = [math.log2(math.perm(k, j)) for j in range(1, shots + 1) for _ in range(2)]
    assert found.macro[1].tolist() == pytest.approx(prefix, abs=1e-9)
    assert torch.equal(found.macro[1], found.macro[2])
    assert found.micro[1].tolist() == pytest.approx([math.log2(k), 0.0] * shots, abs=1e-9)
    assert float(found.emergence[1, -1]) == pytest.approx(prefix[-1] - math.log2(k) / 2, abs=1e-9)
    # At block 0 the input is the bare embedding of the token.
    assert found.macro[0].tolist() == pytest.approx([math.log2(k), 0.0] * shots, abs=1e-9)
    printed = (prefix[-1], math.log2(k) / 2, float(found.emergence[1, -1]))
    assert printed == pytest.approx((entropy, micro, emergence), abs=5e-5)


def test_emergence_at_the_first_position_is_zero() -> None:
    found = exact_emergence(from_tokens(toys.TOKENS), layers=[0, 1])
    assert found.emergence[:, 0].tolist() == [0.0, 0.0]


def test_micro_first_takes_the_first_token_everywhere() -> None:
    found = exact_emergence(from_tokens(toys.TOKENS), layers=[1], micro="first")
    assert found.micro.tolist() == [[2.0, 2.0, 2.0]]
    assert found.emergence.tolist() == [[0.0, 0.0, 1.0]]


def test_a_subset_of_positions_keeps_the_mean_over_all_earlier_ones() -> None:
    prompts = from_tokens(toys.TOKENS)
    whole = exact_emergence(prompts, layers=[1])
    part = exact_emergence(prompts, layers=[1], positions=[2])
    assert torch.equal(part.emergence, whole.emergence[:, 2:])


def test_the_population_is_known_for_lists_and_estimated_or_refused_otherwise(tokenizer: Any) -> None:
    lists = demonstrations("country", tokenizer, n=64)
    assert float(exact_population(lists, layers=[1]).macro[0, -1]) == pytest.approx(
        math.log2(303_600), abs=1e-9
    )
    many = from_tokens(toys.TOKENS.repeat(4, 1))
    estimated = exact_population(many, layers=[1]).macro[0, -1]
    assert float(estimated) == pytest.approx(3 + 7 / (64 * math.log(2)))
    with pytest.raises(SettingError, match="8 of 8 rows occur once"):
        exact_population(from_tokens(toys.TOKENS), layers=[1])


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": []}, "no layer"),
        ({"layers": [-1]}, "layer out of range: saw -1; expected 0 or more"),
        ({"layers": 3}, "layer is not a sequence: saw 3"),
        ({"layers": [1], "positions": [3]}, "position out of range"),
        ({"layers": [1], "micro": "solo"}, "unknown micro: saw 'solo'"),
    ],
)
def test_bad_settings_get_a_typed_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        exact_emergence(from_tokens(toys.TOKENS), **options)
