"""Where the residual stream is cut: the numbered states of a capture, their hooks and the proof of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tl_emergence.capture import compat
from tl_emergence.capture.preflight import Preflight, preflight


@dataclass(frozen=True, eq=False)
class Cut:
    """How a block is cut into pieces, each with a state before it and a state after it.

    Piece k of block l has the number l * per_block + k; it reads the state of its own number and writes the
    next. So neighbours differ by one, whatever the cut.

    Attributes:
        per_block: Pieces a block.
        hook: The hook of a state, by its number.
        preflight: Proves the hooks on a few inputs; one norm and one reason a state.
        name: What an error calls a state of some number.
    """

    per_block: int
    hook: Callable[[Any, int], str]
    preflight: Callable[[Any, Tensor], Preflight]
    name: Callable[[int], str]

    def pieces(self, blocks: Sequence[int]) -> tuple[int, ...]:
        """Return the numbers of all pieces of some blocks."""
        return tuple(block * self.per_block + k for block in blocks for k in range(self.per_block))


BLOCKS = Cut(1, compat.residual_hook, preflight, lambda state: f"h_{state}")
"""Whole blocks: state l is h_l, the input of block l."""
