"""Forward passes that end at the last residual stream needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.capture import compat
from tl_emergence.capture.protected import during, no_grad

OnState = Callable[[int, Float[Tensor, "batch pos d_model"]], None]


class LastStateReached(Exception):
    """Raised inside the last hook to leave the forward pass; never seen outside this room."""


def stream_residuals(
    model: Any,
    batch: Int[Tensor, "batch pos"],
    states: Sequence[int],
    on_state: OnState,
    hook_of: Callable[[Any, int], str] = compat.residual_hook,
) -> None:
    """Run one batch and hand each wanted h_l, as it appears, to `on_state(l, tensor)`.

    `hook_of` names the hook of a state; a pass comes by states in the order of their numbers. The tensor is
    the model's own: copy what you keep, change nothing. The pass ends at the last state asked for: neither
    later blocks nor the unembedding run. The caller's hooks stay in force (a state is seen as they leave it)
    and are untouched afterwards, also when `on_state` raises.
    """
    last = max(states)

    def collect(state: int) -> Callable[..., None]:
        def hook(tensor: Tensor, hook: Any) -> None:
            on_state(state, tensor)
            if state == last:
                raise LastStateReached

        return hook

    hooks = [(hook_of(model, state), collect(state)) for state in sorted(states)]

    during(partial(_run_to_last_state, model, batch), compat.hooked(model, hooks))


@no_grad
def _run_to_last_state(model: Any, batch: Int[Tensor, "batch pos"]) -> None:
    with suppress(LastStateReached):
        compat.run(model, batch)


def with_prefix(tokens: Int[Tensor, "row pos"], bos: int | None) -> Int[Tensor, "row extended"]:
    """Put the BOS token, where there is one, before every row."""
    if bos is None:
        return tokens
    return torch.cat([torch.full_like(tokens[:, :1], bos), tokens], dim=1)
