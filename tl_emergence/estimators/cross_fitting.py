"""The error of a mean over held-out folds: rows and, from the outside, what was trained on other rows."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.estimators.jackknife import jackknife_stderr

TRAINING = 1.25
"""How much larger the error is than that of the rows alone: see `widened_for_training`."""

_ZERO_BITS = 1e-6


def widened_for_training(
    replicates: Float[Tensor, "*cell block"],
    pointwise: Float[Tensor, "*cell sample"],
    fold_of: Int[Tensor, " sample"],
) -> Float[Tensor, "*cell block"]:
    """Spread jackknife replicates about their mean, for the critics that other rows would have given.

    Replicates of held-out values hold the critics fixed: their jackknife gives s, the error of the rows
    that report. Critics differ between data sets too, and all folds share rows to train on, so that no
    unbiased estimate of their part exists (Bengio and Grandvalet, JMLR 5, 2004). The error is taken to be

        sqrt( (1.25 s)^2 + q (1 - q) m^2 ),

    with q the share of folds whose critic found anything beyond chance and m their mean: where some folds
    report exactly 0 and others do not, another data set could have tipped all of them. The factor is
    measured: `python -m benchmarks.nce_coverage` counts how often the intervals hold the mean estimate.

    Example:
        >>> values = torch.tensor([0.0, 2.0, 1.0, 3.0], dtype=torch.float64)
        >>> left_out = (values.sum() - values) / 3
        >>> wider = widened_for_training(left_out, values, torch.tensor([0, 0, 1, 1]))
        >>> round(float(jackknife_stderr(wider) / jackknife_stderr(left_out)), 6)
        1.25
    """
    member = torch.nn.functional.one_hot(fold_of.cpu()).to(pointwise)
    of_fold = pointwise @ member / member.sum(dim=0)
    beyond = of_fold.abs() > _ZERO_BITS
    share = beyond.double().mean(dim=-1)
    mean = of_fold.sum(dim=-1) / beyond.sum(dim=-1).clamp_min(1)
    rows = jackknife_stderr(replicates)
    total = ((TRAINING * rows).square() + share * (1 - share) * mean.square()).sqrt()
    factor = torch.where(rows > 0, total / rows.clamp_min(torch.finfo(rows.dtype).tiny), 1.0)
    centre = replicates.mean(dim=-1, keepdim=True)
    return centre + factor[..., None] * (replicates - centre)
