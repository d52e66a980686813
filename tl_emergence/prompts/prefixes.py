"""Which prompts share a prefix, which share a token: the discrete side of every score."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


def prefix_ids(tokens: Int[Tensor, "prompt pos"]) -> Int[Tensor, "pos prompt"]:
    """Number the distinct prefixes s_0..s_t at each position, in order of first appearance.

    Two prompts have the same id at t exactly when they agree on every token up to and including t.
    Cost: one sort of N numbers a position.

    Example:
        >>> import torch
        >>> prefix_ids(torch.tensor([[5, 7], [6, 7], [5, 8]]))
        tensor([[0, 1, 0],
                [0, 1, 2]])
    """
    base = int(tokens.max()) + 1
    rows = torch.empty(tokens.shape[1], tokens.shape[0], dtype=torch.int64)
    previous = torch.zeros(tokens.shape[0], dtype=torch.int64)
    for t in range(tokens.shape[1]):
        # ids stay below N, so id * base + token cannot overflow for any real vocabulary.
        previous = number_by_appearance(previous * base + tokens[:, t])
        rows[t] = previous
    return rows


def number_by_appearance(keys: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
    """Replace each key by 0, 1, 2, ... in order of first appearance.

    Example:
        >>> import torch
        >>> number_by_appearance(torch.tensor([30, 10, 30, 20]))
        tensor([0, 1, 0, 2])
    """
    _, inverse = keys.unique(return_inverse=True)
    first = first_rows(inverse)
    order = torch.empty_like(first)
    order[first.argsort()] = torch.arange(len(first))
    return order[inverse]


def first_rows(ids: Int[Tensor, " row"]) -> Int[Tensor, " distinct"]:
    """Return, for each id 0..M-1, the first row that has it.

    Example:
        >>> import torch
        >>> first_rows(torch.tensor([0, 1, 0, 2]))
        tensor([0, 1, 3])
    """
    count = int(ids.max()) + 1
    first = torch.full((count,), len(ids), dtype=torch.int64)
    return first.scatter_reduce_(0, ids, torch.arange(len(ids)), reduce="amin")
