"""Finite constellations in Gaussian noise: lattices, whose truth is a sum of one-dimensional capacities.

`draw` gives noisy rows, for estimators that see samples; `points` the points themselves, on which `noise` is
exact up to its own draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.known_answers.case import Case, Pair
from benchmarks.known_answers.channels import shared_amplitude_bits
from benchmarks.known_answers.gaussians import orthonormal
from tl_emergence.estimators.interface import generator_for

SIGMA = 0.5


@dataclass(frozen=True)
class Lattice:
    """A product of independent axes of equally spaced, equally likely levels, seen by x and by y.

    Both see the same level of an axis, each at a spacing of its own: 0 for an axis that it does not see. Then
    everything is embedded in d dimensions, by an isometry of its own for x and for y, and noise added in all.

    Attributes:
        levels: Number of levels of each axis.
        in_x: Spacing of each axis in x, in units of the noise.
        in_y: Spacing of each axis in y, in units of the noise.
        d: Dimensions of x and of y, at least the number of axes.
    """

    levels: tuple[int, ...]
    in_x: tuple[float, ...]
    in_y: tuple[float, ...]
    d: int

    @property
    def bits(self) -> float:
        """The information in bits: axes add up."""
        return sum(
            shared_amplitude_bits(m, a, b) for m, a, b in zip(self.levels, self.in_x, self.in_y, strict=True)
        )

    def points(self) -> Pair:
        """Return every point once, without noise."""
        axes = torch.cartesian_prod(*(torch.arange(m) for m in self.levels))
        return self._embedded(axes.reshape(-1, len(self.levels)))

    def draw(self, n: int, seed: int) -> Pair:
        """Draw n points and their noise."""
        generator = generator_for(seed, "lattice", self)
        columns = [torch.randint(m, (n,), generator=generator) for m in self.levels]
        x, y = self._embedded(torch.stack(columns, dim=1))
        noise = SIGMA * torch.randn(2, *x.shape, generator=generator)
        return x + noise[0], y + noise[1]

    def _embedded(self, numbers: Int[Tensor, "row axis"]) -> Pair:
        centred = numbers - (torch.tensor(self.levels, dtype=torch.float64) - 1) / 2
        return self._side(centred, self.in_x, "x"), self._side(centred, self.in_y, "y")

    def _side(
        self, centred: Float[Tensor, "row axis"], spacings: tuple[float, ...], side: str
    ) -> Float[Tensor, "row d"]:
        scaled = centred * SIGMA * torch.tensor(spacings, dtype=torch.float64)
        return (scaled @ orthonormal(len(self.levels), self.d, "lattice", side)).float()


LATTICES = {
    "two points, far apart": Lattice((2,), (6.0,), (6.0,), 1),
    "two points, near": Lattice((2,), (2.0,), (2.0,), 1),
    "two points, unequal": Lattice((2,), (8.0,), (2.0,), 1),
    "two points, 640 dimensions": Lattice((2,), (4.0,), (4.0,), 640),
    "16 levels on a line": Lattice((16,), (6.0,), (3.0,), 1),
    "64 points in 16 dimensions": Lattice((4, 4, 4), (3.0, 3.0, 3.0), (4.0, 3.0, 2.0), 16),
    "512 points, 3 of 6 axes shared": Lattice((4, 4, 4, 2, 2, 2), (4.0,) * 6, (4.0,) * 3 + (0.0,) * 3, 32),
    "640 dimensions, 16 points": Lattice((4, 4), (8.0, 8.0), (8.0, 8.0), 640),
    "640 dimensions, 1,024 points": Lattice((2,) * 10, (6.0,) * 10, (4.0,) * 10, 640),
    "640 dimensions, 4,096 points": Lattice((4,) * 6, (7.0,) * 6, (7.0,) * 6, 640),
}
"""The lattices by name."""


def constellations() -> Iterator[Case]:
    """Yield one case a lattice: from two points on a line to 12 bits in 640 dimensions."""
    for name, lattice in LATTICES.items():
        yield Case("constellation", name, lattice.bits, lattice.draw, SIGMA, lattice.points)
