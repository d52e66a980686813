"""Forward passes with activations edited, from the block of the edit on, to the last thing needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.capture import compat
from tl_emergence.capture.forward import LastStateReached, OnState
from tl_emergence.capture.protected import Edit as ModelEdit
from tl_emergence.capture.protected import Step, during, no_grad
from tl_emergence.errors import HookError

Edit = tuple[str, Callable[[Tensor], Tensor]]
"""A hook point, and what its activation becomes: a new tensor, never the given one changed in place."""

PROBE_ROWS = 3
"""Prompts on which shortcuts and hooks are proven."""

_TOLERANCE = 1e-5

# What a model raises that cannot run cut down or from a block on: wrong shapes, missing keys and values.
_DOES_NOT_FIT = (RuntimeError, LookupError, TypeError, ValueError, AttributeError, AssertionError)


@dataclass(frozen=True)
class Shortcuts:
    """What a pass may leave out for one model, as far as `prove_shortcuts` saw that nothing changes.

    Attributes:
        cut: Whether the stream may be cut down to the positions that are wanted before the unembedding.
        starts: The blocks at which a pass may start, the blocks below them left out.
        tuples: For each block, the length of the tuple it returns; 0 where it returns a tensor.
    """

    cut: bool = False
    starts: frozenset[int] = frozenset()
    tuples: tuple[int, ...] = ()


WHOLE = Shortcuts()
"""No shortcut: every pass runs from the tokens and computes all logits."""


@dataclass(frozen=True, eq=False)
class Start:
    """Where a pass starts: at a block, from the residual streams that enter it."""

    layer: int
    residual: Float[Tensor, "batch pos d_model"]


@no_grad
def run_edited(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    *,
    edits: Sequence[Edit] = (),
    states: Sequence[int] = (),
    on_state: OnState | None = None,
    logits_at: Sequence[int] = (),
    start: Start | None = None,
    shortcuts: Shortcuts = WHOLE,
) -> Float[Tensor, "batch kept vocabulary"] | None:
    """Run a batch with edits, hand each wanted h_l to `on_state`, and return logits at some positions.

    Without positions the pass ends at the last state asked for. A start needs `shortcuts` that allow it.
    The caller's own hooks stay in force.

    Raises:
        HookError: Logits of another shape than [batch, kept, vocabulary].
    """
    places = list(logits_at)

    def edit(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        return lambda tensor, hook: change(tensor)

    def collect(state: int) -> Callable[..., None]:
        def hook(tensor: Tensor, hook: Any) -> None:
            assert on_state is not None
            on_state(state, tensor)
            if not places and state == max(states):
                raise LastStateReached

        return hook

    hooks: list[tuple[str, Callable[..., Any]]] = []
    changes: list[ModelEdit] = []
    if start is not None and start.layer > 0:
        assert start.layer in shortcuts.starts
        residual = start.residual
        hooks.append((compat.residual_hook(model, start.layer), lambda tensor, hook: residual))
        changes.append(_skipped_blocks(model, start.layer, shortcuts.tuples))
    hooks += [(name, edit(change)) for name, change in edits]
    hooks += [(compat.residual_hook(model, state), collect(state)) for state in sorted(states)]
    if places and shortcuts.cut:
        changes.append(_cut_before_unembedding(model, places))

    run = compat.logits if places else compat.run
    logits = during(partial(_to_last_state, run, model, tokens), compat.hooked(model, hooks), *changes)
    if logits is None:
        return None
    logits = logits if shortcuts.cut else logits[:, places]
    if logits.ndim != 3 or logits.shape[:2] != (len(tokens), len(places)):
        raise HookError(
            "logits of an unexpected shape",
            seen=tuple(logits.shape),
            expected=f"[batch, position, vocabulary] with {len(tokens)} prompts and {len(places)} positions",
            fix="Report it with the model's name and the TransformerLens version.",
        )
    return logits


def _to_last_state(
    run: Callable[[Any, Tensor], Tensor | None], model: Any, tokens: Int[Tensor, "batch pos"]
) -> Tensor | None:
    try:
        return run(model, tokens)
    except LastStateReached:
        return None


@no_grad
def prove_shortcuts(
    model: Any, tokens: Int[Tensor, "batch pos"], *, starts: Sequence[int] = (), logits_at: Sequence[int] = ()
) -> Shortcuts:
    """Find out, on a few prompts, which shortcuts give what a whole run gives.

    Each is compared with a whole run: the stream behind the last block at every position, and the logits
    asked for. A block that is left out hands on what it was given, in the form in which it returns things;
    the stream is put right at the entrance of the first block that runs. A model whose later blocks need
    more of the earlier ones than the stream (shared keys and values), or that restores the shape of its
    input behind the last block, is found out here, by a difference or by what it raises.

    Args:
        model: The model.
        tokens: A few inputs, BOS included.
        starts: Blocks at which passes could start.
        logits_at: Input positions at which logits will be wanted.

    Cost: a whole pass over these inputs, and one for each start.
    """
    blocks, last = list(model.blocks), compat.n_layers(model)
    tuples = [0] * len(blocks)
    starts = sorted({start for start in starts if start > 0})
    streams: dict[int, Tensor] = {}

    def shape_of(number: int) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            tuples[number] = len(output) if isinstance(output, tuple) else 0

        return hook

    def outcome(shortcuts: Shortcuts, start: Start | None, kept: dict[int, Tensor]) -> Tensor | None:
        return run_edited(
            model,
            tokens,
            states=[*(starts if start is None else []), last],
            on_state=lambda state, x: kept.__setitem__(state, x.clone()),
            logits_at=logits_at,
            start=start,
            shortcuts=shortcuts,
        )

    wanted = during(
        lambda: outcome(WHOLE, None, streams),
        compat.module_hooks(model, [(block, shape_of(i)) for i, block in enumerate(blocks)]),
    )

    def is_proven(shortcuts: Shortcuts, start: Start | None) -> bool:
        kept: dict[int, Tensor] = {}
        try:
            logits = outcome(shortcuts, start, kept)
        except _DOES_NOT_FIT:  # the whole run has just gone well: it is the shortcut that does not
            return False
        same = wanted is None or (logits is not None and _agree(logits, wanted))
        return same and last in kept and _agree(kept[last], streams[last])

    form = tuple(tuples)
    cut = bool(logits_at) and is_proven(Shortcuts(True, frozenset(), form), None)
    found = [
        start
        for start in starts
        if is_proven(Shortcuts(cut, frozenset([start]), form), Start(start, streams[start]))
    ]
    return Shortcuts(cut, frozenset(found), form)


def _agree(seen: Tensor, wanted: Tensor) -> bool:
    if seen.shape != wanted.shape:
        return False
    gap = float((seen.float() - wanted.float()).abs().max())
    return gap <= _TOLERANCE * max(float(wanted.float().abs().max()), 1.0)  # false for NaN


def _cut_before_unembedding(model: Any, places: list[int]) -> ModelEdit:
    """Hand some positions only to the module that makes logits."""
    module = compat.unembedding(model)
    if module is None:
        raise HookError(
            "no unembedding found",
            seen="a model without `unembed`",
            expected="the module that turns the stream into logits",
            fix="Report it with the model's name.",
        )

    def cut(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][:, places], *args[1:])

    return compat.module_hooks(model, [(module, cut)], before=True)


def _skipped_blocks(model: Any, below: int, tuples: Sequence[int]) -> ModelEdit:
    """Have the blocks below a layer return what they are given; put everything back at the end."""
    blocks = list(model.blocks)[:below]

    def handing_on(length: int) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            stream = args[0] if args else kwargs["hidden_states"]
            return (stream, *([None] * (length - 1))) if length else stream

        return forward

    def change(steps: list[Step]) -> None:
        for block, length in zip(blocks, tuples, strict=False):
            steps.append(partial(_put_back_forward, block, block.__dict__.get("forward")))
            block.__dict__["forward"] = handing_on(length)

    return ModelEdit(model, change)


def _put_back_forward(block: Any, own: Callable[..., Any] | None) -> None:
    block.__dict__.pop("forward", None)
    if own is not None:
        block.__dict__["forward"] = own
