"""While a model is loaded: no code of a repository runs, and whatever fails is a ModelLoadError."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tl_emergence.errors import EmergenceError, ModelLoadError
from tl_emergence.torch_state import torch_defaults

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def guarded_loading(what: str, where: object, *, expected: str, fix: str) -> Iterator[None]:
    """Turn any exception of a loader into one ModelLoadError, and keep a repository's own code from running.

    The caller's default device, default dtype and random state neither matter to a loader nor change.
    Threads load one after another, since transformers itself switches the default dtype while it loads.

    Args:
        what: The thing that is wrong if the loader fails.
        where: The folder or name that is loaded, for the message.
        expected: What would have been right.
        fix: What the caller can do about it.

    Raises:
        ModelLoadError: With the loader's own exception as its cause.
    """
    import torch

    with _ONE_AT_A_TIME:
        try:
            with torch_defaults(), torch.random.fork_rng(devices=[]), _no_repository_code(where):
                yield
        except EmergenceError:
            raise
        except BaseException as error:
            if not (isinstance(error, Exception) or _is_rust_panic(error)):
                raise  # Ctrl-C and the like
            if "trust_remote_code" in str(error):
                raise repository_code(where) from error
            raise ModelLoadError(
                what, seen=f"{where}: {first_line(error)}", expected=expected, fix=fix
            ) from error


@contextmanager
def _no_repository_code(where: object) -> Iterator[None]:
    """Refuse any code of a repository, whoever asks for it.

    TransformerLens and transformers do not hand `trust_remote_code=False` on to every loader that they call:
    some of them then ask on standard input, and TransformerLens sets it to True for a few models. The two
    doors that all of these go through are therefore shut as well.
    """
    from transformers import dynamic_module_utils

    def refuse(*_: Any, **__: Any) -> Any:
        raise repository_code(where)

    shut = {"TIME_OUT_REMOTE_CODE": 0, "get_class_in_module": refuse}
    kept = {name: getattr(dynamic_module_utils, name) for name in shut}
    try:
        for name, value in shut.items():
            setattr(dynamic_module_utils, name, value)
        yield
    finally:
        for name, value in kept.items():
            setattr(dynamic_module_utils, name, value)


def repository_code(where: object) -> ModelLoadError:
    """Return the error for a model that brings code of its own."""
    return ModelLoadError(
        "the model needs code of its own, and code of a checkpoint is never run",
        seen=f"{where}, whose configuration names Python code",
        expected="an architecture and a tokenizer that transformers itself has",
        fix="If you trust that code, load the model with TransformerLens yourself and pass the loaded model.",
    )


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _is_rust_panic(error: BaseException) -> bool:
    """Return whether the Rust code of tokenizers or safetensors gave up, which is no Exception by type."""
    return type(error).__name__ == "PanicException"
