"""Distances that a Gram matrix loses in rounding, computed by direct differences of rows.

|x_i - x_j|^2 / 2 from a Gram matrix is off by about eps |x|^2, whatever the distance. Divided by sigma^2 this
does not matter while sigma is not small beside |x|; for rows that are equal, or nearly, it otherwise makes
the density of their noisy states too small, and the information larger than the entropy of the set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Beyond this many sigmas a pair adds nothing: its exponent is below -64^2 / 2 + 64 * 20 nats.
_REACH = 64.0
# Entries of differences held at a time.
_ENTRIES = 2**22
# Beyond the rounding errors seen for widths up to some thousands (about 1 eps |x|^2).
_ROUNDING = 8.0


@dataclass(frozen=True)
class LostPairs:
    """Pairs (row of a chunk, row) whose Gram exponent is within rounding of 0, with their exact exponent."""

    where: Int[Tensor, " pair"]
    exponent: Float[Tensor, " pair"]


def rounding_of(half_norms: Float[Tensor, " row"]) -> float:
    """Return below which -|x_i - x_j|^2 / 2 from a Gram matrix cannot be told from 0."""
    return 2 * _ROUNDING * torch.finfo(half_norms.dtype).eps * float(half_norms.max())


def lost_pairs(
    attraction: Float[Tensor, "chunk row"],
    x: Float[Tensor, "row d_model"],
    rounding: float,
    ids: Int[Tensor, " row"],
    chunk: slice,
) -> LostPairs:
    """Return the pairs of a chunk that are lost in rounding; `ids` says which rows are the same.

    Cost: d operations for each such pair of different rows.
    """
    row, column = (attraction >= -rounding).nonzero(as_tuple=True)
    exponent = attraction.new_zeros(len(row))
    differ = (ids[chunk][row] != ids[column]).nonzero().flatten()
    for some in differ.split(max(1, _ENTRIES // x.shape[1])):
        gaps = x[column[some]] - x[chunk.start + row[some]]
        exponent[some] = gaps.square().sum(dim=1) / -2
    return LostPairs(row * attraction.shape[1] + column, exponent)


@dataclass(frozen=True, eq=False)
class Differences:
    """For noise far below the size of the states: every pair in reach of it by direct differences.

    Attributes:
        states: The rows of every state, in float64 and not centred, so that no difference is rounded.
        sigma: The largest noise level.
    """

    states: Sequence[Float[Tensor, "row d_model"]]
    sigma: float

    def correct(
        self,
        index: int,
        attraction: Float[Tensor, "chunk row"],
        drift: Float[Tensor, "draw chunk row"],
        noise: Float[Tensor, "draw chunk d_model"],
        half_norms: Float[Tensor, " row"],
        chunk: slice,
    ) -> None:
        """Put the exact exponents of pairs in reach in place, and no drift for the others.

        Cost: (1 + draws) d operations for each pair in reach.
        """
        x = self.states[index]
        # The worst case of a product of length d, so that no pair in reach is missed.
        rounding = 2 * (x.shape[1] + 4) * torch.finfo(x.dtype).eps * float(half_norms.max())
        near = attraction >= -((_REACH * self.sigma) ** 2 / 2 + rounding)
        drift.masked_fill_(~near, 0.0)
        pairs = near.nonzero()
        for some in pairs.split(max(1, _ENTRIES // (x.shape[1] * (1 + len(noise))))):
            row, column = some.unbind(dim=1)
            gaps = x[column] - x[chunk.start + row]
            attraction[row, column] = gaps.square().sum(dim=1) / -2
            drift[:, row, column] = torch.einsum("spd,pd->sp", noise[:, row], gaps)
