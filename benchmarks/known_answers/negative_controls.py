"""Pairs on which estimators go wrong: nothing shared, or something shared where scales or tails hide it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from benchmarks.known_answers.case import Case, Pair
from benchmarks.known_answers.gaussians import GaussianPair
from tl_emergence.estimators.interface import generator_for

Rows = Callable[[int, torch.Generator], Float[Tensor, "sample d"]]
Map = Callable[[Float[Tensor, "sample d"]], Float[Tensor, "sample d"]]

MILLION = 1e6
COPIES = 4


def negative_controls() -> Iterator[Case]:
    """Yield controls without information, then those with information that a bad scale must not change."""
    for d in (1, 8, 64, 640):
        yield _independent(f"independent Gaussians, {d} dimensions", _normal(d), _normal(d))
    for d in (1, 8, 64):
        yield _independent(f"independent Cauchy, {d} dimensions", _student(1, d), _student(1, d))
    yield _independent("independent Student-t, dof 3, 64 dimensions", _student(3, 64), _student(3, 64))
    yield _independent("constant x", _constant(16), _normal(16))
    yield _independent("constant y", _normal(16), _constant(16))
    yield _independent("25 points, independent Gaussian", _few_points(25, 64), _normal(64))
    yield _independent("25 points, 16 other points", _few_points(25, 64), _few_points(16, 64))
    yield Case("negative_control", "independent rows, each four times", 0.0, _copied)
    yield from _mapped_marginals()
    yield from _unequal_scales()


def _mapped_marginals() -> Iterator[Case]:
    """Monotone maps of every coordinate leave the information of a Gaussian pair as it is."""
    maps: dict[str, Map] = {"Cauchy": _to_cauchy, "cubed": _to_cube, "log-normal": _to_log_normal}
    for name, mapped in maps.items():
        for d, shared in ((1, 1), (8, 2), (64, 4)):
            pair = GaussianPair(2.0, d, d, shared, rotated=False)
            yield Case(
                "negative_control", f"{name} marginals, {d} dimensions, 2 bits", 2.0, _through(pair, mapped)
            )


def _unequal_scales() -> Iterator[Case]:
    """Scales and shifts of single coordinates leave it too; the first coordinates are the shared ones."""
    pair = GaussianPair(2.5, 64, 64, 4, rotated=False)
    one = GaussianPair(2.0, 64, 64, 1, rotated=False)
    maps: dict[str, tuple[GaussianPair, Map]] = {
        "an empty dimension a million times the others": (pair, _scaled(-1, MILLION)),
        "the shared dimension a million times the others": (one, _scaled(0, MILLION)),
        "the shared dimension a thousandth of the others": (one, _scaled(0, 1e-3)),
        "a shared dimension far from 0": (pair, _shifted(0, 1e3)),
    }
    for name, (of, mapped) in maps.items():
        yield Case("negative_control", f"{name}, {of.bits:g} bits", of.bits, _through(of, mapped))


def _independent(name: str, of_x: Rows, of_y: Rows) -> Case:
    def draw(n: int, seed: int) -> Pair:
        return of_x(n, generator_for(seed, name, "x")), of_y(n, generator_for(seed, name, "y"))

    return Case("negative_control", name, 0.0, draw)


def _copied(n: int, seed: int) -> Pair:
    """Draw n/4 independent pairs and repeat each four times, in random order.

    The truth, 0, is that of the distribution that the distinct rows come from. The rows are no independent
    draws: whoever trains on some and scores others must keep copies together, or reads log2(n / 4).
    """
    generator = generator_for(seed, "copied")
    distinct = torch.randn(2, -(-n // COPIES), 16, generator=generator)
    rows = torch.arange(n)[torch.randperm(n, generator=generator)] // COPIES
    return distinct[0][rows], distinct[1][rows]


def _normal(d: int) -> Rows:
    return lambda n, generator: torch.randn(n, d, generator=generator)


def _constant(d: int) -> Rows:
    return lambda n, generator: torch.full((n, d), 3.0)


def _few_points(k: int, d: int) -> Rows:
    def rows(n: int, generator: torch.Generator) -> Float[Tensor, "sample d"]:
        points = torch.randn(k, d, generator=generator)
        return points[torch.randint(k, (n,), generator=generator)]

    return rows


def _student(dof: int, d: int) -> Rows:
    """Independent Student-t coordinates: a normal over the root of a mean of `dof` squared normals."""

    def rows(n: int, generator: torch.Generator) -> Float[Tensor, "sample d"]:
        normal = torch.randn(dof + 1, n, d, generator=generator, dtype=torch.float64)
        return (normal[0] / normal[1:].square().mean(dim=0).sqrt()).float()

    return rows


def _through(pair: GaussianPair, mapped: Map) -> Callable[[int, int], Pair]:
    def draw(n: int, seed: int) -> Pair:
        x, y = pair.coordinates(n, seed)
        return mapped(x).float(), mapped(y).float()

    return draw


def _to_cauchy(z: Float[Tensor, "sample d"]) -> Float[Tensor, "sample d"]:
    # The lower tail on both sides: near 1 a probability has no digits left.
    lower = torch.from_numpy(stats.norm.cdf(-z.abs().numpy()))
    return z.sign() / torch.tan(math.pi * lower)


def _to_cube(z: Float[Tensor, "sample d"]) -> Float[Tensor, "sample d"]:
    return z**3


def _to_log_normal(z: Float[Tensor, "sample d"]) -> Float[Tensor, "sample d"]:
    return (2 * z).exp()


def _scaled(coordinate: int, factor: float) -> Map:
    def mapped(z: Float[Tensor, "sample d"]) -> Float[Tensor, "sample d"]:
        scaled = z.clone()
        scaled[:, coordinate] *= factor
        return scaled

    return mapped


def _shifted(coordinate: int, shift: float) -> Map:
    def mapped(z: Float[Tensor, "sample d"]) -> Float[Tensor, "sample d"]:
        shifted = z.clone()
        shifted[:, coordinate] += shift
        return shifted

    return mapped
