"""The inner loop of the noise estimator: Gaussian mixtures centred on the rows of consecutive states.

For row i, a draw z and noise sigma, the mixture density at u = x_i + sigma z is, up to a factor that
cancels between joint and marginals,

    K_ij = exp( -|u - x_j|^2 / 2 sigma^2 + |u - x_i|^2 / 2 sigma^2 )
         = exp( -|x_i - x_j|^2 / 2 sigma^2  +  z . (x_j - x_i) / sigma ),        K_ii = 1.

Four things follow, and make the loop fast. The first term is one Gram matrix for every sigma, the second
one product z X^T for every sigma. A draw z and its mirror -z share that product: each draw is such a pair,
and the mean of the two is one independent value with less spread than two draws apart. The exponent is at
most (z . e)^2 / 2 for the unit vector e along x_j - x_i, about 20 in practice, and the row's own term is
1: no running maximum is needed. And the joint kernel of two states is the product of their kernels, so a
joint density costs no exponential.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.estimators.noise_differences import Differences, LostPairs, lost_pairs, rounding_of

_LOG2_E = math.log2(math.e)

# Rows handled at a time: enough for fast matrix products, few enough that the kernel matrices of one
# sigma stay below 32 MiB in float32.
_CHUNK_ROWS = 512
_CHUNK_ENTRIES = 2**23
# Entries taken through all elementwise operations together, while they are in cache.
_BLOCK_ENTRIES = 2**20
# Where runs of rows with equal weights are at least this long, and not too many, summing run by run beats
# a product with the weights.
_SHORTEST_RUN = 8
_MOST_RUNS = 64
# Errors of exponents up to here change no value by as much as its standard error.
_EXPONENT_ERROR = 2e-4


def rows_per_chunk(n_rows: int, draws: int) -> int:
    """Return how many rows are handled at once; depends on nothing but the problem's shape."""
    return max(1, min(n_rows, _CHUNK_ROWS, _CHUNK_ENTRIES // (2 * draws * n_rows)))


class Mixture:
    """The mixture weights of every column, as runs of consecutive rows with equal weights.

    Order the rows so that equal weights stand together: a sum over the distinct prompts of a set and of
    its halves is then two or three plain sums, which cost a fraction of a product with a weight matrix.
    """

    def __init__(self, weights: Float[Tensor, "column row"]) -> None:
        changes = (weights[:, 1:] != weights[:, :-1]).any(dim=0).nonzero().flatten() + 1
        bounds = [0, *changes.tolist(), weights.shape[1]]
        runs = list(pairwise(bounds))
        few = len(runs) <= min(_MOST_RUNS, weights.shape[1] // _SHORTEST_RUN)
        self.runs = runs if few else None
        self.weights = weights if self.runs is None else weights[:, bounds[:-1]]

    @property
    def n_parts(self) -> int:
        """Number of partial sums that `add_up` gives for each row."""
        return len(self.weights) if self.runs is None else len(self.runs)

    def add_up(self, kernel: Float[Tensor, "draw chunk row"], out: Float[Tensor, "draw chunk part"]) -> None:
        """Write the partial sums of K_ij over j from which `log2_density` makes the densities."""
        if self.runs is None:
            out.copy_(_product(kernel.flatten(0, 1), self.weights).view(out.shape))
            return
        for part, (a, b) in enumerate(self.runs):
            torch.sum(kernel[..., a:b], dim=-1, out=out[..., part])

    def log2_density(self, parts: Float[Tensor, "*batch part"]) -> Float[Tensor, "*batch column"]:
        """Return log2 sum_j w_j K_ij for every column."""
        return (parts if self.runs is None else parts @ self.weights.t()).log2()


def pointwise_information(
    states: Sequence[Float[Tensor, "row d_model"]],
    generators: Sequence[torch.Generator],
    pairs: Sequence[tuple[int, int]],
    weights: Float[Tensor, "column row"],
    sigmas: Sequence[float],
    draws: int,
    n_full: int,
    differences: Differences | None = None,
) -> tuple[Float[Tensor, "sigma pair column draw row"], Float[Tensor, " state"]]:
    """Return log2 p(u, v) - log2 p(u) - log2 p(v) for every draw of every row, and closest distances.

    Products are computed in the full precision of their dtype, whatever autocast or TF32 is in force.

    Args:
        states: Centred matrices of the same rows, all of one dtype (float32 or float64).
        generators: Two CPU generators: of the states at even places, and of those at odd places.
            Neighbours then have independent noise, and every second state shares its draws.
        pairs: Neighbours (i, i + 1) to score.
        weights: Mixture weights, one distribution over the rows a column. Rows of weight 0 in a column
            get a value there too, which means nothing.
        sigmas: Noise levels.
        draws: Draws a row, each a pair z, -z whose mean is returned.
        n_full: Rows from this one on get a single draw, returned in the place of each.
        differences: The same states for direct differences, where sigma is too small for a Gram matrix.

    Cost: 2 (1 + draws) N^2 d operations a state, two exponentials for each sigma, draw and entry.
    """
    with _full_precision(states[0].device):
        return _pointwise_information(states, generators, pairs, weights, sigmas, draws, n_full, differences)


def _pointwise_information(
    states: Sequence[Float[Tensor, "row d_model"]],
    generators: Sequence[torch.Generator],
    pairs: Sequence[tuple[int, int]],
    weights: Float[Tensor, "column row"],
    sigmas: Sequence[float],
    draws: int,
    n_full: int,
    differences: Differences | None,
) -> tuple[Float[Tensor, "sigma pair column draw row"], Float[Tensor, " state"]]:
    n_rows, dtype, device = len(states[0]), states[0].dtype, states[0].device
    step = rows_per_chunk(n_rows, draws)
    out = torch.zeros(len(sigmas), len(pairs), len(weights), draws, n_rows, dtype=dtype, device=device)
    half_norms = [x.square().sum(dim=1) / 2 for x in states]
    fine = [_is_fine(sigma, half_norms) and differences is None for sigma in sigmas]
    closest = _Closest(states, half_norms)
    buffers = _Buffers(step, draws, n_rows, len(sigmas), states[0])
    for start, end in [*_cut(0, n_full, step), *_cut(n_full, n_rows, step)]:
        chunk, draws_here = slice(start, end), draws if start < n_full else 1
        active = weights[:, start:].any(dim=1).nonzero().flatten()
        mixture = Mixture(weights[active])
        noise = [_noise(own_generator, draws_here, states[0][chunk]) for own_generator in generators]
        before: _Densities | None = None
        for index, x in enumerate(states):
            attraction = _gram_exponent(x, half_norms[index], chunk)
            drift = _noise_exponent(x, noise[index % 2], chunk)
            if differences is not None:
                differences.correct(index, attraction, drift, noise[index % 2], half_norms[index], chunk)
            lost = closest.note(attraction, index, chunk) and any(fine)
            exact = closest.lost_pairs(attraction, index, chunk) if lost else None
            joined = (index - 1, index) in pairs
            now = _densities(attraction, drift, exact, fine, sigmas, mixture, buffers, index, joined)
            if joined and before is not None:
                info = (now.joint - now.own - before.own).mean(dim=1)
                out[:, pairs.index((index - 1, index)), active, :, chunk] = info.permute(0, 3, 1, 2)
            before = now
    return out, closest.distances()


def _is_fine(sigma: float, half_norms: Sequence[Float[Tensor, " row"]]) -> bool:
    """Return whether the rounding of the Gram matrix shows at this noise level."""
    eps = torch.finfo(half_norms[0].dtype).eps
    return max(float(norms.max()) for norms in half_norms) * eps > _EXPONENT_ERROR * sigma**2


def _cut(start: int, end: int, step: int) -> list[tuple[int, int]]:
    return [(a, min(a + step, end)) for a in range(start, end, step)]


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Hold off autocast and reduced-precision products (TF32, bfloat16): exponents need every digit.

    Settings are touched only where a reduced precision is in force.
    """
    cuda, mkldnn = torch.backends.cuda, torch.backends.mkldnn
    places = ((cuda, "matmul"), (mkldnn, "matmul"), (mkldnn, "conv"))
    found: list[Any] = [getattr(backend, name, None) for backend, name in places]
    switches = [switch for switch in found if hasattr(switch, "fp32_precision")]  # torch 2.9 and newer
    before = [switch.fp32_precision for switch in switches]
    legacy = None if switches else torch.get_float32_matmul_precision()
    try:
        for switch, precision in zip(switches, before, strict=True):
            if precision not in ("ieee", "none"):
                switch.fp32_precision = "ieee"
        if legacy not in (None, "highest"):
            torch.set_float32_matmul_precision("highest")
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            if precision not in ("ieee", "none"):
                switch.fp32_precision = precision
        if legacy not in (None, "highest"):
            torch.set_float32_matmul_precision(legacy)


@dataclass(frozen=True)
class _Densities:
    """log2 mixture densities of one state's noisy rows, and joint with the state before."""

    own: Float[Tensor, "sigma sign draw chunk column"]
    joint: Float[Tensor, "sigma sign draw chunk column"]


def _densities(
    attraction: Float[Tensor, "chunk row"],
    drift: Float[Tensor, "draw chunk row"],
    exact: LostPairs | None,
    fine: Sequence[bool],
    sigmas: Sequence[float],
    mixture: Mixture,
    buffers: _Buffers,
    index: int,
    joined: bool,
) -> _Densities:
    """Return log2 densities for every sigma and both signs of every draw, one small block at a time.

    Each block is taken through all its operations while it is in cache. The kernels stay in this state's
    buffer for the next state; those of the state before are multiplied into the joint and used up.
    """
    draws, rows = drift.shape[:2]
    own = attraction.new_empty(len(sigmas), 2, draws, rows, mixture.n_parts)
    joint = torch.empty_like(own) if joined else own
    mine, previous = buffers.kernels[index % 2], buffers.kernels[1 - index % 2]
    at_once = max(1, _BLOCK_ENTRIES // attraction.numel())
    for s, sigma in enumerate(sigmas):
        pull = torch.mul(attraction, _LOG2_E / sigma**2, out=buffers.pull[:rows])
        if exact is not None and fine[s]:
            pull.view(-1)[exact.where] = exact.exponent * (_LOG2_E / sigma**2)
        for first in range(0, draws, at_once):
            some = slice(first, min(first + at_once, draws))
            for sign, scale in enumerate((_LOG2_E / sigma, -_LOG2_E / sigma)):
                kernel = torch.add(pull, drift[some], alpha=scale, out=mine[s, sign, some, :rows]).exp2_()
                mixture.add_up(kernel, own[s, sign, some])
                if joined:
                    both = previous[s, sign, some, :rows].mul_(kernel)
                    mixture.add_up(both, joint[s, sign, some])
    return _Densities(mixture.log2_density(own), mixture.log2_density(joint))


class _Buffers:
    """Reused memory: fresh megabytes for every operation would cost more than the operations."""

    def __init__(self, rows: int, draws: int, n_rows: int, n_sigmas: int, like: Tensor) -> None:
        self.pull = like.new_empty(rows, n_rows)
        self.kernels = like.new_empty(2, n_sigmas, 2, draws, rows, n_rows)


class _Closest:
    """The closest pair of rows of each state; found in working precision, its distance exact."""

    def __init__(
        self, states: Sequence[Float[Tensor, "row d_model"]], half_norms: Sequence[Float[Tensor, " row"]]
    ) -> None:
        self.states = states
        self.rounding = [rounding_of(norms) for norms in half_norms]
        self.ids: dict[int, Int[Tensor, " row"]] = {}
        self.best = torch.full((len(states),), -math.inf, dtype=states[0].dtype)
        self.pairs = torch.zeros(len(states), 2, dtype=torch.int64)

    def note(self, attraction: Float[Tensor, "chunk row"], state: int, chunk: slice) -> bool:
        """Look at the -|x_i - x_j|^2 / 2 of a chunk of rows; say whether some are lost in rounding."""
        diagonal = attraction.diagonal(chunk.start)
        diagonal.fill_(-math.inf)
        best, where = attraction.view(-1).max(dim=0)
        diagonal.fill_(0.0)
        largest = float(best)
        if largest > self.best[state]:
            self.best[state] = largest
            row, column = divmod(int(where), attraction.shape[1])
            self.pairs[state] = torch.tensor([chunk.start + row, column])
        return largest >= -self.rounding[state]

    def lost_pairs(self, attraction: Float[Tensor, "chunk row"], state: int, chunk: slice) -> LostPairs:
        """Return the pairs of a chunk whose distance is lost in rounding, with their exact exponent."""
        x = self.states[state]
        return lost_pairs(attraction, x, self.rounding[state], self._ids(state), chunk)

    def distances(self) -> Float[Tensor, " state"]:
        """Return the distances; infinity where a state has one row only, 0 where two rows are the same."""
        return torch.tensor([self._distance(state) for state in range(len(self.states))], dtype=torch.float64)

    def _distance(self, state: int) -> float:
        x, (i, j) = self.states[state], self.pairs[state].tolist()
        if i == j:
            return math.inf
        # Among pairs that are lost in rounding, the one found need not be the closest.
        lost = float(self.best[state]) >= -self.rounding[state]
        if lost and int(self._ids(state).max()) + 1 < len(x):
            return 0.0
        return float((x[i].double() - x[j].double()).norm())

    def _ids(self, state: int) -> Int[Tensor, " row"]:
        """Return numbers that are the same for rows that are."""
        if state not in self.ids:
            self.ids[state] = torch.unique(self.states[state], dim=0, return_inverse=True)[1]
        return self.ids[state]


def _gram_exponent(
    x: Float[Tensor, "row d_model"], half_norms: Float[Tensor, " row"], chunk: slice
) -> Float[Tensor, "chunk row"]:
    """Return -|x_i - x_j|^2 / 2 for the rows of a chunk; exactly 0 for j = i, never above 0."""
    out = _product(x[chunk], x).sub_(half_norms).sub_(half_norms[chunk, None]).clamp_(max=0.0)
    out.diagonal(chunk.start).fill_(0.0)
    return out


def _noise(
    generator: torch.Generator, draws: int, like: Float[Tensor, "chunk d_model"]
) -> Float[Tensor, "draw chunk d_model"]:
    """Return fresh draws for the rows of a chunk."""
    # Drawn on the CPU in float32 whatever the device and dtype: the same seed gives the same noise.
    return torch.randn(draws, *like.shape, generator=generator, device="cpu").to(like)


def _noise_exponent(
    x: Float[Tensor, "row d_model"], noise: Float[Tensor, "draw chunk d_model"], chunk: slice
) -> Float[Tensor, "draw chunk row"]:
    """Return z . (x_j - x_i) for the draws z of each row of a chunk; exactly 0 for j = i."""
    out = _product(noise.flatten(0, 1), x).view(*noise.shape[:2], len(x))
    own = out.diagonal(chunk.start, dim1=1, dim2=2).clone()
    return out.sub_(own[:, :, None])


def _product(rows: Float[Tensor, "a d_model"], x: Float[Tensor, "row d_model"]) -> Float[Tensor, "a row"]:
    """Return rows @ x.T."""
    if rows.dtype == torch.float32 and rows.device.type == "cpu" and torch.backends.mkldnn.is_available():
        # A 1 x 1 convolution over "pixels" (rows) with d_model channels, channels last, is this product.
        # It goes to oneDNN, which uses the widest vector instructions of any processor; torch.mm goes to
        # MKL, which on some uses half of them (measured in benchmarks/pipeline.py).
        pixels = rearrange(rows, "a d -> 1 1 a d").permute(0, 3, 1, 2)
        return torch.nn.functional.conv2d(pixels, x[:, :, None, None])[0, :, 0].t()
    return rows @ x.t()
