"""What is asked of a model's states, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tl_emergence.capture.spaces import SPACES, Space, check_space_name
from tl_emergence.ceiling import Micro, check_micro
from tl_emergence.checks import number, seed_number, sequence
from tl_emergence.errors import SettingError
from tl_emergence.estimators.interface import Estimator
from tl_emergence.estimators.registry import (
    ESTIMATORS,
    check_options,
    get_estimator,
    plain_options,
    takes_noise,
)


@dataclass(frozen=True)
class Measure:
    """One estimator with the noise levels and the options that it is to use, for macro and micro alike."""

    estimator: Estimator
    sigmas: tuple[float, ...]
    options: Mapping[str, Any]
    sweep: bool
    """Whether several noise levels were asked for, be it a list of one."""

    def settings(self) -> dict[str, Any]:
        """Return the measure in JSON values."""
        return {"name": self.estimator.name, "sigma": self.sigmas, **self.options}


@dataclass(frozen=True)
class Question:
    """Measures, spaces (None: to be chosen by the model's norms), micro and seed."""

    measures: tuple[Measure, ...]
    spaces: tuple[Space, ...] | None
    micro: Micro
    seed: int
    several_estimators: bool
    several_spaces: bool

    def settings(self) -> dict[str, Any]:
        """Return the question in JSON values."""
        return {
            "estimators": [measure.settings() for measure in self.measures],
            "space": self.spaces,
            "micro": self.micro,
            "seed": self.seed,
        }


def ask(
    estimator: str | Sequence[str],
    sigma: float | Sequence[float] | None,
    space: Space | Sequence[Space] | None,
    micro: Micro,
    seed: int,
    options: Mapping[str, Any],
) -> Question:
    """Return the question if all of it can be answered, as far as that shows without running a model.

    Of several estimators, each gets the options that it has; sigma goes to those that take noise.

    Raises:
        SettingError: An unknown estimator, space, micro or option; an option that no estimator has; a sigma
            or seed out of range; no space or estimator; an estimator twice.
    """
    several = not isinstance(estimator, str) and estimator is not None
    names = sequence("estimator", estimator, "names") if several else (cast("str", estimator),)
    chosen = _estimators(names)
    check_options(chosen, options)
    measures = tuple(_measure(one, sigma, options, chosen) for one in chosen)
    check_micro(micro)
    spaces = _spaces(space)
    if spaces == ():
        raise SettingError(
            "no space", seen="none", expected=f"some of {SPACES}", fix="Leave space= out for the default."
        )
    several_spaces = space is not None and not isinstance(space, str)
    return Question(measures, spaces, micro, seed_number(seed), several, several_spaces)


def _spaces(space: Any) -> tuple[Space, ...] | None:
    """Return the spaces asked for, each once; None for the default."""
    if space is None:
        return None
    names = (space,) if isinstance(space, str) else sequence("space", space, f"names among {SPACES}")
    for name in names:
        check_space_name(name)
    return tuple(dict.fromkeys(cast("Space", str(name)) for name in names))


def _estimators(names: Sequence[str]) -> list[Estimator]:
    chosen = [get_estimator(name) for name in names]
    if not chosen or len(set(names)) != len(names):
        raise SettingError(
            "estimators not usable",
            seen=list(names) or "none",
            expected="at least one, each once",
            fix=f"Pass one name or several different ones of {list(ESTIMATORS)}.",
        )
    return chosen


def _measure(
    estimator: Estimator,
    sigma: float | Sequence[float] | None,
    options: Mapping[str, Any],
    among: Sequence[Estimator],
) -> Measure:
    """Give an estimator its share of the settings of a call for several."""
    if sigma is not None and not takes_noise(estimator) and any(takes_noise(other) for other in among):
        sigma = None  # such as `exact` beside `noise`
    sigmas = _sigmas(estimator, sigma)
    own = {name: value for name, value in options.items() if name in estimator.options}
    estimator.check(sigmas, own)
    return Measure(estimator, sigmas, plain_options(own), sigma is not None and not is_one_number(sigma))


def _sigmas(estimator: Estimator, sigma: float | Sequence[float] | None) -> tuple[float, ...]:
    if sigma is None:
        return (estimator.default_emergence_sigma,)
    levels = tuple(
        number("sigma", level)
        for level in ((sigma,) if is_one_number(sigma) else sequence("sigma", sigma, "numbers"))
    )
    if estimator.default_emergence_sigma > 0 and min(levels, default=1.0) <= 0:
        raise SettingError(
            "sigma out of range",
            seen=list(levels),
            expected="finite numbers above 0",
            fix="States that determine each other have no finite information without noise; the ceiling "
            "without any is known exactly: estimator='exact'.",
        )
    if not levels or len(set(levels)) != len(levels):
        raise SettingError(
            "noise levels not usable",
            seen=levels or "none",
            expected="at least one, each once",
            fix="Pass a number or several different ones: sigma=(0.25, 0.5, 1, 2).",
        )
    return levels


def is_one_number(sigma: Any) -> bool:
    """Return whether sigma is one number (of Python, NumPy or PyTorch) and no sequence of them."""
    return isinstance(sigma, str) or not hasattr(sigma, "__len__") or getattr(sigma, "ndim", 1) == 0
