"""The estimators by name."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from tl_emergence.checks import instance, number
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
    if not isinstance(name, str) or name not in ESTIMATORS:
        raise unknown_name("estimator", name, list(ESTIMATORS))
    return ESTIMATORS[name]


def option_defaults(estimator: Estimator) -> dict[str, Any]:
    """Return the options that an estimator takes in `information_emergence`, with their defaults.

    None stands for a choice that the estimator makes by the size of the set.

    Example:
        >>> option_defaults(get_estimator("gaussian"))
        {'components': 64}
    """
    instance("an estimator", estimator, Estimator, "Pass get_estimator(name).")
    parameters = inspect.signature(estimator.chain).parameters
    return {name: parameters[name].default for name in estimator.options}


def takes_noise(estimator: Estimator) -> bool:
    """Return whether there is any noise level above 0 that the estimator accepts.

    Example:
        >>> takes_noise(get_estimator("noise")), takes_noise(get_estimator("exact"))
        (True, False)
    """
    instance("an estimator", estimator, Estimator, "Pass get_estimator(name).")
    try:
        estimator.check((1.0,), {})
    except SettingError:
        return False
    return True


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return checked options as JSON values, so that they can be saved (NumPy's numbers are none).

    Raises:
        SettingError: A value that is neither a number, a text, a truth value nor None.

    Example:
        >>> import numpy as np
        >>> plain_options({"steps": np.int64(5), "rate": np.float32(0.5), "family": "ridge", "rows": None})
        {'steps': 5, 'rate': 0.5, 'family': 'ridge', 'rows': None}
    """
    return {name: _plain(name, value) for name, value in options.items()}


def _plain(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    try:
        return operator.index(value)
    except TypeError:
        return number(name, value)


def check_settings(estimator: Estimator, sigmas: Sequence[float], options: Mapping[str, Any]) -> None:
    """Raise SettingError for noise levels or options that the estimator does not take."""
    check_options((estimator,), options)
    estimator.check(sigmas, options)


def check_options(estimators: Sequence[Estimator], options: Mapping[str, Any]) -> None:
    """Raise SettingError for an option that none of the estimators takes."""
    known = sorted({name for estimator in estimators for name in estimator.options})
    unknown = sorted(set(options) - set(known))
    if unknown:
        names = ", ".join(estimator.name for estimator in estimators)
        raise SettingError(
            f"options that {names} do{'es' if len(estimators) == 1 else ''} not have",
            seen=", ".join(unknown),
            expected=f"none but {known}" if known else "none",
            fix="Leave them out, or choose the estimator that has them.",
        )
