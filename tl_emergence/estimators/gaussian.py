"""Linear-Gaussian information: how many bits a Gaussian model of the two states sees."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.errors import SettingError, StateError
from tl_emergence.estimators.components import (
    check_noisy_components,
    noise_like,
    noisy_components,
    principal_components,
)
from tl_emergence.estimators.folds import copied_pairs, first_of_each, without_copies
from tl_emergence.estimators.interface import ChainEstimate, Estimate, StateChain, generator_for
from tl_emergence.estimators.jackknife import BLOCKS, blocks_of, jackknife_stderr


@dataclass(frozen=True)
class GaussianEstimator:
    """The mutual information of two states as if they were jointly Gaussian.

    From the sample covariances S of x and y, p and q dimensions, N rows,

        I = 1/2 [ ln|S_xx| + ln|S_yy| - ln|S| ] - 1/2 [ c(p) + c(q) - c(p + q) ],
        c(k) = sum_{i<k} psi((N - 1 - i) / 2) - k ln((N - 1) / 2),

    in bits. The first term is biased upward; the digamma terms of the Wishart log-determinant remove that
    exactly for Gaussian rows in fixed coordinates, approximately after a choice of components made on the
    same rows. x and y are their leading principal components, with noise of size sigma added as a seeded
    draw: without it the information of states that determine each other is infinite. The standard error is
    that of the delete-block jackknife over rows (20 blocks), but no less than that of independent Gaussians,
    sqrt(2 p q) / 2 N nats: near independence I is quadratic in the correlations and the jackknife too small.

    Copies of one pair of rows (`copied_pairs`; in a chain, of one prompt) count once: they are no further
    samples, and the corrections are for N distinct ones.

    It sees linear dependence only, and is no bound of the mutual information of states that are not
    Gaussian. It may fall below 0 by its error.

    Cost: an eigendecomposition of min(N, d) dimensions a state and series.
    """

    name: str = "gaussian"
    measures: str = "how many bits a Gaussian model of the states sees: linear dependence only"
    null_means: str = "0, up to its error"
    default_sigma: float = 0.0
    default_emergence_sigma: float = 0.5
    options: tuple[str, ...] = ("components",)

    def check(self, sigmas: Sequence[float], options: Mapping[str, Any]) -> None:
        """Raise SettingError for a sigma below 0 or fewer than one component."""
        check_noisy_components(sigmas, options.get("components"))

    def pair(
        self,
        x: Float[Tensor, "sample d_x"],
        y: Float[Tensor, "sample d_y"],
        *,
        sigma: float,
        seed: int = 0,
        components: int | None = None,
    ) -> Estimate:
        """Estimate I(x; y) for paired rows; all components unless some are asked for."""
        n = len(x)
        first = first_of_each(copied_pairs(x, y))
        x, y = x[first], y[first]
        weights = torch.full((len(x),), 1 / len(x), dtype=torch.float64)
        parts = [principal_components(m, weights, components) for m in (x, y)]
        sides = ("x", "y")
        features = [
            part.rows + sigma * noise_like(part.rows, seed, "pair", side)
            for part, side in zip(parts, sides, strict=True)
        ]
        settings = {
            "estimator": self.name,
            "sigma": sigma,
            "seed": seed,
            "repeated_rows": n - len(x),
            **{f"components_{side}": p.rows.shape[1] for side, p in zip(sides, parts, strict=True)},
            **{f"rank_{side}": p.rank for side, p in zip(sides, parts, strict=True)},
            **{f"variance_share_{side}": p.share for side, p in zip(sides, parts, strict=True)},
        }
        if 0 in (parts[0].rank, parts[1].rank):
            return Estimate(0.0, 0.0, None, False, "none", settings=settings)
        of_x, of_y = features
        bits, replicates = information(of_x, of_y, blocks_of(torch.arange(len(x)), seed).to(x.device))
        least = null_stderr(of_x.shape[1], of_y.shape[1], len(x))
        stderr = max(float(jackknife_stderr(replicates)), least)
        return Estimate(float(bits), stderr, None, False, "none", settings=settings)

    def chain(
        self,
        chain: StateChain,
        *,
        sigmas: Sequence[float],
        seed: int = 0,
        components: int | None = 64,
    ) -> ChainEstimate:
        """Estimate every scored pair of a chain at every sigma, for every series, and for its N/2 and N/4."""
        self.check(sigmas, {"components": components})
        chain, _ = without_copies(chain)
        n_series, n = chain.rows.shape
        blocks = blocks_of(torch.arange(n), seed)
        width = min(chain.states[0].shape[1], components or n)
        sizes = [size for size in (n // 2, n // 4) if 2 * width < fewest_left(size) - 1]
        order = torch.randperm(n, generator=generator_for(seed, "subsample"), device="cpu")
        shape = (len(sigmas), len(chain.pairs), n_series)
        bits = torch.zeros(shape, dtype=torch.float64)
        replicates = torch.zeros(*shape, int(blocks.max()) + 1, dtype=torch.float64)
        least = torch.zeros(shape, dtype=torch.float64)
        subsamples = {size: torch.zeros(shape, dtype=torch.float64) for size in sizes}
        for t, rows in enumerate(chain.rows):
            for s, features in enumerate(noisy_components(chain, t, rows, sigmas, seed, components)):
                for k, (i, j) in enumerate(chain.pairs):
                    x, y = features[i], features[j]
                    if 0 in (x.shape[1], y.shape[1]):
                        continue  # a constant state: exactly 0
                    bits[s, k, t], replicates[s, k, t] = information(x, y, blocks)
                    least[s, k, t] = null_stderr(x.shape[1], y.shape[1], n)
                    for size, found in subsamples.items():
                        some = order[:size]
                        found[s, k, t] = information(x[some], y[some], blocks_of(torch.arange(size), seed))[0]
        counts = torch.arange(1, n_series + 1, dtype=torch.float64)[:, None]
        return ChainEstimate(
            bits=bits,
            stderr=torch.maximum(jackknife_stderr(replicates), least),
            mean_stderr=jackknife_stderr(replicates.cumsum(dim=2) / counts),
            cap_bits=None,
            direction="none",
            pointwise=None,
            subsamples=subsamples,
            closest=torch.tensor([collision(x) for x in chain.states], dtype=torch.float64),
            replicates=replicates,
            settings={"estimator": self.name, "components": components},
        )


def information(
    x: Float[Tensor, "sample p"],
    y: Float[Tensor, "sample q"],
    blocks: Int[Tensor, " sample"],
) -> tuple[Float[Tensor, ""], Float[Tensor, " block"]]:
    """Return the corrected Gaussian information in bits, and what it is without each block of rows.

    Raises:
        SettingError: p + q >= n - 1, n the rows without a block: a joint covariance would be singular.
        StateError: A singular joint covariance all the same: the information would be infinite.
    """
    runs = joint_scatter([x, y], blocks).information(0, 1)
    return runs[0], runs[1:]


@dataclass(frozen=True, eq=False)
class JointScatter:
    """Scatter matrices of several variables side by side, from which any two have their information.

    Attributes:
        scatter: Of all rows (run 0), and without one block of rows each.
        left: How many rows each run has.
        ends: Where each variable's dimensions end.
    """

    scatter: Float[Tensor, "run d d"]
    left: Float[Tensor, " run"]
    ends: tuple[int, ...]

    def information(self, i: int, j: int) -> Float[Tensor, " run"]:
        """Return the corrected Gaussian information of variables i and j in bits, in every run.

        Raises:
            SettingError: p + q >= n - 1, n the rows without a block: a joint covariance would be singular.
            StateError: A singular joint covariance all the same: the information would be infinite.
        """
        n, (of_x, of_y) = int(self.left.min()), (self._dimensions(i), self._dimensions(j))
        p, q = len(of_x), len(of_y)
        if p + q >= n - 1:
            raise SettingError(
                "too few rows for a Gaussian model",
                seen=f"{p} + {q} dimensions and {int(self.left[0])} rows, {n} without a block of them",
                expected=f"fewer than {n - 1} dimensions together",
                fix=f"Pass more rows, or components= of at most {(n - 2) // 2}."
                if n >= 4
                else "Pass more rows: 5 or more.",
            )
        both = torch.cat([of_x, of_y])
        scatter = self.scatter[:, both[:, None], both]
        log_dets = [_log_det(scatter[:, a:b, a:b]) for a, b in ((0, p), (p, p + q), (0, p + q))]
        if not bool(torch.isfinite(log_dets[2]).all()):
            raise StateError(
                "states that determine each other",
                seen="a singular joint covariance: their Gaussian information is infinite",
                expected="states with noise between them",
                fix="Pass sigma= above 0, a noise floor, or fewer components.",
            )
        # (N - 1) cancels between the log-determinants and the corrections: scatter matrices will do.
        bias = _wishart(p, self.left) + _wishart(q, self.left) - _wishart(p + q, self.left)
        return (log_dets[0] + log_dets[1] - log_dets[2] - bias) / (2 * math.log(2))

    def width(self, i: int) -> int:
        """Return how many dimensions a variable has."""
        return len(self._dimensions(i))

    def _dimensions(self, i: int) -> Int[Tensor, " dimension"]:
        return torch.arange(self.ends[i - 1] if i > 0 else 0, self.ends[i], device=self.scatter.device)


def joint_scatter(
    variables: Sequence[Float[Tensor, "sample _d"]], blocks: Int[Tensor, " sample"]
) -> JointScatter:
    """Return the scatter matrices of variables of the same rows, whole and without each block.

    Cost: N D^2 for D dimensions together.
    """
    joint = torch.cat(list(variables), dim=1).double()
    joint = joint - joint.mean(dim=0)
    parts = [joint[blocks == b] for b in range(int(blocks.max()) + 1)]
    sums = torch.stack([part.sum(dim=0) for part in parts])
    squares = torch.stack([part.t() @ part for part in parts])
    counts = torch.tensor([len(part) for part in parts], dtype=torch.float64, device=joint.device)
    total = squares.sum(dim=0)
    # Row 0 is the whole sample, the others leave one block out.
    scatter = torch.cat([total[None], total - squares])
    mean = torch.cat([torch.zeros_like(sums[:1]), -sums])
    left = torch.cat([counts.new_tensor([float(len(joint))]), len(joint) - counts])
    scatter = scatter - mean[:, :, None] * mean[:, None, :] / left[:, None, None]
    ends = torch.tensor([variable.shape[1] for variable in variables]).cumsum(0)
    return JointScatter(scatter, left, tuple(ends.tolist()))


def fewest_left(n: int) -> int:
    """Return how many of n rows are left without the largest of their jackknife blocks.

    Example:
        >>> fewest_left(2048), fewest_left(10), fewest_left(0)
        (1945, 9, 0)
    """
    if n == 0:
        return 0
    return n - math.ceil(n / min(BLOCKS, n))


def null_stderr(p: int, q: int, n: int) -> float:
    """Return the standard error in bits for independent Gaussians: 2 N I is chi-squared of p q degrees."""
    return math.sqrt(2 * p * q) / (2 * n * math.log(2))


def _wishart(k: int, n: Float[Tensor, " sample_size"]) -> Float[Tensor, " sample_size"]:
    """Return sum_{i<k} psi((n - 1 - i) / 2)."""
    i = torch.arange(k, dtype=torch.float64, device=n.device)
    return torch.special.digamma((n[:, None] - 1 - i) / 2).sum(dim=1)


def _log_det(a: Float[Tensor, "batch k k"]) -> Float[Tensor, " batch"]:
    """Return ln|A| of scatter matrices; minus infinity where one is singular, up to rounding."""
    scale = a.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300).sqrt()
    factor, failed = torch.linalg.cholesky_ex(a / scale[:, :, None] / scale[:, None, :])
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    singular = (failed != 0) | (pivots.min(dim=-1).values < 1e-6)
    return torch.where(singular, -math.inf, 2 * (pivots.log().sum(dim=-1) + scale.log().sum(dim=-1)))


def collision(x: Float[Tensor, "row d"]) -> float:
    """Return 0 if two rows are the same, else NaN: no distances are computed here."""
    return 0.0 if len(x.unique(dim=0)) < len(x) else math.nan
