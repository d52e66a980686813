"""What the emergence criteria of a run are computed from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from tl_emergence.checks import LEAST, MOST, in_range, integer, is_truth_value, number, truth
from tl_emergence.errors import SettingError, unknown_name
from tl_emergence.estimators.gaussian import fewest_left

Whole = Literal["concatenation", "mean"]
"""What the whole V is made of: the parts side by side, or the mean of their states."""


@dataclass(frozen=True)
class GeometrySettings:
    """How whole and parts are seen by the emergence criteria; the rest of the geometry has no settings.

    Attributes:
        components: Leading principal components that are kept of every part and of the whole.
        whole: "concatenation" of the parts, as the theory wants it, or "mean" of the states over positions.
        sigma: Noise floor of every part and of the whole, in units of the space.

    Raises:
        SettingError: Fewer than one component, an unknown whole, a sigma that is not above 0.

    Example:
        >>> GeometrySettings(components=2)
        GeometrySettings(components=2, whole='concatenation', sigma=0.5)
    """

    components: int = 4
    whole: Whole = "concatenation"
    sigma: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "components", integer("components", self.components, least=1))
        object.__setattr__(self, "sigma", number("sigma", self.sigma))
        if not isinstance(self.whole, str) or self.whole not in get_args(Whole):
            raise unknown_name("whole", str(self.whole), get_args(Whole))
        object.__setattr__(self, "whole", str(self.whole))
        if not (self.sigma > 0 and in_range(self.sigma)):
            raise SettingError(
                "sigma out of range",
                seen=self.sigma,
                expected=f"a number above 0, between {LEAST:g} and {MOST:g}",
                fix="Pass the size of the noise floor: states that determine each other have infinite "
                "Gaussian information without one.",
            )


def asked_geometry(asked: Any, n_prompts: int) -> GeometrySettings | None:
    """Return the settings of the geometry that was asked for, or None for none.

    Raises:
        SettingError: Neither a boolean nor settings; more components than so few prompts allow.
    """
    if is_truth_value(asked):
        asked = truth("geometry", asked)
    if asked is False:
        return None
    found = GeometrySettings() if asked is True else asked
    if not isinstance(found, GeometrySettings):
        raise SettingError(
            "geometry is neither asked for nor left out",
            seen=repr(asked),
            expected="True, False or GeometrySettings",
            fix="Pass geometry=True, or geometry=GeometrySettings(components=2).",
        )
    left = fewest_left(n_prompts)
    if 2 * found.components >= left - 1:
        most = (left - 2) // 2
        raise SettingError(
            "too few prompts for the emergence criteria",
            seen=f"{n_prompts} prompts, {left} without a block of them, and "
            f"{found.components} + {found.components} components",
            expected=f"fewer than {left - 1} components together",
            fix=f"Pass more prompts, or geometry=GeometrySettings(components={most})."
            if most >= 1
            else "Pass more prompts: 5 or more.",
        )
    return found
