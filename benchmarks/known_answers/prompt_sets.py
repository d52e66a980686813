"""Enumerated prompt sets: ordered draws of entities, whose prefixes have known entropies and no noise.

A state determines its prefix, so that x and y are injective pictures of it: the numbers of its entities, in
two orders. The information is the entropy of the prefix, log2( K! / (K - j)! ) after j of K entities.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import torch
from jaxtyping import Int
from torch import Tensor

from benchmarks.known_answers.case import Case, Pair
from tl_emergence.estimators.interface import generator_for

SHOTS = {"country": (25, 4), "animal": (16, 5), "color": (15, 5)}
"""Entities and shots of the published lists (Chen et al., arXiv 2405.12617)."""


@dataclass(frozen=True)
class Prefix:
    """The first `shots` of `entities` drawn without replacement: all ordered draws are equally likely."""

    entities: int
    shots: int

    @property
    def bits(self) -> float:
        """The entropy of the prefix."""
        return math.log2(math.perm(self.entities, self.shots))

    def points(self) -> Pair:
        """Return every prefix once."""
        flat = torch.tensor([i for draw in permutations(range(self.entities), self.shots) for i in draw])
        return _states(flat.view(-1, self.shots))

    def draw(self, n: int, seed: int) -> Pair:
        """Draw n prefixes independently, so that some may come twice."""
        keys = torch.rand(n, self.entities, generator=generator_for(seed, "prefix", self))
        return _states(keys.argsort(dim=1)[:, : self.shots])


def prompt_sets() -> Iterator[Case]:
    """Yield the prefix after every entity of the three lists."""
    for name, (entities, shots) in SHOTS.items():
        for j in range(1, shots + 1):
            prefix = Prefix(entities, j)
            yield Case(
                "prompt_set", f"{name}, {j} of {entities}", prefix.bits, prefix.draw, points=prefix.points
            )


def _states(numbers: Int[Tensor, "row shot"]) -> Pair:
    return numbers.float(), numbers.flip(1).float()
