"""Forward passes with activations edited, from the block of the edit on, to the last thing needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.capture import compat
from tl_emergence.capture.forward import LastStateReached, OnState

Edit = tuple[str, Callable[[Tensor], Tensor]]
"""A hook point, and what its activation becomes: a new tensor, never the given one changed in place."""

_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Skipping:
    """How to leave out the blocks below an edit, for one model.

    Attributes:
        possible: Whether a pass that starts at a block was seen to give what a whole pass gives.
        tuples: For each block, the length of the tuple it returns; 0 where it returns a tensor.
    """

    possible: bool
    tuples: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Start:
    """Where a pass starts: at a block, from the residual streams that enter it."""

    layer: int
    residual: Float[Tensor, "batch pos d_model"]


@torch.no_grad()
def run_edited(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    *,
    edits: Sequence[Edit] = (),
    states: Sequence[int] = (),
    on_state: OnState | None = None,
    logits_at: Sequence[int] = (),
    start: Start | None = None,
    skipping: Skipping | None = None,
) -> Float[Tensor, "batch kept vocabulary"] | None:
    """Run a batch with edits, hand each wanted h_l to `on_state`, and return logits at some positions.

    The stream is cut down to those positions before the final norm and the unembedding, which see each
    position by itself. Without positions the pass ends at the last state asked for. A start needs
    `skipping`, that of this model. The caller's own hooks stay in force.
    """
    last = compat.n_layers(model)

    def edit(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        return lambda tensor, hook: change(tensor)

    def collect(state: int) -> Callable[..., None]:
        def hook(tensor: Tensor, hook: Any) -> None:
            assert on_state is not None
            on_state(state, tensor)
            if not logits_at and state == max(states):
                raise LastStateReached

        return hook

    def cut(tensor: Tensor, hook: Any) -> Tensor:
        return tensor[:, list(logits_at)]

    hooks: list[tuple[str, Callable[..., Any]]] = []
    skipped = nullcontext()
    if start is not None and start.layer > 0:
        assert skipping is not None and skipping.possible
        residual = start.residual
        hooks.append((compat.residual_hook(model, start.layer), lambda tensor, hook: residual))
        skipped = _skipped_blocks(model, start.layer, skipping)
    hooks += [(name, edit(change)) for name, change in edits]
    hooks += [(compat.residual_hook(model, state), collect(state)) for state in sorted(states)]
    if logits_at:
        hooks.append((compat.residual_hook(model, last), cut))
    with compat.hooked(model, hooks), skipped:
        try:
            return compat.logits(model, tokens) if logits_at else compat.run(model, tokens)
        except LastStateReached:
            return None


@torch.no_grad()
def prove_skipping(model: Any, tokens: Int[Tensor, "batch pos"]) -> Skipping:
    """Find out, on a few prompts, whether blocks can be left out: two passes, compared at the end.

    A block that is left out hands on what it was given, in the form in which it returns things; the stream
    is put right at the entrance of the first block that runs.
    """
    blocks = list(model.blocks)
    tuples = [0] * len(blocks)

    def shape_of(number: int) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            tuples[number] = len(output) if isinstance(output, tuple) else 0

        return hook

    middle, last = len(blocks) - 1, len(blocks)
    if middle < 1:
        return Skipping(False, tuple(tuples))
    whole: dict[int, Tensor] = {}
    handles = [block.register_forward_hook(shape_of(i)) for i, block in enumerate(blocks)]
    position = tokens.shape[1] - 1
    try:
        wanted = run_edited(
            model,
            tokens,
            states=(middle, last),
            on_state=lambda state, x: whole.__setitem__(state, x.clone()),
            logits_at=[position],
        )
    finally:
        for handle in handles:
            handle.remove()
    hopeful = Skipping(True, tuple(tuples))
    again = run_edited(
        model, tokens, logits_at=[position], start=Start(middle, whole[middle]), skipping=hopeful
    )
    assert wanted is not None and again is not None
    gap = float((again - wanted).abs().max())
    return Skipping(gap <= _TOLERANCE * max(float(wanted.abs().max()), 1.0), tuple(tuples))


@contextmanager
def _skipped_blocks(model: Any, below: int, skipping: Skipping) -> Iterator[None]:
    """Have the blocks below a layer return what they are given; put everything back at the end."""
    blocks = list(model.blocks)[:below]
    own = [block.__dict__.get("forward") for block in blocks]

    def handing_on(length: int) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            stream = args[0] if args else kwargs["hidden_states"]
            return (stream, *([None] * (length - 1))) if length else stream

        return forward

    try:
        for block, length in zip(blocks, skipping.tuples, strict=False):
            block.__dict__["forward"] = handing_on(length)
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            block.__dict__.pop("forward", None)
            if forward is not None:
                block.__dict__["forward"] = forward
