"""How often the 95 % intervals of `nce` hold the mean of its estimates, on small samples.

The mean over data sets is what a standard error is about: the value is a lower bound, and how far its mean
lies below the truth is no part of its error.

Usage: python -m benchmarks.nce_coverage [sets]
"""

from __future__ import annotations

import math
import sys

import torch
from jaxtyping import Float
from torch import Tensor

from tl_emergence.estimators import mutual_information
from tl_emergence.estimators.jackknife import blocks_of, jackknife_stderr
from tl_emergence.estimators.vinfo import means_without_blocks

SETS = 200
CASES = ((60, 2, 0.9), (80, 2, 0.7), (200, 3, 0.6))


def main() -> None:
    """Print a row for each sample size and correlation as soon as it is measured."""
    sets = int(sys.argv[1]) if len(sys.argv) > 1 else SETS
    print(
        "| N | dimensions, correlation | truth, bits | mean | spread | error | covers | critics held fixed |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for n, d, correlation in CASES:
        found = torch.tensor([_one(n, d, correlation, seed) for seed in range(sets)], dtype=torch.float64)
        bits, stderr, fixed = found.unbind(dim=1)
        gap = (bits - bits.mean()).abs()
        covers, before = (int((gap <= 1.96 * error).sum()) for error in (stderr, fixed))
        truth = -d / 2 * math.log2(1 - correlation**2)
        error = float(stderr.square().mean().sqrt())
        print(
            f"| {n} | {d}, {correlation} | {truth:.2f} | {float(bits.mean()):.3f} | {float(bits.std()):.3f} "
            f"| {error:.3f} | {covers}/{sets} | {before}/{sets} |",
            flush=True,
        )


def _one(n: int, d: int, correlation: float, seed: int) -> tuple[float, float, float]:
    """Return the estimate for one data set, its error, and its error with critics held fixed."""
    x, y = _normal_pair(n, d, correlation, seed)
    found = mutual_information(x, y, estimator="nce")
    assert found.pointwise is not None
    without = means_without_blocks(found.pointwise.double(), blocks_of(torch.arange(n), 0))
    return found.bits, found.stderr, float(jackknife_stderr(without))


def _normal_pair(
    n: int, d: int, correlation: float, seed: int
) -> tuple[Float[Tensor, "sample d"], Float[Tensor, "sample d"]]:
    x, z = torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed))
    return x, correlation * x + math.sqrt(1 - correlation**2) * z


if __name__ == "__main__":
    main()
