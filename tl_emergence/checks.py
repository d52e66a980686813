"""Numbers at the door: what users pass (Python, NumPy, PyTorch), turned plain or refused by name."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any

from tl_emergence.errors import SettingError

LEAST, MOST = 1e-100, 1e100
"""What is not 0 must lie between these in size, for its square to be a float64."""


def in_range(value: float) -> bool:
    """Return whether the square of a number is one too: neither infinite, nor 0 for what is not 0.

    Example:
        >>> in_range(0.0), in_range(0.5), in_range(1e300), in_range(1e-300), in_range(float("nan"))
        (True, True, False, False, False)
    """
    return value == 0 or LEAST <= abs(value) <= MOST


def integer(what: str, value: Any, *, least: int | None = None) -> int:
    """Return a plain int for anything that is a whole number by type.

    Raises:
        SettingError: A float, a string, anything else; or a number below `least`.

    Example:
        >>> import numpy as np
        >>> integer("seed", np.int64(3))
        3
    """
    try:
        found = operator.index(value)
    except TypeError:
        raise SettingError(
            f"{what} is not a whole number",
            seen=f"{value!r} ({type(value).__name__})",
            expected="an int",
            fix="Pass a whole number.",
        ) from None
    if least is not None and found < least:
        raise SettingError(
            f"{what} out of range", seen=found, expected=f"{least} or more", fix="Pass a larger number."
        )
    return found


def integers(what: str, values: Any) -> tuple[int, ...] | None:
    """Return plain ints for a sequence of whole numbers; None stays None.

    Raises:
        SettingError: Not a sequence, or not of whole numbers.

    Example:
        >>> integers("layer", range(2))
        (0, 1)
    """
    if values is None:
        return None
    is_scalar = getattr(values, "ndim", None) == 0
    if isinstance(values, str) or is_scalar or not isinstance(values, Iterable):
        raise SettingError(
            f"{what} is not a sequence",
            seen=f"{values!r} ({type(values).__name__})",
            expected="a sequence of whole numbers",
            fix=f"Leave it out for all, or pass a list: {what}s=[0].",
        )
    return tuple(integer(what, value) for value in values)


def number(what: str, value: Any) -> float:
    """Return a plain float for anything that is one number.

    Raises:
        SettingError: Not a number by type.

    Example:
        >>> number("sigma", 2)
        2.0
    """
    one = getattr(value, "ndim", None) == 0 and hasattr(value, "item")
    found = value.item() if one else value
    if not isinstance(found, Real):
        raise SettingError(
            f"{what} is not a number",
            seen=f"{value!r} ({type(value).__name__})",
            expected="one number",
            fix="Pass a number.",
        )
    return float(found)
