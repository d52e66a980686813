"""Options as users pass them (Python, NumPy, PyTorch): turned into plain values, or refused by name."""

from __future__ import annotations

import operator
import os
from collections.abc import Container, Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

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


def is_truth_value(value: Any) -> bool:
    """Return whether a value is one truth value, or an array of them: of Python, NumPy or PyTorch.

    Example:
        >>> import numpy as np
        >>> is_truth_value(True), is_truth_value(np.array([True, False])), is_truth_value(1)
        (True, True, False)
    """
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")


def integer(what: str, value: Any, *, least: int | None = None) -> int:
    """Return a plain int for anything that is a whole number by type. True and False are not.

    Raises:
        SettingError: A float, a string, a truth value, anything else; or a number below `least`.

    Example:
        >>> import numpy as np
        >>> integer("seed", np.int64(3))
        3
    """
    try:
        plain = None if is_truth_value(value) else operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # the second and third: tensors without one value
        plain = None
    if plain is None:
        raise SettingError(
            f"{what} is not a whole number",
            seen=f"{value!r:.80} ({type(value).__name__})",
            expected="an int",
            fix="Pass a whole number.",
        )
    if least is not None and plain < least:
        raise SettingError(
            f"{what} out of range", seen=plain, expected=f"{least} or more", fix="Pass a larger number."
        )
    return plain


def instance(what: str, value: Any, kinds: type | tuple[type, ...], fix: str) -> None:
    """Raise SettingError unless a value is an object of one of some classes.

    Example:
        >>> instance("a seed", 3, int, "Pass a whole number.")
    """
    if not isinstance(value, kinds):
        names = [kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,))]
        raise SettingError(
            f"not {what}", seen=f"{type(value).__name__}", expected=" or ".join(names), fix=fix
        )


def is_key(value: Any, known: Container[Any]) -> bool:
    """Return whether a value is one of some keys; a list or an array, which can be no key, is none.

    Example:
        >>> is_key("loss", {"loss": 1}), is_key(["loss"], {"loss": 1})
        (True, False)
    """
    try:
        return value in known
    except (TypeError, ValueError, RuntimeError):
        return False


def seed_number(seed: Any) -> int:
    """Return a seed as a plain int that every random generator takes.

    Raises:
        SettingError: No whole number, or one of more than 63 bits.

    Example:
        >>> seed_number(7)
        7
    """
    plain = integer("seed", seed)
    if not -(2**63) <= plain < 2**63:
        raise SettingError(
            "seed out of range",
            seen=plain,
            expected="a number of at most 63 bits",
            fix="Pass a smaller seed.",
        )
    return plain


def sequence(what: str, values: Any, of: str) -> tuple[Any, ...]:
    """Return the values of an ordered collection.

    Raises:
        SettingError: One value or text by itself; a set, whose order is not defined; a mapping.

    Example:
        >>> sequence("control", ["deranged"], "names")
        ('deranged',)
    """
    is_scalar = getattr(values, "ndim", None) == 0
    if isinstance(values, str | bytes) or is_scalar or not isinstance(values, Iterable):
        raise SettingError(
            f"{what} is not a sequence",
            seen=f"{values!r:.80} ({type(values).__name__})",
            expected=f"a sequence of {of}",
            fix=f"Pass a list of {of}.",
        )
    if isinstance(values, set | frozenset | Mapping):
        raise SettingError(
            f"{what} has no order of its own" if not isinstance(values, Mapping) else f"{what} is a mapping",
            seen=type(values).__name__,
            expected=f"a list or tuple of {of}",
            fix="Pass sorted(values), or a list in the order that you mean."
            if not isinstance(values, Mapping)
            else "Pass list(mapping) for its keys, or list(mapping.values()).",
        )
    try:
        return tuple(values)
    except (TypeError, RuntimeError):  # arrays and tensors whose rows cannot be taken apart
        raise SettingError(
            f"{what} is not a sequence",
            seen=type(values).__name__,
            expected=f"a sequence of {of}",
            fix=f"Pass a list of {of}.",
        ) from None


