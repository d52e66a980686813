"""The mutual information of two matrices, by any estimator."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_emergence.checks import number, seed_number, truth
from tl_emergence.errors import StateError
from tl_emergence.estimators.deranged import DerangedEstimator
from tl_emergence.estimators.interface import Estimate
from tl_emergence.estimators.registry import check_settings, get_estimator, plain_options
from tl_emergence.tensors import check_squares, float_tensor
from tl_emergence.torch_state import with_torch_defaults


@with_torch_defaults
def mutual_information(
    x: Float[Tensor, "sample d_x"],
    y: Float[Tensor, "sample d_y"],
    *,
    estimator: str,
    sigma: float | None = None,
    seed: int = 0,
    null: bool = False,
    **options: Any,
) -> Estimate:
    """Estimate I(x; y) in bits from paired rows, as they are: no space, no normalisation.

    Args:
        x: One row a sample; float16 and bfloat16 are upcast, nothing else is done to the values.
        y: One row a sample, paired with x.
        estimator: A name from `tl_emergence.estimators.ESTIMATORS`. There is no default: `gaussian`, `nce`
            and `vinfo` estimate the population that the rows were drawn from, `exact` and `noise` describe
            the given rows only and read log2 N for N independent ones, so that no choice fits every question.
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
        >>> mutual_information(x, x, estimator="noise", sigma=0.1)
        Estimate(1.000 ± 0.000 bits of this finite set, noise, cap 1.00, saturated)
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
    x = float_tensor(name, x, "sample d")
    if len(x) < 2:
        raise StateError(
            f"{name} has too few rows",
            seen=len(x),
            expected="at least 2",
            fix="Information is measured over a set of samples: pass more.",
        )
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    check_squares(name, x)
    if x.is_inference():  # made under torch.inference_mode: a critic could not be trained on it
        x = x.clone()
    return x
