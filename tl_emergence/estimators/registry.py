"""The estimators by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tl_emergence.checks import integer
from tl_emergence.errors import SettingError, unknown_name
from tl_emergence.estimators.exact import ExactEstimator
from tl_emergence.estimators.gaussian import GaussianEstimator
from tl_emergence.estimators.interface import Estimator
from tl_emergence.estimators.mine_paper import MinePaperEstimator
from tl_emergence.estimators.nce import NceEstimator
from tl_emergence.estimators.noise import NoiseEstimator
from tl_emergence.estimators.vinfo import VinfoEstimator

ESTIMATORS: dict[str, Estimator] = {
    found.name: found
    for found in (
        ExactEstimator(),
        NoiseEstimator(),
        GaussianEstimator(),
        NceEstimator(),
        VinfoEstimator(),
        MinePaperEstimator(),
    )
}
"""Every estimator that `estimator=` knows."""


def get_estimator(name: str) -> Estimator:
    """Return an estimator by name.

    Raises:
        SettingError: No estimator has that name; the message lists those there are.

    Example:
        >>> get_estimator("noise").measures
        'how many bits survive Gaussian noise of size sigma on both states'
    """
    if name not in ESTIMATORS:
        raise unknown_name("estimator", name, list(ESTIMATORS))
    return ESTIMATORS[name]


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return checked options as plain numbers, so that they can be saved (NumPy's are not JSON values)."""
    return {name: value if value is None else integer(name, value) for name, value in options.items()}


def check_settings(estimator: Estimator, sigmas: Sequence[float], options: Mapping[str, Any]) -> None:
    """Raise SettingError for noise levels or options that the estimator does not take."""
    unknown = sorted(set(options) - set(estimator.options))
    if unknown:
        raise SettingError(
            f"options that {estimator.name} does not have",
            seen=", ".join(unknown),
            expected=f"none but {list(estimator.options)}" if estimator.options else "none",
            fix="Leave them out, or choose the estimator that has them.",
        )
    estimator.check(sigmas, options)
