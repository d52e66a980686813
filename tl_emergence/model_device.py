"""Where a model's weights are: a device that exists, a dtype that models run in, and that both hold."""

from __future__ import annotations

from typing import Any

from tl_emergence.errors import ModelLoadError
from tl_emergence.model_guard import first_line


def usable_device(device: Any) -> Any:
    """Return a torch.device on which a tensor can be made; None stays None.

    Raises:
        ModelLoadError: No such device, or not on this machine.

    Example:
        >>> usable_device("cpu")
        device(type='cpu')
    """
    import torch

    if device is None:
        return None
    try:
        if not isinstance(device, str | torch.device):
            raise TypeError(f"a {type(device).__name__}")
        where = torch.device(device)
        torch.empty(1, device=where)
    # What a backend that is missing raises differs: RuntimeError, AssertionError, NotImplementedError.
    except Exception as error:
        raise ModelLoadError(
            "no such device here",
            seen=f"device={device!r}: {first_line(error)}",
            expected="a device of this machine, such as 'cpu', 'cuda' or 'cuda:0'",
            fix="Leave device out for TransformerLens' own choice, or pass 'cpu'.",
        ) from error
    return where


def usable_dtype(dtype: Any) -> Any:
    """Return a floating-point torch.dtype, float32 for None.

    Raises:
        ModelLoadError: Not a dtype that a model runs in.

    Example:
        >>> usable_dtype("bfloat16")
        torch.bfloat16
    """
    import torch

    known = {"float32": torch.float32, "float64": torch.float64}
    known |= {"bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype is None:
        return torch.float32
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, str | torch.dtype) else None
    if name in known:
        return known[name]
    raise ModelLoadError(
        "not a dtype that a model runs in",
        seen=f"dtype={dtype!r}",
        expected=f"one of {', '.join(known)}, or the torch.dtype",
        fix="Leave dtype out for float32.",
    )


def settle(model: Any, device: Any, dtype: Any) -> Any:
    """Put all parameters and buffers where `device` says, or where the model's own `cfg.device` does.

    TransformerLens only notes the device of a model that it did not load itself.

    Raises:
        ModelLoadError: Parameters or buffers that stay elsewhere, or parameters of another dtype.
    """
    import torch

    wanted = torch.device(device if device is not None else getattr(model.cfg, "device", None) or "cpu")
    if any(not _is_at(tensor, wanted) for tensor in _tensors(model)):
        model.to(wanted, print_details=False)
    elsewhere = sorted({str(tensor.device) for tensor in _tensors(model) if not _is_at(tensor, wanted)})
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    if elsewhere or kinds - {dtype}:
        raise ModelLoadError(
            "the model did not end where it was asked for",
            seen=f"tensors on {elsewhere or wanted}, parameters in {sorted(map(str, kinds))}",
            expected=f"{wanted} and {dtype}",
            fix="Load it with TransformerLens yourself and pass the loaded model.",
        )
    first = next(iter(model.parameters()), None)
    model.cfg.device = str(wanted if first is None else first.device)
    model.cfg.dtype = dtype
    return model


def _tensors(model: Any) -> list[Any]:
    return [*model.parameters(), *model.buffers()]


def _is_at(tensor: Any, wanted: Any) -> bool:
    same_number = wanted.type in ("cpu", "meta") or wanted.index in (None, tensor.device.index)
    return tensor.device.type == wanted.type and same_number
