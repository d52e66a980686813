"""Folds, halves and blocks over distinct samples: copies of one sample are never on both sides of a cut."""

from __future__ import annotations

import heapq
from dataclasses import replace

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from tl_emergence.errors import StateError
from tl_emergence.estimators.interface import StateChain, generator_for

# What the rounding of one forward pass in another batch changes, in units of the precision of the values.
_ROUNDING = 32.0
_LEAST_DIMENSIONS = 8  # of rows that are one where they differ by rounding only


def draw_folds(
    groups: Int[Tensor, " sample"], folds: int, generator: torch.Generator
) -> Int[Tensor, " sample"]:
    """Give each sample one of `folds` parts of nearly equal size; samples of one group share their part.

    Groups are put in a random order, those with more samples first, and each goes to the part that has the
    fewest samples so far. A group with more than its share of the samples makes its part larger.

    Args:
        groups: A whole number for each sample, the same for copies: `distinct_rows` of states or of tokens.
        folds: How many parts to make.
        generator: Draws the order of the groups, and nothing else.

    Raises:
        StateError: Fewer groups than parts.

    Cost: a sort of the samples.

    Example:
        >>> groups = torch.tensor([0, 0, 0, 1, 2, 3, 4])
        >>> part = draw_folds(groups, 2, torch.Generator().manual_seed(0))
        >>> bool((part[:3] == part[0]).all()), part.bincount().tolist() in ([3, 4], [4, 3])
        (True, True)
    """
    numbers = _numbered(groups.cpu())
    n_groups = int(numbers.max()) + 1
    check_distinct(n_groups, len(numbers), folds)
    order = torch.randperm(n_groups, generator=generator, device="cpu")
    place = torch.empty_like(order)
    place[order] = torch.arange(n_groups)
    return _dealt(place[numbers], folds).to(groups.device)


def first_of_each(groups: Int[Tensor, " sample"]) -> Int[Tensor, " group"]:
    """Return the first sample of each group, in the order of the samples.

    Example:
        >>> first_of_each(torch.tensor([7, 3, 3, 9])).tolist()
        [0, 1, 3]
    """
    _, inverse = groups.unique(return_inverse=True)
    samples = torch.arange(len(groups), device=groups.device)
    first = torch.full((int(inverse.max()) + 1,), len(groups), device=groups.device)
    return first.scatter_reduce(0, inverse, samples, "amin").sort().values


def check_distinct(distinct: int, samples: int, least: int) -> None:
    """Raise StateError where there are fewer distinct samples than a cut into parts needs."""
    if distinct < least:
        raise StateError(
            "too few distinct samples",
            seen=f"{distinct} distinct among {samples}",
            expected=f"at least {least}, since copies of one sample stay in one part",
            fix="Pass more distinct samples. A finite set of points has an exact value: estimator='exact'.",
        )


def distinct_rows(*matrices: Shaped[Tensor, "sample _"]) -> Int[Tensor, " sample"]:
    """Number the distinct rows of matrices side by side, in the order of their first appearance.

    Rows of floats that differ by no more than the rounding of their own precision are one: the states of
    one prompt from two batches are copies although their last digits may differ.

    Cost: a sort of the rows.

    Example:
        >>> distinct_rows(torch.tensor([[5.0, 1.0], [2.0, 2.0], [5.0, 1.0]])).tolist()
        [0, 1, 0]
    """
    numbers = [
        _near_rows(m) if m.is_floating_point() else m.unique(dim=0, return_inverse=True)[1] for m in matrices
    ]
    together = torch.stack(numbers, dim=1).unique(dim=0, return_inverse=True)[1]
    return _numbered(together.cpu()).to(matrices[0].device)


