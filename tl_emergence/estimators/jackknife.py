"""Delete-block jackknife: how much an estimate owes to the prompts that happened to be drawn."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.estimators.folds import check_distinct, draw_folds
from tl_emergence.estimators.interface import generator_for

BLOCKS = 20


def blocks_of(groups: Int[Tensor, " sample"], seed: int, least: int = 1) -> Int[Tensor, " sample"]:
    """Give each sample one of at most 20 blocks of nearly equal size, by a seeded random order.

    Samples of one group, copies of each other, share their block. The same blocks serve every state and
    series of a run, so that errors that are shared cancel in differences. Where all samples are copies of
    one, nothing varies and any cut will do.

    Raises:
        StateError: Fewer than `least` groups.
    """
    distinct = len(groups.unique())
    if distinct == 1:
        groups, distinct = torch.arange(len(groups), device=groups.device), len(groups)
    check_distinct(distinct, len(groups), least)
    return draw_folds(groups, min(BLOCKS, distinct), generator_for(seed, "jackknife"))


def jackknife_stderr(replicates: Float[Tensor, "*cell block"]) -> Float[Tensor, "*cell"]:
    """Return sqrt( (B - 1) / B sum_b (r_b - mean r)^2 ) of the estimates without one block each.

    Example:
        >>> import torch
        >>> x = torch.arange(10.0)
        >>> left_out = (x.sum() - x) / 9  # the mean without one sample each
        >>> bool(torch.isclose(jackknife_stderr(left_out), x.std() / 10**0.5))
        True
    """
    n = replicates.shape[-1]
    gaps = replicates - replicates.mean(dim=-1, keepdim=True)
    return (gaps.square().sum(dim=-1) * (n - 1) / n).sqrt()
