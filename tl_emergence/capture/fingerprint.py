"""What tells one model from another when a run that was stopped goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tl_emergence.capture import compat
from tl_emergence.capture.protected import in_turn
from tl_emergence.errors import SettingError

# Where a model runs does not change what it computes.
_NOT_THE_MODEL = {"device", "training"}


def model_fingerprint(model: Any) -> str:
    """Return a short hash of what a model computes: its parameters, buffers and configuration.

    Every bit of every parameter and buffer counts, and so do the plain values in the configuration and in
    the attributes of every module: epsilons of norms, soft caps, scales of attention, rotary settings.

    Raises:
        SettingError: The model has hooks of the caller's on it: they change what is measured, and no
            fingerprint can tell one function from another.

    Cost: one pass over the weights, about a second per gigabyte.
    """
    return in_turn(model, lambda: _fingerprint(model))


def _fingerprint(model: Any) -> str:
    hooks = compat.callers_hooks(model)
    if hooks:
        raise SettingError(
            "a run with hooks cannot be kept for going on",
            seen=f"hooks on {', '.join(hooks[:4])}",
            expected="a model without hooks of your own wherever a work folder is given",
            fix="Leave the work folder out, or take the hooks off.",
        )
    digest = hashlib.sha256()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    digest.update(_plain(vars(model.cfg)).encode())
    for name, module in model.named_modules():
        digest.update(f"{name} {type(module).__qualname__} {_plain(vars(module))}\n".encode())
    return digest.hexdigest()[:16]


def _plain(value: Any) -> str:
    """Return the plain values in a configuration as text, sorted by name; nothing for anything else."""
    if isinstance(value, Tensor):
        return "" if value.numel() > 64 else str(value.tolist())  # larger ones are buffers
    if isinstance(value, Mapping):
        texts = {str(key): _plain(part) for key, part in value.items() if _counts(str(key))}
        return "{" + ", ".join(f"{key}: {texts[key]}" for key in sorted(texts) if texts[key]) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_plain(part) for part in value) + "]"
    if isinstance(value, str | int | float | torch.dtype):
        return repr(value)
    if hasattr(value, "to_dict"):  # the configuration of transformers, which modules read as they run
        return _plain(value.to_dict())
    return ""


def _counts(name: str) -> bool:
    return not name.startswith("_") and name not in _NOT_THE_MODEL