def copied_pairs(x: Shaped[Tensor, "sample _"], y: Shaped[Tensor, "sample _"]) -> Int[Tensor, " sample"]:
    """Number the pairs of rows that have to stay together when some train what others test.

    Copies of one pair do: what was learned from one by heart fits the other. So do pairs that recur because
    one side takes few values and decides the other: a finite set gives no new pair to be tested on.
    Pairs are free where both their x and their y also occur with other partners. They are draws from a
    table, and how often each partner occurs is what there is to learn.

    Example:
        >>> x, y = torch.tensor([[1.0, 1.0, 2.0, 2.0, 3.0, 3.0], [0.0, 1.0, 0.0, 0.0, 2.0, 2.0]])[..., None]
        >>> copied_pairs(x, y).tolist()  # (2, 0) occurs twice; 3 and 2 occur with each other only
        [0, 1, 2, 2, 3, 3]
    """
    of_x, of_y = distinct_rows(x), distinct_rows(y)
    pairs = torch.stack([of_x, of_y], dim=1).unique(dim=0)
    partners_of_x, partners_of_y = torch.bincount(pairs[:, 0]), torch.bincount(pairs[:, 1])
    free = (partners_of_x[of_x] > 1) & (partners_of_y[of_y] > 1)
    own = torch.arange(1, len(x) + 1, device=x.device)
    return distinct_rows(torch.stack([of_x, of_y, torch.where(free, own, 0)], dim=1))


def without_copies(chain: StateChain, least: int = 1) -> tuple[StateChain, Int[Tensor, " sample"]]:
    """Return a chain with one sample of each group, and which of them each sample is a copy of.

    A chain whose samples are all copies of one is returned as it is: nothing varies in it.

    Raises:
        StateError: Fewer groups than `least`.
    """
    n = chain.rows.shape[1]
    if chain.groups is None or int(chain.groups.min()) == int(chain.groups.max()):
        return chain, torch.arange(n)
    first, copy_of = first_of_each(chain.groups), _numbered(chain.groups)
    check_distinct(len(first), n, least)
    return replace(chain, rows=chain.rows[:, first], groups=None), copy_of


def _near_rows(x: Shaped[Tensor, "row d"]) -> Int[Tensor, " row"]:
    """Number distinct rows of floats: equal ones first, then those that differ by rounding only.

    Neighbours are looked for along one random direction, where rows that nearly agree are next to each other
    unless a third row happens to fall between them, within their rounding. In few dimensions distinct rows
    lie as near as rounding by chance, so that there equal rows alone are one; and rounding is never taken for
    more than a thousandth of the spread, however far from 0 the rows are.
    """
    distinct, number = x.unique(dim=0, return_inverse=True)
    if x.shape[1] < _LEAST_DIMENSIONS or len(distinct) < 2:
        return number
    precise = distinct.double()
    spread = float((precise - precise.mean(dim=0)).square().sum(dim=1).mean().sqrt())
    direction = torch.randn(
        x.shape[1], generator=generator_for(0, "near rows"), device="cpu", dtype=torch.float64
    )
    order = (precise @ direction.to(x.device)).argsort()
    ahead, behind = precise[order[:-1]], precise[order[1:]]
    tolerance = (_ROUNDING * torch.finfo(x.dtype).eps * ahead.norm(dim=1)).clamp(max=1e-3 * spread)
    apart = (behind - ahead).norm(dim=1) > tolerance
    near = torch.empty_like(order)
    near[order] = torch.nn.functional.pad(apart.long().cumsum(dim=0), (1, 0))
    return near[number]


def _numbered(groups: Int[Tensor, " sample"]) -> Int[Tensor, " sample"]:
    """Number groups 0, 1, ... in the order of their first sample."""
    first = first_of_each(groups)
    number = torch.empty_like(groups.unique())
    _, inverse = groups.unique(return_inverse=True)
    number[inverse[first]] = torch.arange(len(first), device=groups.device)
    return number[inverse].long()


def _dealt(groups: Int[Tensor, " sample"], folds: int) -> Int[Tensor, " sample"]:
    """Deal groups 0, 1, ... to parts: large ones first, in order, each to the part with fewest samples."""
    sizes = torch.bincount(groups)
    part = torch.empty_like(sizes)
    if int(sizes.max()) == 1:
        part = torch.arange(len(sizes)) % folds
        return part[groups]
    parts = [(0, k) for k in range(folds)]
    for group in sizes.argsort(descending=True, stable=True).tolist():
        filled, k = heapq.heappop(parts)
        part[group] = k
        heapq.heappush(parts, (filled + int(sizes[group]), k))
    return part[groups]
