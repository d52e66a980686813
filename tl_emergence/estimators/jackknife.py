"""Delete-block jackknife: how much an estimate owes to the prompts that happened to be drawn."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.estimators.interface import generator_for

BLOCKS = 20


def blocks_of(n_samples: int, seed: int) -> Int[Tensor, " sample"]:
    """Give each sample one of at most 20 blocks of equal size, by a seeded random order.

    The same for every state and series of a run, so that errors that are shared cancel in differences.
    """
    order = torch.randperm(n_samples, generator=generator_for(seed, "jackknife"))
    blocks = torch.empty_like(order)
    blocks[order] = torch.arange(n_samples) % min(BLOCKS, n_samples)
    return blocks


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
