"""Values that were read from a file, checked by type, length and shape; what does not fit is a ValueError.

`folders.read_folder` and `circuits.load_report` turn these into errors that name the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def whole_numbers(what: str, value: Any) -> tuple[int, ...]:
    """Return a list of whole numbers as a tuple.

    Example:
        >>> whole_numbers("layers", [0, 1])
        (0, 1)
    """
    if not isinstance(value, list) or not all(type(one) is int for one in value):
        raise ValueError(f"{what} is no list of whole numbers: {value!r:.80}")
    return tuple(value)


def whole_number(what: str, value: Any, *, least: int = 0) -> int:
    """Return a whole number that is not below the least possible."""
    if type(value) is not int or value < least:
        raise ValueError(f"{what} is no whole number of at least {least}: {value!r:.80}")
    return value


def number(what: str, value: Any) -> float:
    """Return a number; null stands for NaN."""
    if value is None:
        return float("nan")
    if type(value) not in (int, float):
        raise ValueError(f"{what} is no number: {value!r:.80}")
    return value


def truth(what: str, value: Any) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{what} is neither true nor false: {value!r:.80}")
    return value


def text(what: str, value: Any) -> str:
    """Return a text."""
    if not isinstance(value, str):
        raise ValueError(f"{what} is no text: {value!r:.80}")
    return value


def texts(what: str, value: Any) -> tuple[str, ...]:
    """Return a list of texts as a tuple."""
    if not isinstance(value, list):
        raise ValueError(f"{what} is no list of texts: {value!r:.80}")
    return tuple(text(what, one) for one in value)


def mapping(what: str, value: Any) -> dict[str, Any]:
    """Return a JSON object."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} is no JSON object: {value!r:.80}")
    return dict(value)


def length(what: str, value: Sequence[Any], wanted: int) -> None:
    """Raise ValueError unless a sequence has the length that others give it."""
    if len(value) != wanted:
        raise ValueError(f"{what} has length {len(value)}, not {wanted}")


def tensor(
    tensors: Mapping[str, Tensor], name: str, shape: Sequence[int], dtype: torch.dtype | None = None
) -> Tensor:
    """Return a tensor of a shape: of a type, or of any floating-point type."""
    if name not in tensors:
        raise ValueError(f"no tensor {name!r}")
    value = tensors[name]
    fits = value.is_floating_point() if dtype is None else value.dtype == dtype
    if tuple(value.shape) != tuple(shape) or not fits:
        raise ValueError(
            f"tensor {name!r} is {list(value.shape)} of {value.dtype}, not {list(shape)} of "
            f"{dtype or 'floating-point numbers'}"
        )
    return value
