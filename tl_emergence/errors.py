"""The typed errors of the package: each says what was seen, what was expected and what to do."""

import sys
import warnings
from collections.abc import Iterable

_OWN_FRAMES = ("tl_emergence", "contextlib", "functools", "jaxtyping", "beartype", "torch")


class EmergenceError(Exception):
    """Base of every error that tl_emergence raises on purpose.

    Args:
        what: The thing that is wrong, in a few words.
        seen: What was found.
        expected: What would have been right.
        fix: What the caller can do about it.

    The message joins the four; they also stay readable as attributes of the same names.
    """

    def __init__(self, what: str, *, seen: object, expected: str, fix: str) -> None:
        self.what, self.seen, self.expected, self.fix = what, seen, expected, fix
        super().__init__(f"{what}: saw {seen}; expected {expected}. {fix}")


class TokenError(EmergenceError, ValueError):
    """Tokens or prompts that cannot be measured: shape, dtype, length, vocabulary, tokenizer."""


class StateError(EmergenceError, ValueError):
    """Hidden states that cannot be measured: shape, missing hook, NaN or infinity."""


class SettingError(EmergenceError, ValueError):
    """An option out of its range, or a name that nothing has."""


class HookError(EmergenceError, RuntimeError):
    """A model whose hooks are missing, or do not mean what their names say."""


class UnitError(EmergenceError, ValueError):
    """Values of heads or blocks that cannot be held or compared: shape, NaN, labels, too few."""


class ModelLoadError(EmergenceError, RuntimeError):
    """A model that cannot be loaded: unknown name, folder without a checkpoint, damaged file."""


class MissingPackageError(EmergenceError, ImportError):
    """An optional package that this call needs and that is not installed."""


class ResultFileError(EmergenceError, OSError):
    """A saved result that cannot be read or written: damaged, truncated, missing, not writable."""

    def __str__(self) -> str:
        # OSError.__str__ prints errno and file name when it can; the four-part message says more.
        return str(self.args[0])


class MissingKeyError(SettingError, KeyError):
    """A key that a sweep or comparison does not have; a KeyError too, as mappings promise."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError.__str__ would print its repr


def unknown_key(kind: str, seen: object, known: "Iterable[object]") -> MissingKeyError:
    """Return the error for a key that is not there."""
    return MissingKeyError(
        f"{kind} not measured", seen=repr(seen), expected=f"one of {list(known)}", fix="Choose one of these."
    )


def unknown_name(kind: str, seen: object, known: "list[str] | tuple[str, ...]") -> SettingError:
    """Return the error for a name that nothing has, with the nearest known name as a hint."""
    import difflib

    close = difflib.get_close_matches(str(seen), known, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else "Choose one of these."
    return SettingError(f"unknown {kind}", seen=repr(seen), expected=f"one of {sorted(known)}", fix=hint)


class EmergenceWarning(UserWarning):
    """Something was decided for the caller that changes what the numbers mean."""


def warn_caller(message: str) -> None:
    """Issue an EmergenceWarning that points at the line of the caller, outside of the package.

    However deep in the package the decision is taken, a warning is of use only where the call is. PyTorch's
    no_grad, and in the tests jaxtyping (whose generated code has no module name) and beartype, put frames of
    their own in between.
    """
    frame, level = sys._getframe(0), 2
    while frame.f_back is not None and _is_own(frame.f_back.f_globals.get("__name__", "jaxtyping")):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, EmergenceWarning, stacklevel=level)


def _is_own(module: str) -> bool:
    return module.split(".")[0] in _OWN_FRAMES
