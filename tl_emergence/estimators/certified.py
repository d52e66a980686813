"""A lower confidence limit of mutual information that holds whatever the critic is."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

CONFIDENCE = 0.95
BLOCK = 4
_CEILINGS = torch.linspace(0.5, 7.0, 27)
_SCALES = (0.5, 0.7, 1.0)
_FLOOR = -3.0
_LARGEST_BET = 0.5


def certified_nats(
    at_stop: Float[Tensor, "stop stop"],
    at_report: Float[Tensor, "report report"],
    against: Float[Tensor, "report stop"],
    error: float,
) -> float:
    """Return a number that is above I(X; Y) with at most the given probability, in nats; never below 0.

    For every function T (Nguyen, Wainwright and Jordan, arXiv 0809.0853, in the form of Poole et al.,
    arXiv 1905.06922, equation 6, with T + 1 for T),

        I >= E T(x, y) + 1 - E e^T(x, y'),        y' independent of x.

    T is the critic minus ln of its mean over the y of the stopping rows, clipped; clips and scale are those
    that promise most on the stopping rows. Both means are bounded on the report rows, which the critic has
    not seen: that of T over their pairs from below, that of e^T from above over blocks of four rows, the
    mean of the 12 pairs x_i, y_j with i != j in a block being one independent term. The bounds are those of
    `mean_limit`; the error is split over both, so the terms of one need not be independent of the other's.

    Args:
        at_stop: Logits of the stopping rows, x by y.
        at_report: Logits of the report rows, x by y.
        against: Logits of the x of the report rows and the y of the stopping rows.
        error: The probability to be wrong, for independent rows in random order.
    """
    n_stop, n_report = len(at_stop), len(at_report)
    others = ~torch.eye(n_stop, dtype=torch.bool, device=at_stop.device)
    best = (0.0, 1.0, 1.0)
    for scale in _SCALES:
        logits = scale * at_stop
        t = logits - (logits.logsumexp(dim=1, keepdim=True) - math.log(n_stop))
        for ceiling in _CEILINGS.tolist():
            joint = t.diagonal().clamp(_FLOOR, ceiling)
            apart = t.clamp(_FLOOR, ceiling)[others].exp()
            promised = joint.mean() + 1 - apart.mean()
            promised -= _promised_gap(joint, ceiling - _FLOOR, error / 2, n_report, 1)
            promised -= _promised_gap(apart, math.exp(ceiling), error / 2, n_report, BLOCK - 1)
            if float(promised) > best[0]:
                best = (float(promised), scale, ceiling)
    _, scale, ceiling = best
    level = (scale * against).logsumexp(dim=1, keepdim=True) - math.log(n_stop)
    t = (scale * at_report - level).clamp(_FLOOR, ceiling)
    joint = (t.diagonal() - _FLOOR) / (ceiling - _FLOOR)
    whole = n_report // BLOCK
    blocks = (
        t[: whole * BLOCK, : whole * BLOCK].exp().unflatten(0, (whole, BLOCK)).unflatten(2, (whole, BLOCK))
    )
    of_block = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    apart = of_block[:, ~torch.eye(BLOCK, dtype=torch.bool, device=t.device)].mean(dim=1)
    least = mean_limit(joint.double(), error / 2) * (ceiling - _FLOOR) + _FLOOR
    most = -mean_limit(1 - apart.double() * math.exp(-ceiling), error / 2) + 1
    return max(0.0, least + 1 - most * math.exp(ceiling))


def mean_limit(values: Float[Tensor, " sample"], error: float) -> float:
    """Return a lower confidence limit of the mean of independent draws from [0, 1], in their order.

    The predictable plug-in empirical-Bernstein bound (Waudby-Smith and Ramdas, arXiv 2010.09686, theorem 2,
    one side):

        sum l_i X_i / sum l_i - ( ln(1 / error) + sum (X_i - m_{i-1})^2 psi(l_i) ) / sum l_i,
        psi(l) = -ln(1 - l) - l,

    with l_i from the mean m and variance of what came before.

    Example:
        >>> import torch
        >>> coin = torch.tensor([0.0, 1.0], dtype=torch.float64).repeat(500)
        >>> 0.44 < mean_limit(coin, 0.05) < 0.5
        True
    """
    n = len(values)
    count = torch.arange(1, n + 1, dtype=values.dtype, device=values.device)
    mean = (0.5 + values.cumsum(dim=0)) / (count + 1)
    variance = (0.25 + (values - mean).square().cumsum(dim=0)) / (count + 1)
    mean_before = torch.cat([mean.new_tensor([0.5]), mean[:-1]])
    variance_before = torch.cat([mean.new_tensor([0.25]), variance[:-1]])
    bets = (2 * math.log(1 / error) / (n * variance_before)).sqrt().clamp_max(_LARGEST_BET)
    cost = (values - mean_before).square() * (-torch.log1p(-bets) - bets)
    return float(((bets * values).sum() - math.log(1 / error) - cost.sum()) / bets.sum())


def _promised_gap(
    values: Float[Tensor, " some"], span: float, error: float, n: int, pairs: int
) -> Float[Tensor, ""]:
    """Return about how far below the mean the limit will lie: Bernstein's, for means of so many pairs."""
    odds = math.log(1 / error)
    return (2 * values.var() * odds / (n * pairs)).sqrt() + span * (pairs + 1) * odds / (2 * n)
