"""Folds over distinct samples: copies stay together, parts are even, distinct samples are cut as ever."""

from __future__ import annotations

import pytest
import torch

from tl_emergence.errors import StateError
from tl_emergence.estimators.folds import (
    copied_pairs,
    distinct_rows,
    draw_folds,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("copies", [1, 5, 10])
def test_copies_of_one_sample_share_their_part_and_parts_are_even(copies: int) -> None:
    groups = (torch.arange(120) % (120 // copies))[torch.randperm(120, generator=seeded())]
    part = draw_folds(groups, 4, seeded(1))
    assert all(len(part[groups == g].unique()) == 1 for g in groups.unique())
    assert part.bincount().tolist() == [30, 30, 30, 30]


def test_a_large_group_has_a_part_of_its_own() -> None:
    groups = torch.tensor([9] * 50 + list(range(9)))
    part = draw_folds(groups, 3, seeded())
    own = part[0]
    assert int((part == own).sum()) == 50
    assert sorted(part.bincount().tolist()) == [4, 5, 50]


def test_distinct_samples_are_cut_by_a_random_order_alone() -> None:
    order = torch.randperm(23, generator=seeded(5))
    expected = torch.empty_like(order)
    expected[order] = torch.arange(23) % 5
    assert torch.equal(draw_folds(torch.arange(23), 5, seeded(5)), expected)


def test_the_names_of_groups_do_not_matter() -> None:
    groups = torch.tensor([4, 4, 1, 0, 1, 2])
    assert torch.equal(draw_folds(groups, 2, seeded()), draw_folds(100 - groups, 2, seeded()))


def test_too_few_distinct_samples_are_refused() -> None:
    with pytest.raises(
        StateError, match="too few distinct samples: saw 2 distinct among 60; expected at least 5"
    ):
        draw_folds(torch.arange(60) % 2, 5, seeded())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_differ_by_rounding_are_one(dtype: torch.dtype) -> None:
    x = torch.randn(40, 16, generator=seeded(), dtype=dtype)
    again = x * (1 + 4 * torch.finfo(dtype).eps * torch.randn(40, 16, generator=seeded(1), dtype=dtype))
    numbers = distinct_rows(torch.cat([x, again]))
    assert torch.equal(numbers, torch.arange(40).repeat(2))
    assert len(distinct_rows(torch.cat([x, x * (1 + 1e-3)])).unique()) == 80


def test_rows_are_distinct_where_any_matrix_says_so() -> None:
    x, y = torch.tensor([[1.0], [1.0], [2.0]]), torch.tensor([[0], [1], [1]])
    assert distinct_rows(x).tolist() == [0, 0, 1]
    assert distinct_rows(x, y).tolist() == [0, 1, 2]


def test_pairs_of_a_table_are_draws_and_pairs_of_copied_rows_are_copies() -> None:
    x, y = torch.randn(2, 30, 3, generator=seeded())
    assert len(copied_pairs(x.repeat(4, 1), y.repeat(4, 1)).unique()) == 30
    words, kinds = (
        torch.randint(6, (400, 1), generator=seeded()),
        torch.randint(4, (400, 1), generator=seeded(1)),
    )
    assert len(copied_pairs(words.float(), kinds.float()).unique()) == 400
    assert len(copied_pairs(words.float(), (words // 2).float()).unique()) == 6
    assert len(copied_pairs(words[:30].float(), y).unique()) == 30


@pytest.mark.parametrize(("offset", "d"), [(300.0, 1), (1e4, 1), (1e4, 2), (1e6, 16)])
def test_rows_far_from_0_are_not_taken_for_copies(offset: float, d: int) -> None:
    rows = offset + torch.randn(1000, d, generator=torch.Generator().manual_seed(0))
    groups = distinct_rows(rows)
    assert len(groups.unique()) == len(rows.unique(dim=0))
