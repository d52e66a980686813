"""Exact Shannon information of a finite set: entropies of identities, whatever the coordinates.

A transformer is deterministic and almost surely injective from prompts to states (arXiv 2510.15511), so
on a finite prompt set the information between two states is the entropy of what the earlier one
distinguishes. This is the ceiling of every other number in the package.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.errors import SettingError, StateError
from tl_emergence.estimators.interface import ChainEstimate, Estimate, StateChain
from tl_emergence.tensors import label_tensor
from tl_emergence.torch_state import with_torch_defaults

_PAIRWISE_UP_TO = 16_384


@with_torch_defaults
def entropy_bits(ids: Int[Tensor, " row"]) -> float:
    """Return the plug-in entropy H = log2 N - (1/N) sum_k n_k log2 n_k of identities, in bits.

    Counts are integers and N log2 N terms are summed in float64: exact to about 1e-12.

    Raises:
        StateError: No dense tensor of labels, or no row at all.

    Example:
        >>> import torch
        >>> entropy_bits(torch.tensor([0, 1, 2, 2]))
        1.5
    """
    ids = label_tensor("ids", ids, "row")
    if len(ids) == 0:
        raise StateError("no rows", seen="an empty tensor", expected="one or more", fix="Pass identities.")
    counts = torch.unique(ids, return_counts=True)[1].to(torch.float64)
    n = len(ids)
    return math.log2(n) - float((counts * counts.log2()).sum()) / n


def shared_bits(ids_x: Int[Tensor, " row"], ids_y: Int[Tensor, " row"]) -> float:
    """Return the plug-in information H(x) + H(y) - H(x, y) of paired identities, in bits.

    Example:
        >>> import torch
        >>> shared_bits(torch.tensor([0, 0, 1, 1]), torch.tensor([5, 5, 7, 9]))
        1.0
    """
    joint = ids_x * (int(ids_y.max()) + 1) + ids_y
    return max(0.0, entropy_bits(ids_x) + entropy_bits(ids_y) - entropy_bits(joint))


@with_torch_defaults
def miller_madow_bits(ids: Int[Tensor, " row"]) -> float:
    """Estimate the entropy of the population behind a sample of identities, in bits.

    Plug-in entropy plus (K - 1) / (2 N ln 2), with K the identities seen (Miller 1955).

    Raises:
        SettingError: More than half of the rows are singletons: the sample says too little about the
            population for any correction.
        StateError: No dense tensor of labels, or no row at all.

    Example:
        >>> import torch
        >>> round(miller_madow_bits(torch.tensor([0, 0, 1, 1])), 4)
        1.1803
    """
    ids = label_tensor("ids", ids, "row")
    plug_in = entropy_bits(ids)
    counts = torch.unique(ids, return_counts=True)[1]
    singletons = int((counts == 1).sum())
    if 2 * singletons > len(ids):
        raise SettingError(
            "population entropy cannot be estimated",
            seen=f"{singletons} of {len(ids)} rows occur once",
            expected="at most half",
            fix="Draw more prompts, or use a prompt set whose population is known (demonstrations).",
        )
    return plug_in + (len(counts) - 1) / (2 * len(ids) * math.log(2))


def row_ids(x: Float[Tensor, "row d"]) -> Int[Tensor, " row"]:
    """Number the distinct rows of a matrix: rows are the same when every bit of their values is."""
    return torch.unique(x, dim=0, return_inverse=True)[1]


def closest_distance(x: Float[Tensor, "row d"]) -> float:
    """Return the smallest Euclidean distance between two rows: 0 if two are the same, inf for one row.

    NaN above 16,384 rows, if no two are the same: there only equality is looked for.

    Cost: N^2 d operations in float64, in chunks.

    Example:
        >>> import torch
        >>> closest_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        5.0
    """
    if len(x) < 2:
        return math.inf
    if len(x.unique(dim=0)) < len(x):
        return 0.0
    if len(x) > _PAIRWISE_UP_TO:
        return math.nan
    # Centred, and in float64: one massive dimension would drown small distances in rounding errors. The
    # matrix product only finds the pair; its distance is then computed by itself.
    x = x.cpu().double()
    x = x - x.mean(dim=0)
    norms = x.square().sum(dim=1)
    best, pair = math.inf, (0, 1)
    for start in range(0, len(x), 1024):
        chunk = slice(start, min(start + 1024, len(x)))
        gaps = norms[chunk, None] + norms - 2 * x[chunk] @ x.t()
        gaps.diagonal(start).fill_(math.inf)
        smallest, where = gaps.view(-1).min(dim=0)
        if float(smallest) < best:
            row, column = divmod(int(where), len(x))
            best, pair = float(smallest), (start + row, column)
    return float((x[pair[0]] - x[pair[1]]).norm())


@dataclass(frozen=True)
class ExactEstimator:
    """The `exact` estimator: H(x) + H(y) - H(x, y) of the identities of rows."""

    name: str = "exact"
    measures: str = "what a perfect estimator would say on this set: the ceiling, whatever the model"
    null_means: str = "not 0: a deranged finite set is still a bijection, log2 N for N distinct rows"
    default_sigma: float = 0.0
    default_emergence_sigma: float = 0.0
    options: tuple[str, ...] = ()

    def check(self, sigmas: Sequence[float], options: Mapping[str, Any]) -> None:
        """Raise SettingError for any noise."""
        for sigma in sigmas:
            _refuse_noise(sigma)

    def pair(
        self,
        x: Float[Tensor, "sample d_x"],
        y: Float[Tensor, "sample d_y"],
        *,
        sigma: float = 0.0,
        seed: int = 0,
    ) -> Estimate:
        """Return the information between the identities of the rows of x and those of y."""
        self.check((sigma,), {})
        ids_x, ids_y = row_ids(x), row_ids(y)
        bits = shared_bits(ids_x, ids_y)
        settings = {
            "estimator": self.name,
            "distinct_x": int(ids_x.max()) + 1,
            "distinct_y": int(ids_y.max()) + 1,
            "closest_x": closest_distance(x.unique(dim=0)),
            "closest_y": closest_distance(y.unique(dim=0)),
        }
        return Estimate(bits, 0.0, None, False, "exact", settings=settings, of_finite_set=True)

    def chain(self, chain: StateChain, *, sigmas: Sequence[float], seed: int = 0) -> ChainEstimate:
        """Return the information between the row identities of neighbouring states."""
        self.check(sigmas, {})
        ids = [row_ids(states) for states in chain.states]
        bits = torch.zeros(len(sigmas), len(chain.pairs), len(chain.rows), dtype=torch.float64)
        for k, (i, j) in enumerate(chain.pairs):
            for t, rows in enumerate(chain.rows):
                bits[:, k, t] = shared_bits(ids[i][rows], ids[j][rows])
        return ChainEstimate(
            bits=bits,
            stderr=torch.zeros_like(bits),
            mean_stderr=torch.zeros_like(bits),
            cap_bits=None,
            direction="exact",
            pointwise=None,
            subsamples={},
            closest=torch.tensor([closest_distance(x) for x in chain.states], dtype=torch.float64),
            settings={"estimator": self.name},
        )


def _refuse_noise(sigma: float) -> None:
    if sigma != 0.0:
        raise SettingError(
            "exact takes no noise",
            seen=f"sigma={sigma}",
            expected="sigma 0",
            fix="Use estimator='noise' for the information at a resolution sigma.",
        )
