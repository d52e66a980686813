"""The coordinates in which a state is seen: as the block reads it, unit-scaled, or raw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from tl_emergence.capture.norms import Norm, NormKind, centred
from tl_emergence.errors import SettingError, unknown_name, warn_caller

Space = Literal["read", "unit", "resid"]
SPACES: tuple[str, ...] = get_args(Space)


@dataclass(frozen=True)
class Reading:
    """How each h_l is read by the block above it (or by the final norm).

    Attributes:
        norms: One callable a state, l = 0..L; None where it is not known.
        reasons: One reason a state for a missing norm; empty where there is one.
        folded: Whether the norms' gains were folded into the weights, so that `read` cannot be had.
    """

    norms: tuple[Callable[[Tensor], Tensor] | None, ...]
    reasons: tuple[str, ...]
    folded: bool = False

    def kind(self, state: int) -> NormKind:
        """Return the kind of the norm that reads a state; "rms" where it is not known."""
        norm = self.norms[state]
        return norm.kind if isinstance(norm, Norm) else "rms"

    @property
    def default_space(self) -> Space:
        """`read` where every state has its norm with its gain, else `unit`."""
        return "unit" if self.folded or None in self.norms else "read"


def chosen_by_default(reading: Reading) -> Space:
    """Return the space in which states are seen unless another is asked for; warn where it is not "read"."""
    default = reading.default_space
    if default != "read":
        why = "its norm gains are folded into the weights" if reading.folded else "not every norm is known"
        warn_caller(
            f"space='unit' was chosen, not 'read': {why}. Bits depend on the space: compare at equal space "
            "only. Pass space= to choose, and to silence this."
        )
    return default


def check_space_name(space: str) -> None:
    """Raise SettingError for an unknown space."""
    if not isinstance(space, str) or space not in SPACES:
        raise unknown_name("space", str(space), SPACES)


def check_space(space: str, reading: Reading, states: tuple[int, ...]) -> None:
    """Raise SettingError for an unknown space, or for `read` where some state has no norm of its own."""
    check_space_name(space)
    if space != "read":
        return
    if reading.folded:
        raise SettingError(
            "space='read' cannot be had",
            seen="a model whose norm gains were folded into its weights",
            expected="norms that still have their learned gains",
            fix="Use space='unit', or load the model without processing (fold_ln=False).",
        )
    missing = [state for state in states if reading.norms[state] is None]
    if missing:
        raise SettingError(
            "space='read' cannot be had",
            seen=f"no norm for state(s) {missing}: {reading.reasons[missing[0]]}",
            expected="a norm that reads every state",
            fix="Use space='unit' or 'resid'; with a cache, pass norms=[...], one callable a state.",
        )


def in_space(
    x: Float[Tensor, "row d_model"], state: int, space: Space, reading: Reading, scale: float
) -> Float[Tensor, "row d_model"]:
    """Return h_l in the coordinates of a space; each row is mapped by itself.

    `read`: the norm that reads h_l, learned gain included, then the row rescaled to RMS 1. `unit`: the
    same norm without gain and bias, rescaled to RMS 1 (a state of zeros stays zero). `resid`: the raw state
    divided by `scale`, the root mean square of h_l over all prompts and all their content positions.
    """
    if space == "resid":
        return x / scale if scale > 0 else x  # a stream of zeros stays zero
    norm = reading.norms[state]
    if space == "read":
        assert norm is not None  # check_space came first
        return _unit_rms(norm(x))
    return _unit_rms(centred(x, reading.kind(state)))


def _unit_rms(x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    rms = x.square().mean(dim=-1, keepdim=True).sqrt()
    return x / rms.clamp_min(torch.finfo(x.dtype).tiny)
