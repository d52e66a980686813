"""What is asked of a model's states, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tl_emergence.capture.spaces import SPACES, Space, check_space_name
from tl_emergence.ceiling import Micro, check_micro
from tl_emergence.checks import integer, number
from tl_emergence.errors import SettingError
from tl_emergence.estimators.interface import Estimator
from tl_emergence.estimators.registry import check_settings, get_estimator, plain_options


@dataclass(frozen=True)
class Question:
    """Estimator, noise levels, spaces (None: to be chosen by the model's norms), micro, seed and options."""

    estimator: Estimator
    sigmas: tuple[float, ...]
    spaces: tuple[Space, ...] | None
    micro: Micro
    seed: int
    options: Mapping[str, Any]

    def settings(self) -> dict[str, Any]:
        """Return the question in JSON values."""
        return {
            "estimator": {"name": self.estimator.name, "sigma": self.sigmas, **self.options},
            "space": self.spaces,
            "micro": self.micro,
            "seed": self.seed,
        }


def ask(
    estimator: str,
    sigma: float | Sequence[float] | None,
    space: Space | Sequence[Space] | None,
    micro: Micro,
    seed: int,
    options: Mapping[str, Any],
) -> Question:
    """Return the question if all of it can be answered, as far as that shows without running a model.

    Raises:
        SettingError: An unknown estimator, space, micro or option; a sigma or seed out of range; no space.
    """
    chosen = get_estimator(estimator)
    sigmas = _sigmas(chosen, sigma)
    check_settings(chosen, sigmas, options)
    check_micro(micro)
    spaces = (space,) if isinstance(space, str) else None if space is None else tuple(dict.fromkeys(space))
    if spaces == ():
        raise SettingError(
            "no space", seen="none", expected=f"some of {SPACES}", fix="Leave space= out for the default."
        )
    for name in spaces or ():
        check_space_name(name)
    return Question(chosen, sigmas, spaces, micro, integer("seed", seed), plain_options(options))


def _sigmas(estimator: Estimator, sigma: float | Sequence[float] | None) -> tuple[float, ...]:
    if sigma is None:
        return (estimator.default_emergence_sigma,)
    levels = tuple(
        number("sigma", level)
        for level in ((sigma,) if is_one_number(sigma) else cast("Sequence[float]", sigma))
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
