"""Random sequences that repeat: what the model is trained and measured on."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

BOS = 0
VOCABULARY = 48
LENGTH = 32
"""Content tokens of a training sequence; BOS stands before them."""

SHORTEST, LONGEST = 5, 16
"""The periods of training sequences: each draws its own, so that no fixed distance can be learned."""


def training_batch(size: int, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
    """Return sequences behind BOS, each random up to its own period and repeated from there to the end."""
    periods = torch.randint(SHORTEST, LONGEST + 1, (size, 1), generator=generator)
    random = torch.randint(1, VOCABULARY, (size, LONGEST), generator=generator)
    content = random.gather(1, torch.arange(LENGTH)[None] % periods)
    return torch.cat([torch.full((size, 1), BOS), content], dim=1)


def repeated(n: int, period: int, generator: torch.Generator) -> Int[Tensor, "prompt pos"]:
    """Return content tokens r_1..r_k r_1..r_k, k the period, all r of one prompt different."""
    scores = torch.rand(n, VOCABULARY - 1, generator=generator)
    once = 1 + scores.argsort(dim=1)[:, :period]
    return torch.cat([once, once], dim=1)
