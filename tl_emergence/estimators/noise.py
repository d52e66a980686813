"""Information at resolution sigma: how many bits survive Gaussian noise on both states."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_emergence.checks import LEAST, MOST, in_range, integer
from tl_emergence.errors import SettingError
from tl_emergence.estimators.interface import (
    SATURATED_ABOVE,
    ChainEstimate,
    Estimate,
    StateChain,
    generator_for,
)
from tl_emergence.estimators.noise_differences import Differences
from tl_emergence.estimators.noise_kernel import pointwise_information

# Enough draws that a set of any size has at most the standard error of this many independent ones.
_EFFECTIVE_DRAWS = 2304
_MOST_DRAWN_ROWS = 8192
# Matrices of states held centred at a time; longer chains are walked in overlapping pieces.
_STATE_BYTES = 512 * 2**20
_SIGMAS_AT_ONCE = 8
# Noise below this part of the largest norm needs direct differences of rows.
_FINEST = 5e-5
# Numbers between these have squares, sums and quotients of squares in float32.
_SQUARED_IN_SINGLE = 1e-12, 1e12


@dataclass(frozen=True)
class NoiseEstimator:
    """I(X + sigma Z ; Y + sigma Z') with (X, Y) uniform over the given rows (arXiv 1905.13576).

    Each noisy state is a Gaussian mixture centred on the rows, so that for row i with draws u, v

        I = E[ log2 p(u, v) - log2 p(u) - log2 p(v) ],   p(u) = sum_j w_j N(u; x_j, sigma^2),

    averaged over rows and draws: exact for this finite set up to Monte-Carlo error. It tends to the
    entropy of the set as sigma goes to 0 and to 0 as sigma grows.

    The standard error is that of the draws, and of one draw more that loses a bit: near saturation what is
    missing is lost in rare draws, and those at hand may show none.

    A draw is a pair z, -z, whose mean is one value. Without `draws`, small sets get as many a row as bring
    their standard error down to that of 2,304 independent draws. Sets of more than 1,728 rows of equal weight
    are there with fewer than two a row: a random half of their samples gets two, the rest one, and the spread
    of the half stands for that of the rest.

    It describes the given set only. As an estimate for a larger population it has no direction, usually
    errs upward, and tends to log2 N in high dimension whatever the truth: compare at equal N only, and
    never re-estimate on rows drawn with replacement.

    Cost: per state 2 (1 + draws) N^2 d operations, and 2 draws N^2 exponentials a sigma, for N distinct
    rows (draws is 1.5 on the average for the large sets above). Memory: up to 512 MiB of centred states,
    kernels of 64 MiB a sigma in float32, and 16 to 40 bytes for each sigma, scored pair, draw and row of
    the chain, once a series and subsample.
    """

    name: str = "noise"
    measures: str = "how many bits survive Gaussian noise of size sigma on both states"
    null_means: str = "not 0: at this resolution a deranged finite set still pairs its rows one to one"
    default_sigma: float = 0.5
    default_emergence_sigma: float = 0.5
    options: tuple[str, ...] = ("draws",)

    def check(self, sigmas: Sequence[float], options: Mapping[str, Any]) -> None:
        """Raise SettingError for a sigma that is not above 0, or fewer than two draws."""
        _check(sigmas, options.get("draws"))

    def pair(
        self,
        x: Float[Tensor, "sample d_x"],
        y: Float[Tensor, "sample d_y"],
        *,
        sigma: float,
        seed: int = 0,
        draws: int | None = None,
    ) -> Estimate:
        """Estimate I(x + noise; y + noise) for the rows as they are, each with weight 1/N."""
        rows, first = _distinct_joint_rows(x, y)
        states = _same_width(x[first], y[first])
        chain = StateChain("pair", states, (0, 1), ((0, 1),), rows[None, :])
        found = self.chain(chain, sigmas=(sigma,), seed=seed, draws=draws)
        bits, cap = float(found.bits), math.log2(len(x))
        assert found.pointwise is not None
        return Estimate(
            bits=bits,
            stderr=float(found.stderr),
            cap_bits=cap,
            saturated=bits > SATURATED_ABOVE * cap,
            direction="none",
            pointwise=found.pointwise[0, 0, 0],
            settings={**found.settings, "sigma": sigma, "seed": seed},
            of_finite_set=True,
        )

    def chain(
        self,
        chain: StateChain,
        *,
        sigmas: Sequence[float],
        seed: int = 0,
        draws: int | None = None,
    ) -> ChainEstimate:
        """Estimate every scored pair of a chain at every sigma, for every series, and for its N/2 and N/4."""
        _check(sigmas, draws)
        n_series, n_samples = chain.rows.shape
        n_rows = len(chain.states[0])
        sizes = [n_samples, *(size for size in (n_samples // 2, n_samples // 4) if size >= 2)]
        order = torch.randperm(n_samples, generator=generator_for(seed, "subsample"), device="cpu")
        # Column c * n_series + t: series t on the first sizes[c] samples of one random order.
        weights = torch.stack(
            [_weights(series[order[:size]], n_rows) for size in sizes for series in chain.rows]
        )
        few = draws is None and _one_draw_is_enough(weights[:n_series])
        twice = weights[1] > 0 if few else None  # the N/2 subsample, whose rows come first in the kernel
        stands_for = None if twice is None else _outside_per_inside(weights[0, twice] * n_samples, n_samples)
        draws = draws or _default_draws(weights[:n_series])
        info, closest = _in_pieces(chain, weights, sigmas, seed, draws, twice)
        constant = _constant_series(chain).repeat(1, len(sizes))
        info[:, constant] = 0.0
        w = weights[None, None, :, None, :]
        # Rows without weight in a column have a meaningless value there, NaN if the kernel underflowed.
        info = torch.where(w > 0, info * w, 0.0)
        by_column = info.sum(dim=(3, 4)) / draws
        series, bits = info[:, :, :n_series], by_column[:, :, :n_series]
        at_stake = bits.clamp(0, 1)[..., None] * weights[:n_series]
        n_so_far = torch.arange(1, n_series + 1, dtype=torch.float64)[:, None]
        of_means = series.cumsum(dim=2) / n_so_far[..., None], at_stake.cumsum(dim=2) / n_so_far
        per_row = series.mean(dim=3) / w[:, :, :n_series, 0].clamp_min(1e-300)
        return ChainEstimate(
            bits=bits,
            stderr=_standard_error(series, at_stake, twice, stands_for),
            mean_stderr=_standard_error(*of_means, twice, stands_for),
            cap_bits=math.log2(n_samples),
            direction="none",
            pointwise=per_row.gather(3, chain.rows.expand(*per_row.shape[:2], -1, -1)).float(),
            subsamples={
                size: by_column[:, :, c * n_series : (c + 1) * n_series]
                for c, size in enumerate(sizes)
                if c > 0
            },
            closest=closest,
            settings={
                "estimator": self.name,
                "draws": draws,
                "rows_with_one_draw": 0 if twice is None else int((~twice).sum()),
            },
        )


def _check(sigmas: Sequence[float], draws: int | None) -> None:
    wrong = [sigma for sigma in sigmas if not (sigma > 0 and in_range(sigma))]
    if wrong or not sigmas:
        raise SettingError(
            "sigma out of range",
            seen=wrong or "no sigma",
            expected=f"numbers above 0, between {LEAST:g} and {MOST:g}",
            fix="Without noise, Shannon information is known exactly: use estimator='exact'.",
        )
    if draws is not None and integer("draws", draws) < 2:
        raise SettingError(
            "too few draws", seen=draws, expected="2 or more, for a standard error", fix="Ask for 2."
        )


def _weights(rows: Int[Tensor, " sample"], n_rows: int) -> Float[Tensor, " row"]:
    return torch.bincount(rows, minlength=n_rows).double() / len(rows)


def _default_draws(weights: Float[Tensor, "series row"]) -> int:
    """Return draws a row: 2, or more where few rows carry the weight, until the error is small."""
    concentration = weights.square().sum(dim=1)
    varied = concentration[concentration < 1.0]
    wanted = math.ceil(_EFFECTIVE_DRAWS * float(varied.max())) if len(varied) else 2
    return max(2, min(wanted, _MOST_DRAWN_ROWS // weights.shape[1]))


def _one_draw_is_enough(weights: Float[Tensor, "series row"]) -> bool:
    """Return whether a single series has so many rows that two draws on half of them are enough.

    The variance of the mean is then (1/2 + 1/4) s^2 / N: that of 4/3 N independent draws.
    """
    return len(weights) == 1 and _EFFECTIVE_DRAWS * float(weights.square().sum()) <= 4 / 3


def _in_pieces(
    chain: StateChain,
    weights: Float[Tensor, "column row"],
    sigmas: Sequence[float],
    seed: int,
    draws: int,
    twice: Bool[Tensor, " row"] | None,
) -> tuple[Float[Tensor, "sigma pair column draw row"], Float[Tensor, " state"]]:
    """Run the kernel on as many states at a time as fit in memory, in the precision that sigma needs.

    Rows outside `twice` get a single draw, which then stands in every place.
    """
    n_rows = len(chain.states[0])
    order = _equal_weights_together(weights)
    unsort = torch.empty_like(order)
    unsort[order] = torch.arange(n_rows)
    columns = weights[:, order]
    shape = (len(sigmas), len(chain.pairs), len(weights), draws, n_rows)
    info = torch.zeros(shape, dtype=torch.float64)
    closest = torch.full((len(chain.states),), math.nan, dtype=torch.float64)
    for group in _groups(chain):
        states = [_centred(chain.states[i], order) for i in group]
        pairs = [(group.index(i), group.index(j)) for i, j in chain.pairs if i in group and j in group]
        places = [k for k, (i, j) in enumerate(chain.pairs) if i in group and j in group]
        largest = max(float(torch.linalg.vector_norm(x, dim=1, dtype=torch.float64).max()) for x in states)
        needed = [_precision(states[0].dtype, largest, sigma) for sigma in sigmas]
        for precision in ("single", "double", "differences"):
            chosen = [s for s, needs in enumerate(needed) if needs == precision]
            for few in (chosen[k : k + _SIGMAS_AT_ONCE] for k in range(0, len(chosen), _SIGMAS_AT_ONCE)):
                dtype = torch.float32 if precision == "single" else torch.float64
                centred, differences = [x.to(dtype) for x in states], None
                if precision == "differences":
                    whole = [chain.states[i][order.to(states[0].device)].double() for i in group]
                    centred = [x - x.mean(dim=0) for x in whole]
                    differences = Differences(whole, max(sigmas[s] for s in few))
                part, gaps = pointwise_information(
                    centred,
                    [
                        generator_for(seed, "noise", chain.name, (chain.numbers[group[0]] + k) % 2)
                        for k in (0, 1)
                    ],
                    pairs,
                    columns.to(states[0].device, dtype),
                    [sigmas[s] for s in few],
                    draws,
                    n_rows if twice is None else int(twice.sum()),
                    differences,
                )
                part = part.to("cpu", torch.float64)[..., unsort]
                for a, s in enumerate(few):
                    info[s, places] = part[a]
                closest[group] = gaps
    return info, closest


def _equal_weights_together(weights: Float[Tensor, "column row"]) -> Int[Tensor, " row"]:
    """Order rows by their weights in the last column (the smallest subsample), then the one before, ..."""
    order = torch.arange(weights.shape[1])
    for column in weights:
        order = order[torch.argsort(column[order], descending=True, stable=True)]
    return order


def _groups(chain: StateChain) -> Iterator[list[int]]:
    """Cut the chain into runs of scored neighbours that fit in memory; runs share their end states."""
    n_rows, width = chain.states[0].shape
    most = max(2, _STATE_BYTES // (n_rows * width * 4))
    scored = set(chain.pairs)
    run = [0]
    for j in range(1, len(chain.states)):
        if (j - 1, j) in scored and len(run) < most:
            run.append(j)
            continue
        if len(run) > 1:
            yield run
        run = [j - 1, j] if (j - 1, j) in scored else [j]
    if len(run) > 1:
        yield run


def _centred(x: Float[Tensor, "row d_model"], order: Int[Tensor, " row"]) -> Float[Tensor, "row d_model"]:
    """Reorder the rows and move the mean to 0: distances stay, and rounding errors shrink with norms."""
    x = x[order.to(x.device)]
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x - x.mean(dim=0)


def _precision(
    dtype: torch.dtype, largest: float, sigma: float
) -> Literal["single", "double", "differences"]:
    """Return in which precision exponents are good to about 0.01, and no worse for rows close together.

    Below 5e-5 of the largest norm, even centring the rows in float32 would move them by as much as counts.
    """
    if sigma < _FINEST * largest:
        return "differences"
    low, high = _SQUARED_IN_SINGLE
    squares_fit = low < sigma < high and (largest == 0 or low < largest < high)
    coarse = torch.finfo(torch.float32).eps * largest**2 / 2 <= 0.01 * sigma**2
    return "single" if dtype == torch.float32 and squares_fit and coarse else "double"


def _constant_series(chain: StateChain) -> Bool[Tensor, "pair series"]:
    """Return where all samples of a series have one and the same x, or one and the same y: 0 bits."""
    constant = torch.zeros(len(chain.states), len(chain.rows), dtype=torch.bool)
    used = [torch.unique(series) for series in chain.rows]
    for i, x in enumerate(chain.states):
        for t, rows in enumerate(used):
            constant[i, t] = len(rows) == 1 or bool((x[rows[1:]] == x[rows[:1]]).all())
    return torch.stack([constant[i] | constant[j] for i, j in chain.pairs])


def _standard_error(
    weighted: Float[Tensor, "sigma pair series draw row"],
    at_stake: Float[Tensor, "sigma pair series row"],
    twice: Bool[Tensor, " row"] | None,
    stands_for: Float[Tensor, " _twice"] | None,
) -> Float[Tensor, "sigma pair series"]:
    """Return sqrt( sum_i w_i^2 s_i^2 / S_i + u^2 ), the weights being in the values already.

    Rows with a single draw have no spread of their own: each row with two stands for some of them.

    Near saturation the bits are lost in draws so rare that none may have come up, and the spread sees
    nothing: u is one draw more that loses a_i, the weight of its row times a bit (or times all bits, where
    there are fewer): u = sum_i a_i^2 / S_i / sum_i a_i.
    """
    n_draws = weighted.shape[3]
    if twice is None or stands_for is None:
        variance = (weighted.var(dim=3) / n_draws).sum(dim=-1)
        one_draw = (at_stake.square() / n_draws).sum(dim=-1)
    else:
        per_row = 1 / n_draws + stands_for
        variance = (weighted[..., twice].var(dim=3) * per_row).sum(dim=-1)
        one_draw = (at_stake[..., twice].square() * per_row).sum(dim=-1)
    return (variance + (one_draw / at_stake.sum(dim=-1).clamp_min(1e-300)).square()).sqrt()


def _outside_per_inside(copies: Float[Tensor, " row"], n_samples: int) -> Float[Tensor, " row"]:
    """Return how many rows of its kind are outside a random half of the samples for each one inside.

    A row of k samples is outside with probability C(N - k, N/2) / C(N, N/2) (Horvitz and Thompson).
    """
    half = torch.tensor(float(n_samples // 2), dtype=torch.float64)
    n = torch.tensor(float(n_samples), dtype=torch.float64)
    k = copies.double().round().clamp_max(float(n - half))
    outside = (
        (n - k + 1).lgamma() - (n - k - half + 1).lgamma() - (n + 1).lgamma() + (n - half + 1).lgamma()
    ).exp()
    return outside / (1 - outside)


def _distinct_joint_rows(
    x: Float[Tensor, "sample d_x"], y: Float[Tensor, "sample d_y"]
) -> tuple[Int[Tensor, " sample"], Int[Tensor, " row"]]:
    """Return which distinct (x, y) row each sample has, and one sample of each."""
    joint = torch.cat([x, y], dim=1)
    _, inverse = torch.unique(joint, dim=0, return_inverse=True)
    first = torch.full((int(inverse.max()) + 1,), len(x), dtype=torch.int64, device=x.device)
    first.scatter_reduce_(0, inverse, torch.arange(len(x), device=x.device), reduce="amin")
    return inverse.cpu(), first


def _same_width(
    x: Float[Tensor, "row d_x"], y: Float[Tensor, "row d_y"]
) -> tuple[Float[Tensor, "row d"], Float[Tensor, "row d"]]:
    """Pad the narrower matrix with zero columns: distances, and so the densities, do not change."""
    width = max(x.shape[1], y.shape[1])
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return tuple(  # type: ignore[return-value]
        torch.nn.functional.pad(m.to(dtype), (0, width - m.shape[1])) for m in (x, y)
    )
