"""Tensors as users pass them: checked in one place, before anything is computed from their values."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_emergence.checks import LEAST, MOST
from tl_emergence.errors import StateError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""The dtypes of states: those with sums, products and a test for NaN on every device."""
LABELS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
"""The dtypes of labels."""


def float_tensor(name: str, x: Any, shape: str) -> Float[Tensor, "..."]:
    """Return a dense, finite float tensor, detached, with the values and dtype that it has.

    Args:
        name: What the caller calls it.
        x: What was passed.
        shape: The names of its dimensions, separated by spaces: "sample d". None of them may be empty.

    Raises:
        StateError: Not a tensor of float16, bfloat16, float32 or float64; sparse, nested, or on the device
            "meta"; of another number of dimensions, or empty; NaN or infinity.

    Example:
        >>> float_tensor("x", torch.zeros(2, 3), "sample d").shape
        torch.Size([2, 3])
    """
    if not isinstance(x, Tensor) or x.dtype not in FLOATS:
        other = isinstance(x, Tensor) and x.is_floating_point()  # such as float8
        raise StateError(
            f"{name} is not a float tensor" + (" of a dtype that can be computed with" if other else ""),
            seen=str(x.dtype) if isinstance(x, Tensor) else type(x).__name__,
            expected=f"a float tensor {_brackets(shape)}",
            fix="Convert it: "
            + ("x.to(torch.float32)." if other else "torch.as_tensor(values, dtype=torch.float32)."),
        )
    check_plain(name, x)
    _check_shape(name, x, shape, may_be_empty=False)
    x = x.detach()
    finite = torch.isfinite(x)
    if not bool(finite.all()):
        place = (~finite).nonzero()[0].tolist()
        raise StateError(
            f"{name} is not finite",
            seen="NaN or infinity " + (f"in row {place[0]}" if len(place) == 2 else f"at {place}"),
            expected="finite values",
            fix="Find where they come from (half precision overflows at 65,504); dropping rows would change "
            "the set that is measured.",
        )
    return x


def label_tensor(name: str, x: Any, shape: str) -> Int64[Tensor, "..."]:
    """Return a dense tensor of labels as int64.

    Raises:
        StateError: Not a tensor of whole numbers or truth values; sparse, nested, or on the device "meta";
            of another number of dimensions.

    Example:
        >>> label_tensor("ids", torch.tensor([3, 3, 7], dtype=torch.uint8), "row")
        tensor([3, 3, 7])
    """
    if not isinstance(x, Tensor) or x.dtype not in LABELS:
        raise StateError(
            f"{name} is not a tensor of labels",
            seen=str(x.dtype) if isinstance(x, Tensor) else type(x).__name__,
            expected=f"an integer tensor {_brackets(shape)}",
            fix="Number the values: torch.unique(values, return_inverse=True)[1].",
        )
    check_plain(name, x)
    _check_shape(name, x, shape, may_be_empty=True)
    return x.to(torch.int64)


def check_plain(name: str, x: Tensor) -> None:
    """Raise StateError for a tensor that is not dense, or that has a shape but no values."""
    if x.is_nested:  # asked first: some nested tensors have the layout of dense ones
        raise StateError(
            f"{name} is not dense",
            seen="a nested tensor",
            expected="a dense tensor",
            fix="Stack rows of one length: torch.stack(rows).",
        )
    if x.layout != torch.strided:
        raise StateError(
            f"{name} is not dense", seen=str(x.layout), expected="a dense tensor", fix="Pass x.to_dense()."
        )
    if x.device.type == "meta":
        raise StateError(
            f"{name} has no values",
            seen="a tensor on the device 'meta'",
            expected="a tensor on the CPU or an accelerator",
            fix="Compute it on a device: a meta tensor has a shape and nothing else.",
        )


def check_squares(name: str, x: Float[Tensor, "*batch sample d"]) -> None:
    """Raise StateError where the square of a value, or of a difference, is no float64 number.

    Example:
        >>> check_squares("x", torch.zeros(3, 2))
    """
    largest, spread = float(x.abs().max()), float((x - x[..., :1, :]).abs().max())
    if largest > MOST or 0 < spread < LEAST:
        raise StateError(
            f"{name} cannot be squared",
            seen=f"values up to {largest:g}, differences up to {spread:g}",
            expected=f"values of at most {MOST:g} that differ by {LEAST:g} or more",
            fix="Scale it: x / x.abs().max().",
        )


def row_weights(weights: Any, n: int, device: torch.device) -> Float[Tensor, " row"]:
    """Return weights of n rows as probabilities, in float64.

    Raises:
        StateError: Not n finite numbers of 0 or more that are not all 0.

    Example:
        >>> row_weights(torch.tensor([1, 3]), 2, torch.device("cpu")).tolist()
        [0.25, 0.75]
    """
    known = isinstance(weights, Tensor) and weights.dtype in (*FLOATS, *LABELS)
    if known:
        check_plain("weights", weights)
    p = weights.detach().to(device, torch.float64) if known else None
    if p is None or p.shape != (n,) or not bool((p >= 0).all() and torch.isfinite(p).all() and p.sum() > 0):
        values = f", from {float(p.min()):g} to {float(p.max()):g}" if p is not None and p.numel() else ""
        dtype = f" of {weights.dtype}" if isinstance(weights, Tensor) and p is None else ""
        raise StateError(
            "weights do not fit the rows",
            seen=f"shape {tuple(weights.shape)}{dtype}{values}"
            if isinstance(weights, Tensor)
            else type(weights).__name__,
            expected=f"a tensor of {n} finite numbers of 0 or more, not all 0",
            fix="Pass the probability of each row: torch.full((len(x),), 1 / len(x)).",
        )
    # Scaled first: a sum of very large weights would overflow.
    p = p / p.max()
    return p / p.sum()


def _check_shape(name: str, x: Tensor, shape: str, *, may_be_empty: bool) -> None:
    is_empty = x.numel() == 0 and not may_be_empty
    if x.ndim == len(shape.split()) and not is_empty:
        return
    reshape = "reshape it: einops.rearrange(x, 'n ... -> n (...)')"
    raise StateError(
        f"{name} has the wrong shape",
        seen=tuple(x.shape),
        expected=f"{_brackets(shape)}, no dimension empty" if is_empty else _brackets(shape),
        fix=f"Pick one layer and position, or {reshape}."
        if shape == "sample d"
        else "Pick what you mean with an index, or stack the parts: torch.stack([part_0, part_1]).",
    )


def _brackets(shape: str) -> str:
    return "[" + ", ".join(shape.split()) + "]"
