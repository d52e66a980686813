"""The mutual information of two matrices, by any estimator."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_emergence.checks import LEAST, MOST, number, seed_number, truth
from tl_emergence.errors import StateError
from tl_emergence.estimators.deranged import DerangedEstimator
from tl_emergence.estimators.interface import Estimate
from tl_emergence.estimators.registry import check_settings, get_estimator, plain_options


def mutual_information(
    x: Float[Tensor, "sample d_x"],
    y: Float[Tensor, "sample d_y"],
    *,
    estimator: str = "noise",
    sigma: float | None = None,
    seed: int = 0,
    null: bool = False,
    **options: Any,
) -> Estimate:
    """Estimate I(x; y) in bits from paired rows, as they are: no space, no normalisation.

    Args:
        x: One row a sample; float16 and bfloat16 are upcast, nothing else is done to the values.
        y: One row a sample, paired with x.
        estimator: A name from `tl_emergence.estimators.ESTIMATORS`.
        sigma: Noise level in the units of x and y; by default 0.5 for `noise`, none for the others.
        seed: Seed of every random draw. Global random state is not touched.
        null: Estimate once more with the rows of y deranged (no row keeps its partner): `.null` of the
            result, and what to expect of it in `.settings["null_means"]`.
        options: What the estimator takes besides (`draws` for `noise`, `components` for `gaussian`,
            `components` and `folds` for `nce` and `vinfo`, `steps`, `segment` and `rows` for `mine_paper`).

    Returns:
        The estimate with standard error, cap and direction. A wholly constant x or y gives exactly 0.

    Raises:
        StateError: Not two float matrices with the same N >= 2 rows on one device, NaN or infinity, numbers
            too large or too small to be squared; an estimate that is not finite.
        SettingError: Unknown estimator or option, sigma or seed out of range.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0], [-1.0]])
        >>> mutual_information(x, x, sigma=0.1)
        Estimate(1.000 ± 0.000 bits, noise, cap 1.00, saturated)
    """
    chosen = get_estimator(estimator)
    level = chosen.default_sigma if sigma is None else number("sigma", sigma)
    seed, null = seed_number(seed), truth("null", null)
    check_settings(chosen, (level,), options)
    x, y = checked_rows("x", x), checked_rows("y", y)
    if len(x) != len(y):
        raise StateError(
            "x and y are not paired",
            seen=f"{len(x)} rows of x and {len(y)} of y",
            expected="one row of each for every sample",
            fix="Pass matrices over the same samples in the same order.",
        )
    if x.device != y.device:
        raise StateError(
            "x and y are on different devices",
            seen=f"{x.device} and {y.device}",
            expected="one device",
            fix="Move one of them: y.to(x.device).",
        )
    if x.device.type == "mps":
        x, y = x.cpu(), y.cpu()  # there is no float64 on that device
    options = plain_options(options)
    found = _finite(chosen.pair(x, y, sigma=level, seed=seed, **options))
    if not null:
        return found
    deranged = _finite(DerangedEstimator(chosen).pair(x, y, sigma=level, seed=seed, **options))
    return replace(found, null=deranged, settings={**found.settings, "null_means": chosen.null_means})


def _finite(found: Estimate) -> Estimate:
    if not (math.isfinite(found.bits) and math.isfinite(found.stderr)):
        raise StateError(
            "the estimate is not finite",
            seen=f"{found.bits:g} bits, standard error {found.stderr:g}",
            expected="finite numbers",
            fix="Centre and scale the rows: (x - x.mean(0)) / x.std(0); or ask another estimator.",
        )
    return found


def checked_rows(name: str, x: Tensor) -> Tensor:
    """Return a matrix in float32 or float64, or raise StateError for anything else than finite float rows."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise StateError(
            f"{name} is not a float tensor",
            seen=str(x.dtype) if isinstance(x, Tensor) else type(x).__name__,
            expected="a float tensor [sample, d]",
            fix="Convert it: torch.as_tensor(values, dtype=torch.float32).",
        )
    if x.layout != torch.strided:
        raise StateError(
            f"{name} is not dense", seen=str(x.layout), expected="a dense tensor", fix="Pass x.to_dense()."
        )
    if x.ndim != 2 or x.shape[1] < 1:
        raise StateError(
            f"{name} has the wrong shape",
            seen=tuple(x.shape),
            expected="[sample, d] with at least one column",
            fix="Pick one layer and position, or reshape: einops.rearrange(x, 'n ... -> n (...)').",
        )
    if len(x) < 2:
        raise StateError(
            f"{name} has too few rows",
            seen=len(x),
            expected="at least 2",
            fix="Information is measured over a set of samples: pass more.",
        )
    if not bool(torch.isfinite(x).all()):
        row = int((~torch.isfinite(x)).any(dim=1).nonzero()[0])
        raise StateError(
            f"{name} is not finite",
            seen=f"NaN or infinity in row {row}",
            expected="finite values",
            fix="Find where they come from; dropping rows would change the set that is measured.",
        )
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    largest, spread = float(x.abs().max()), float((x - x[:1]).abs().max())
    if largest > MOST or 0 < spread < LEAST:
        raise StateError(
            f"{name} cannot be squared",
            seen=f"values up to {largest:g}, differences up to {spread:g}",
            expected=f"values of at most {MOST:g} that differ by {LEAST:g} or more",
            fix="Scale it: x / x.abs().max().",
        )
    return x
