"""Principal components of weighted rows, with their rank, and the same with a noise floor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.checks import LEAST, MOST, in_range, integer
from tl_emergence.errors import SettingError
from tl_emergence.estimators.interface import StateChain, generator_for


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """Rows in the coordinates of their leading principal components.

    Attributes:
        rows: The rows, centred on their weighted mean; components in order of falling variance.
        rank: How many components have any variance, up to rounding.
        share: The share of the variance that the components kept hold; 1 for constant rows.
        variances: The variances of all components, kept or not: eigenvalues of the covariance, falling.
    """

    rows: Float[Tensor, "row component"]
    rank: int
    share: float
    variances: Float[Tensor, " direction"]


def principal_components(
    x: Float[Tensor, "row d"], weights: Float[Tensor, " row"], most: int | None
) -> PrincipalComponents:
    """Return the leading components of weighted rows: at most `most`, and no more than their rank.

    Constant and dependent columns cost nothing and change nothing: they lower the rank. All in float64.

    Cost: an eigendecomposition of min(row, d) dimensions.

    Example:
        >>> import torch
        >>> x = torch.tensor([[3.0, 3.0, 1.0], [-3.0, -3.0, 1.0], [0.0, 0.0, 1.0]])
        >>> found = principal_components(x, torch.full((3,), 1 / 3), None)
        >>> found.rank, found.rows.abs().round(decimals=3).flatten().tolist()
        (1, [4.243, 4.243, 0.0])
    """
    x, w = x.double(), weights.to(x.device, torch.float64)
    used = x[w > 0]
    if bool((used == used[:1]).all()):  # asked exactly: centring would leave rounding errors
        return PrincipalComponents(x.new_zeros(len(x), 0), 0, 1.0, x.new_zeros(min(x.shape)))
    centred = x - w @ x
    scaled = centred * w.sqrt()[:, None]
    if x.shape[0] < x.shape[1]:
        variances, left = torch.linalg.eigh(scaled @ scaled.t())
        directions = scaled.t() @ left / variances.clamp_min(1e-300).sqrt()
    else:
        variances, directions = torch.linalg.eigh(scaled.t() @ scaled)
    variances, directions = variances.flip(0).clamp_min(0.0), directions.flip(1)
    # Above the rounding of the eigenvalues, and of float32 values in columns that depend on each other.
    smallest = float(variances[0]) * max(4 * min(x.shape) * torch.finfo(torch.float64).eps, 1e-14)
    rank = int((variances > smallest).sum())
    kept = rank if most is None else min(rank, most)
    share = float(variances[:kept].sum() / variances.sum())
    return PrincipalComponents(centred @ directions[:, :kept], rank, share, variances)


def check_noisy_components(sigmas: Sequence[float], components: Any) -> None:
    """Raise SettingError for a noise floor below 0, or fewer than one component."""
    wrong = [sigma for sigma in sigmas if not (sigma >= 0 and in_range(sigma))]
    if wrong:
        raise SettingError(
            "sigma out of range",
            seen=wrong,
            expected=f"0, or between {LEAST:g} and {MOST:g}",
            fix="Pass the size of the noise floor, or 0 for none.",
        )
    if components is not None:
        integer("components", components, least=1)


def noise_like(
    rows: Float[Tensor, "sample component"], seed: int, *label: object
) -> Float[Tensor, "sample component"]:
    """Return standard normal draws for every sample and component, named by the label."""
    return torch.randn(*rows.shape, generator=generator_for(seed, "gaussian", *label), device="cpu").to(rows)


def noisy_components(
    chain: StateChain,
    t: int,
    rows: Int[Tensor, " sample"],
    sigmas: Sequence[float],
    seed: int,
    components: int | None,
) -> Iterator[list[Float[Tensor, "sample component"]]]:
    """Yield, for every sigma, the components of every state for the samples of a series, noise added.

    The draws are named by chain, series and state: estimators that read states this way see the same ones.
    """
    plain, noise = [], []
    for number, x in zip(chain.numbers, chain.states, strict=True):
        weights = torch.bincount(rows, minlength=len(x)).double() / len(rows)
        plain.append(principal_components(x, weights, components).rows[rows.to(x.device)].cpu())
        # Scaled, not redrawn, across sigmas; named by the state, whatever else is measured with it.
        noise.append(noise_like(plain[-1], seed, chain.name, t, number))
    for sigma in sigmas:
        yield [x + sigma * z for x, z in zip(plain, noise, strict=True)]
