"""PyTorch's own defaults around public calls, whatever the caller has set."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

import torch

_Given = ParamSpec("_Given")
_Returned = TypeVar("_Returned")

_AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")


class _Float32:
    """The default dtype float32, from the first call that needs it to the end of the last.

    The default dtype belongs to the process, not to a thread: calls in several threads at once must not
    restore it under one another, nor take float32 for the caller's own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._callers = torch.float32

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._callers = torch.float32
            if torch.get_default_dtype() != torch.float32:
                self._callers = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)
            self._inside += 1

    @property
    def needed(self) -> bool:
        """Whether another default is in force, or another call counts on this one."""
        return self._inside > 0 or torch.get_default_dtype() != torch.float32

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._callers != torch.float32:
                torch.set_default_dtype(self._callers)


_float32 = _Float32()


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Work with float32 and the CPU as defaults, without autocast and inference mode; then restore them.

    The same seed must give the same number under `torch.set_default_device`, `torch.set_default_dtype`,
    `torch.autocast` and `torch.inference_mode`. Models keep their own dtype and device: only what is left
    open by those who create tensors is settled here. A caller who has set nothing pays nothing.

    Example:
        >>> import torch
        >>> with torch.device("meta"), torch_defaults():
        ...     print(torch.zeros(1).device)
        cpu
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if _float32.needed:
            stack.enter_context(_float32)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in _AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def with_torch_defaults(function: Callable[_Given, _Returned]) -> Callable[_Given, _Returned]:
    """Run a public function under `torch_defaults`.

    Example:
        >>> import torch
        >>> half = with_torch_defaults(lambda: torch.tensor(0.5).dtype)
        >>> half()
        torch.float32
    """

    @functools.wraps(function)
    def wrapped(*args: _Given.args, **kwargs: _Given.kwargs) -> _Returned:
        with torch_defaults():
            return function(*args, **kwargs)

    return wrapped