def integers(what: str, values: Any, *, count: int | None = None) -> tuple[int, ...] | None:
    """Return plain ints for a sequence of whole numbers; None stays None.

    A boolean mask over `count` things gives the numbers of those that are True. Everything in the package
    that takes indices takes them through here, so that a mask is never read as the numbers 0 and 1.

    Raises:
        SettingError: Not an ordered sequence, or not of whole numbers; a mask where no mask can be used, or
            of the wrong length.

    Example:
        >>> integers("layer", range(2)), integers("layer", [False, True, True], count=3)
        ((0, 1), (1, 2))
    """
    if values is None:
        return None
    is_scalar = getattr(values, "ndim", None) == 0
    if isinstance(values, str | bytes) or is_scalar or not isinstance(values, Iterable):
        raise SettingError(
            f"{what} is not a sequence",
            seen=f"{values!r:.80} ({type(values).__name__})",
            expected="a sequence of whole numbers",
            fix=f"Leave it out for all, or pass a list: {what}s=[0].",
        )
    plain = sequence(what, values, "whole numbers")
    if not plain or not all(is_truth_value(value) and _is_scalar(value) for value in plain):
        return tuple(integer(what, value) for value in plain)
    if count is None:
        raise SettingError(
            f"{what} is a boolean mask",
            seen=f"{len(plain)} truth values",
            expected="whole numbers",
            fix="Pass the numbers of the True entries: [i for i, kept in enumerate(mask) if kept].",
        )
    if len(plain) != count:
        raise SettingError(
            f"the mask of {what}s has the wrong length",
            seen=f"{len(plain)} truth values",
            expected=f"one for each {what}: {count}",
            fix=f"Pass a mask of that length, or the numbers of the {what}s.",
        )
    return tuple(i for i, kept in enumerate(plain) if bool(kept))


def _is_scalar(value: Any) -> bool:
    return getattr(value, "ndim", 0) == 0


def number(what: str, value: Any) -> float:
    """Return a plain float for anything that is one number. True and False are not.

    Raises:
        SettingError: Not a number by type, or one beyond the range of a float.

    Example:
        >>> number("sigma", 2)
        2.0
    """
    try:
        has_item = getattr(value, "ndim", None) == 0 and hasattr(value, "item")
        plain = value.item() if has_item else value
        if isinstance(plain, Real) and not isinstance(plain, bool):
            return float(plain)
    except (OverflowError, RuntimeError):  # an int of hundreds of digits; a tensor without values
        pass
    raise SettingError(
        f"{what} is not a number",
        seen=f"{value!r:.80} ({type(value).__name__})",
        expected="one number",
        fix="Pass a number.",
    )


def truth(what: str, value: Any) -> bool:
    """Return a plain bool for a truth value of Python, NumPy or PyTorch, and for nothing else.

    Raises:
        SettingError: Anything else: the text "False" would count as true.

    Example:
        >>> import numpy as np
        >>> truth("progress", np.False_)
        False
    """
    if not is_truth_value(value) or not _is_scalar(value):
        raise SettingError(
            f"{what} is neither True nor False",
            seen=f"{value!r:.80} ({type(value).__name__})",
            expected="True or False",
            fix=f"Pass {what}=True or {what}=False.",
        )
    return bool(value)


def text(what: str, value: Any) -> str:
    """Return a plain string for a text or a path, so that it can be saved.

    Raises:
        SettingError: Anything else, or a text that UTF-8 cannot write.

    Example:
        >>> from pathlib import Path
        >>> text("name", Path("lists.txt"))
        'lists.txt'
    """
    plain = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(plain, str):
        raise SettingError(
            f"{what} is not a text",
            seen=f"{value!r:.80} ({type(value).__name__})",
            expected="a string",
            fix=f"Pass {what}=str(...).",
        )
    if any("\ud800" <= character <= "\udfff" for character in plain):
        raise SettingError(
            f"{what} cannot be written as UTF-8",
            seen=ascii(plain)[:80],
            expected="a string without half of a surrogate pair",
            fix="Decode it with errors='replace'.",
        )
    return str(plain)


def as_tensor(values: Any) -> Tensor | None:
    """Return a tensor, a NumPy array or nested lists of numbers as a dense tensor on the CPU, else None.

    Example:
        >>> as_tensor([[5, 7], [6, 7]]).shape
        torch.Size([2, 2])
    """
    try:
        if not isinstance(values, Tensor):
            # NumPy first: lists of arrays, and integers whatever PyTorch's default dtype is.
            array = np.asarray(values)
            if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
                return None
            if array.dtype.kind == "u" and array.dtype.itemsize > 1:
                array = array.astype(np.int64)
            values = torch.from_numpy(np.array(array, order="C", dtype=array.dtype.newbyteorder("=")))
        found = values.detach().to("cpu")
        return found if found.layout == torch.strided else found.to_dense()
    except (TypeError, ValueError, RuntimeError):
        return None
