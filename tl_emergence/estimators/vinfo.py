"""Usable information: how many bits of one state a linear predictor gets out of the other, held out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.checks import integer
from tl_emergence.errors import SettingError, StateError
from tl_emergence.estimators.components import (
    check_noisy_components,
    noise_like,
    noisy_components,
    principal_components,
)
from tl_emergence.estimators.folds import check_distinct, copied_pairs, first_of_each, without_copies
from tl_emergence.estimators.gaussian import collision
from tl_emergence.estimators.interface import ChainEstimate, Estimate, StateChain, generator_for
from tl_emergence.estimators.jackknife import BLOCKS, blocks_of, jackknife_stderr

FOLDS = 5

# From no shrinkage to complete, in units of the variance of a standardised component.
_STRENGTHS = torch.logspace(-8, 3, 23, dtype=torch.float64)
_NULL_SPREADS = 3.0
_SMALLEST_PIVOT = 1e-6


@dataclass(frozen=True)
class VinfoEstimator:
    """Usable information from x to y for linear predictors with Gaussian residuals (arXiv 2002.10689).

    The predictive V-information (Xu et al., definition 2) of the family V of Gaussians N(a + B x, S), B by
    ridge regression, on rows that the predictor has not seen, in bits:

        I_V(x -> y) = mean_i [ log2 N(y_i; a + B x_i, S) - log2 N(y_i; a_0, S_0) ],

    with a_0 and S_0 the mean and covariance of y, the predictor without input. Rows are cut into folds, each
    held out once and predicted from the others; the baseline is fitted on the same training rows, and scored
    on the same held-out ones. Everything is chosen on training rows:

    * x and y are standardised; y is predicted component by component, each with the ridge strength of the
      least generalised cross-validation (Golub, Heath and Wahba 1979).
    * S and S_0 are the second moments of leave-one-out residuals, in closed form. Neither is shrunk: what a
      covariance of few rows costs is the same on both sides.
    * x is used at all only where Wilks' test finds it related to y: where ln |S_0| / |S| of least squares
      exceeds its mean under independence by 3 spreads, both exact for Gaussian rows. Else the predictor is
      the baseline and the gain exactly 0; coefficients of nothing would take it below.

    x and y are leading principal components with noise of size sigma added as a seeded draw, as in
    `gaussian`, from the same draws. The components are those of all rows: that fixes what is predicted, and
    pairs of x and y, which alone carry information, have no part in it.

    It is directional, and no bound: a Gaussian baseline describes y badly when y is not Gaussian, which adds;
    a predictor from few rows is not the best of V, which takes away. It is blind to the scale of directions,
    as long as they stand out of the noise. The standard error is that of the delete-block jackknife over the
    held-out rows, predictors held fixed; folds are unions of its blocks. Of copies of one pair of rows
    (`copied_pairs`; in a chain, of one prompt) one is measured, and its value counts as often as there are
    copies: no copy of what is held out is trained on.

    Cost: an eigendecomposition of min(N, d) dimensions a state and series; for each pair and fold about
    10 N k^2 operations for k components.
    """

    name: str = "vinfo"
    measures: str = "how many bits a linear predictor gets from one state about the next, held out"
    null_means: str = "0, up to its error"
    default_sigma: float = 0.0
    default_emergence_sigma: float = 0.5
    options: tuple[str, ...] = ("components", "folds")

    def check(self, sigmas: Sequence[float], options: Mapping[str, Any]) -> None:
        """Raise SettingError for a sigma below 0, fewer than one component, folds out of range."""
        check_noisy_components(sigmas, options.get("components"))
        if "folds" in options:
            check_folds(options["folds"])

    def pair(
        self,
        x: Float[Tensor, "sample d_x"],
        y: Float[Tensor, "sample d_y"],
        *,
        sigma: float,
        seed: int = 0,
        components: int | None = None,
        folds: int = FOLDS,
    ) -> Estimate:
        """Estimate what x tells a linear predictor about y; all components unless some are asked for."""
        copy_of = copied_pairs(x, y)
        first = first_of_each(copy_of)
        repeated = len(x) - len(first)
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
            "folds": folds,
            "repeated_rows": repeated,
            **{f"components_{side}": p.rows.shape[1] for side, p in zip(sides, parts, strict=True)},
            **{f"rank_{side}": p.rank for side, p in zip(sides, parts, strict=True)},
            **{f"variance_share_{side}": p.share for side, p in zip(sides, parts, strict=True)},
        }
        if 0 in (parts[0].rank, parts[1].rank):
            return Estimate(0.0, 0.0, None, False, "none", settings=settings)
        check_distinct(len(x), len(copy_of), folds)
        blocks = blocks_of(torch.arange(len(x)), seed).to(x.device)
        of_x, of_y = features
        pointwise = held_out_bits(of_x, of_y, blocks % folds)[copy_of]
        blocks = blocks[copy_of]
        stderr = float(jackknife_stderr(means_without_blocks(pointwise, blocks)))
        bits = float(pointwise.mean())
        return Estimate(bits, stderr, None, False, "none", pointwise=pointwise.float(), settings=settings)

    def chain(
        self,
        chain: StateChain,
        *,
        sigmas: Sequence[float],
        seed: int = 0,
        components: int | None = 64,
        folds: int = FOLDS,
    ) -> ChainEstimate:
        """Estimate every scored pair of a chain at every sigma, for every series, and for its N/2 and N/4."""
        self.check(sigmas, {"components": components, "folds": folds})
        chain, copy_of = without_copies(chain, folds)
        n_series, n = chain.rows.shape
        blocks = blocks_of(torch.arange(n), seed)
        width = min(chain.states[0].shape[1], components or n)
        order = torch.randperm(n, generator=generator_for(seed, "subsample"), device="cpu")
        parts = {size: blocks_of(torch.arange(size), seed) for size in (n // 2, n // 4) if size > 1}
        parts = {size: part for size, part in parts.items() if 2 * width < _least_training(part % folds) - 1}
        shape = (len(sigmas), len(chain.pairs), n_series)
        pointwise = torch.zeros(*shape, n, dtype=torch.float64)
        subsamples = {size: torch.zeros(shape, dtype=torch.float64) for size in parts}
        for t, rows in enumerate(chain.rows):
            for s, features in enumerate(noisy_components(chain, t, rows, sigmas, seed, components)):
                for k, (i, j) in enumerate(chain.pairs):
                    x, y = features[i], features[j]
                    if 0 in (x.shape[1], y.shape[1]):
                        continue  # a constant state: exactly 0
                    pointwise[s, k, t] = held_out_bits(x, y, blocks % folds)
                    for size, part in parts.items():
                        some = order[:size]
                        subsamples[size][s, k, t] = held_out_bits(x[some], y[some], part % folds).mean()
        pointwise = pointwise[..., copy_of]
        replicates = means_without_blocks(pointwise, blocks[copy_of])
        counts = torch.arange(1, n_series + 1, dtype=torch.float64)[:, None]
        return ChainEstimate(
            bits=pointwise.mean(dim=3),
            stderr=jackknife_stderr(replicates),
            mean_stderr=jackknife_stderr(replicates.cumsum(dim=2) / counts),
            cap_bits=None,
            direction="none",
            pointwise=pointwise.float(),
            subsamples=subsamples,
            closest=torch.tensor([collision(x) for x in chain.states], dtype=torch.float64),
            replicates=replicates,
            settings={"estimator": self.name, "components": components, "folds": folds},
        )


def check_folds(folds: Any) -> int:
    """Return the number of folds, from 2 to the number of jackknife blocks, of which folds are made.

    Raises:
        SettingError: Fewer or more.
    """
    found = integer("folds", folds, least=2)
    if found > BLOCKS:
        raise SettingError(
            "folds out of range", seen=found, expected=f"2 to {BLOCKS}", fix=f"Pass folds={FOLDS}."
        )
    return found


def held_out_bits(
    x: Float[Tensor, "sample p"], y: Float[Tensor, "sample q"], folds: Int[Tensor, " sample"]
) -> Float[Tensor, " sample"]:
    """Return log2 of what x adds to the density of each y, from predictors that have not seen the row.

    Raises:
        SettingError: p + q >= M - 1, with M the fewest training rows.
        StateError: A y whose covariance, given x or not, is singular: the bits would be infinite.

    Example:
        >>> import torch
        >>> x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
        >>> y = x + x.flip(0)  # correlation 0.71: half a bit
        >>> round(float(held_out_bits(x, y, torch.arange(200) % 5).mean()), 1)
        0.5
    """
    p, q, fewest = x.shape[1], y.shape[1], _least_training(folds)
    if p + q >= fewest - 1:
        raise SettingError(
            "too few rows for held-out prediction",
            seen=f"{p} + {q} dimensions and {fewest} of {len(x)} rows to train on",
            expected=f"fewer than {max(0, fewest - 1)} dimensions together",
            fix=f"Pass more rows, or components= of at most {max(1, (fewest - 2) // 2)}.",
        )
    x, y = x.double(), y.double()
    bits = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for fold in folds.unique():
        held = folds == fold
        bits[held] = _fit(x[~held], y[~held]).gain(x[held], y[held])
    return bits


def means_without_blocks(
    pointwise: Float[Tensor, "*cell sample"], blocks: Int[Tensor, " sample"]
) -> Float[Tensor, "*cell block"]:
    """Return the mean over samples without each block of them.

    Example:
        >>> import torch
        >>> means_without_blocks(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0, 0, 1]))
        tensor([6.0000, 1.5000])
    """
    member = torch.nn.functional.one_hot(blocks).to(pointwise)
    left = len(blocks) - member.sum(dim=0)
    return (pointwise.sum(dim=-1, keepdim=True) - pointwise @ member) / left


@dataclass(frozen=True, eq=False)
class _LinearGaussian:
    """A predictor N(B x, S) of standardised components, and its baseline N(0, S_0), as Cholesky factors."""

    of_x: tuple[Tensor, Tensor]  # mean and scale
    of_y: tuple[Tensor, Tensor]
    coefficients: Float[Tensor, "p q"]
    residual: Float[Tensor, "q q"]
    baseline: Float[Tensor, "q q"]

    def gain(self, x: Float[Tensor, "row p"], y: Float[Tensor, "row q"]) -> Float[Tensor, " row"]:
        """Return log2 of predicted over baseline density, row by row."""
        x = (x - self.of_x[0]) / self.of_x[1]
        y = (y - self.of_y[0]) / self.of_y[1]
        nats = _log_density(y - x @ self.coefficients, self.residual) - _log_density(y, self.baseline)
        return nats / math.log(2)


def _fit(x: Float[Tensor, "row p"], y: Float[Tensor, "row q"]) -> _LinearGaussian:
    """Fit predictor and baseline to training rows."""
    n = len(x)
    of_x, of_y = _mean_and_scale(x), _mean_and_scale(y)
    x, y = (x - of_x[0]) / of_x[1], (y - of_y[0]) / of_y[1]
    variances, directions = torch.linalg.eigh(x.t() @ x)
    kept = variances > variances[-1] * n * torch.finfo(torch.float64).eps
    variances, directions = variances[kept], directions[:, kept]
    to_left = directions / variances.sqrt()
    left = x @ to_left
    on_left = left.t() @ y
    alone = y * (n / (n - 1))
    baseline = _factor(alone.t() @ alone / n)
    if not _related(y.t() @ y, on_left.t() @ on_left, n, len(variances)):
        return _LinearGaussian(of_x, of_y, x.new_zeros(x.shape[1], y.shape[1]), baseline, baseline)
    kept_share = _ridge_shares(variances, on_left, y.square().sum(dim=0), n)
    leverage = 1 / n + left.square() @ kept_share
    residuals = (y - left @ (kept_share * on_left)) / (1 - leverage).clamp_min(1e-12)
    return _LinearGaussian(
        of_x, of_y, to_left @ (kept_share * on_left), _factor(residuals.t() @ residuals / n), baseline
    )


def _related(total: Float[Tensor, "q q"], explained: Float[Tensor, "q q"], n: int, p: int) -> bool:
    """Return whether Wilks' ln |total| / |total - explained| is beyond what independent rows give.

    For Gaussian rows it is minus the log of a product of q independent Beta((n - p - i) / 2, p / 2)
    variables, i = 1..q (Anderson, An Introduction to Multivariate Statistical Analysis, section 8.4).
    """
    found = torch.linalg.slogdet(total).logabsdet - torch.linalg.slogdet(total - explained).logabsdet
    a = (n - p - torch.arange(1, len(total) + 1, dtype=torch.float64, device=total.device)) / 2
    b = a + p / 2
    mean = (torch.special.digamma(b) - torch.special.digamma(a)).sum()
    variance = (torch.special.polygamma(1, a) - torch.special.polygamma(1, b)).sum()
    return not bool(found <= mean + _NULL_SPREADS * variance.sqrt())


def _ridge_shares(
    variances: Float[Tensor, " direction"],
    on_left: Float[Tensor, "direction q"],
    energy: Float[Tensor, " q"],
    n: int,
) -> Float[Tensor, "direction q"]:
    """Return v / (v + n strength) for the strength of least generalised cross-validation, for each y."""
    shares = variances / (variances + n * _STRENGTHS.to(variances.device)[:, None])
    left_over = energy - (2 * shares - shares.square()) @ on_left.square()
    freedom = 1 - (1 + shares.sum(dim=1)) / n
    return shares[(left_over / freedom.square()[:, None]).argmin(dim=0)].t()


def _mean_and_scale(x: Float[Tensor, "row k"]) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
    scale = x.std(dim=0)
    return x.mean(dim=0), torch.where(scale > 0, scale, 1.0)


def _factor(covariance: Float[Tensor, "q q"]) -> Float[Tensor, "q q"]:
    """Return the Cholesky factor of a covariance in standardised components."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if bool(failed) or not bool(factor.diagonal().min() > _SMALLEST_PIVOT):
        raise StateError(
            "states that determine each other",
            seen="a singular covariance on training rows: the usable information is infinite",
            expected="states with noise between them",
            fix="Pass sigma= above 0, a noise floor, or fewer components.",
        )
    return factor


def _log_density(rows: Float[Tensor, "row q"], factor: Float[Tensor, "q q"]) -> Float[Tensor, " row"]:
    """Return ln N(row; 0, L L^T), up to the constant."""
    z = torch.linalg.solve_triangular(factor, rows.t(), upper=False)
    return -z.square().sum(dim=0) / 2 - factor.diagonal().log().sum()


def _least_training(folds: Int[Tensor, " sample"]) -> int:
    """Return how many rows are left to train on without the largest fold."""
    return len(folds) - int(torch.bincount(folds).max())
