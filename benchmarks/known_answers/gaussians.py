"""Gaussian pairs in closed form: correlated in few or all of up to 640 dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.known_answers.case import Case, Pair
from tl_emergence.estimators.interface import generator_for

Spectrum = Literal["equal", "leading", "trailing"]


@dataclass(frozen=True)
class GaussianPair:
    """Two Gaussian vectors whose first `shared` coordinates are correlated pairwise, then scaled and rotated.

    With correlation rho in each of k coordinates, I = -k/2 log2(1 - rho^2), whatever scales and rotations.

    Attributes:
        bits: The information.
        d_x: Dimensions of x.
        d_y: Dimensions of y.
        shared: Coordinates that carry it, each the same share.
        spectrum: Standard deviations of the coordinates: all 1, or falling as i^(-1/2), the variances as 1/i,
            with the shared coordinates the largest ("leading") or the smallest ("trailing").
        rotated: Whether x and y are turned, each by a random rotation that is the same for every draw.
    """

    bits: float
    d_x: int
    d_y: int
    shared: int
    spectrum: Spectrum = "equal"
    rotated: bool = True

    @property
    def correlation(self) -> float:
        """Correlation of each shared coordinate of x with that of y."""
        return math.sqrt(1 - 2 ** (-2 * self.bits / self.shared))

    def coordinates(self, n: int, seed: int) -> Pair:
        """Draw n pairs of standard normal coordinates, not scaled, not rotated, in float64."""
        generator = generator_for(seed, "gaussian pair", self)
        x = torch.randn(n, self.d_x, generator=generator, dtype=torch.float64)
        y = torch.randn(n, self.d_y, generator=generator, dtype=torch.float64)
        rho, k = self.correlation, self.shared
        y[:, :k] = rho * x[:, :k] + math.sqrt(1 - rho**2) * y[:, :k]
        return x, y

    def draw(self, n: int, seed: int) -> Pair:
        """Draw n pairs."""
        x, y = self.coordinates(n, seed)
        return self._placed(x, "x").float(), self._placed(y, "y").float()

    def _placed(self, coordinates: Float[Tensor, "sample d"], side: str) -> Float[Tensor, "sample d"]:
        d = coordinates.shape[1]
        rank = torch.arange(1, d + 1, dtype=torch.float64)
        scales = {"equal": torch.ones_like(rank), "leading": rank.rsqrt(), "trailing": rank.flip(0).rsqrt()}
        scaled = coordinates * scales[self.spectrum]
        return scaled @ orthonormal(d, d, side) if self.rotated else scaled


@cache
def orthonormal(rows: int, columns: int, *label: object) -> Float[Tensor, "rows columns"]:
    """Return a matrix with random orthonormal rows, one and the same for a label: not to be changed."""
    generator = generator_for(0, "orthonormal", *label)
    return torch.linalg.qr(torch.randn(columns, rows, generator=generator, dtype=torch.float64)).Q.t()


def gaussians() -> Iterator[Case]:
    """Yield low-dimensional pairs, a ladder of 20 dimensions, and pairs as wide as a residual stream."""
    for bits in (0.5, 2.0, 4.0):
        yield _case(f"1 x 1, {bits:g} bits", GaussianPair(bits, 1, 1, 1))
    for d, bits in ((4, 1.0), (16, 4.0), (64, 2.5)):
        yield _case(f"{d} x {d}, dense, {bits:g} bits", GaussianPair(bits, d, d, d))
    yield _case("64 x 64, dense, correlation 0.5", GaussianPair(-32 * math.log2(0.75), 64, 64, 64))
    for nats in (1, 2, 4, 6, 8, 10):
        # As most papers on bounds have it: I in nats, no rotation.
        pair = GaussianPair(nats / math.log(2), 20, 20, 20, rotated=False)
        yield _case(f"20 x 20, dense, {nats} nats", pair)
    for bits in (4.0, 2.5, 1.0):
        for spectrum in ("equal", "leading", "trailing"):
            name = f"640 x 640, 8 shared, {spectrum}, {bits:g} bits"
            yield _case(name, GaussianPair(bits, 640, 640, 8, spectrum))
        yield _case(f"640 x 640, dense, {bits:g} bits", GaussianPair(bits, 640, 640, 640))
    yield _case("640 x 16, 4 shared, 2.5 bits", GaussianPair(2.5, 640, 16, 4))


def _case(name: str, pair: GaussianPair) -> Case:
    return Case("gaussian", name, pair.bits, pair.draw)
