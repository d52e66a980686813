"""What tells one model from another when a run that was stopped goes on."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from tl_emergence.capture import compat
from tl_emergence.capture.protected import in_turn
from tl_emergence.errors import SettingError


def model_fingerprint(model: Any) -> str:
    """Return a short hash of every bit of every parameter.

    Raises:
        SettingError: The model has hooks of the caller's on it: they change what is measured, and no
            fingerprint can tell one function from another.

    Cost: one pass over the weights, about a second a gigabyte.
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
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
