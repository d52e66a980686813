"""Proof, on a few prompts, that hooks whose activations are replaced hold what is added to the stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tl_emergence.capture import compat
from tl_emergence.capture.edited import run_edited
from tl_emergence.capture.preflight import check_equal, is_close
from tl_emergence.capture.protected import Edit, during, no_grad
from tl_emergence.errors import HookError

_FIX = (
    "The hook points at another tensor in this TransformerLens version, or the architecture does more there: "
    "update TransformerLens, ablate other parts, or report it with the model's name."
)


@dataclass(eq=False)
class _Pass:
    """What one pass up to the end of a block went by.

    Attributes:
        held: What the hook point held after the edit, once for each time that it fired.
        entering: The stream at the entrance of the block.
        leaving: The stream behind the block.
        read: What the modules of the block read, where it has the shape of the stream.
        attended: What attention and its modules gave, where it has the shape of the stream.
    """

    held: list[Tensor] = field(default_factory=list)
    entering: list[Tensor] = field(default_factory=list)
    leaving: list[Tensor] = field(default_factory=list)
    read: dict[str, Tensor] = field(default_factory=dict)
    attended: dict[str, Tensor] = field(default_factory=dict)


@no_grad
def prove_heads(model: Any, sample: Int[Tensor, "row pos"], layers: Sequence[int]) -> None:
    """Prove for some blocks that `hook_z` holds what goes into the output projection, and that edits act.

    Two passes up to the end of each block, one clean, one with random numbers at the hook. In both the output
    projection must be given what the hook holds, head by head; the stream behind the block must change.
    The caller's own hooks are off meanwhile.

    Raises:
        HookError: The hook does not fire once in a pass, has no slot for each head, or is not what the
            projection reads.
    """
    n_heads = compat.n_heads(model)
    for layer in layers:
        name = compat.head_hook(layer)
        clean = _run(model, sample, layer, name)
        z = _held_once(clean, name)
        if z.ndim != 4 or z.shape[:2] != sample.shape or z.shape[2] != n_heads:
            raise HookError(
                f"{name} has the wrong shape",
                seen=tuple(z.shape),
                expected=f"[batch, pos, head, d_head] with {n_heads} heads",
                fix="This architecture's heads cannot be told apart; report it with the model's name.",
            )
        drawn = _drawn_like(z)
        edited = _run(model, sample, layer, name, drawn)
        check_equal(_held_once(edited, name), drawn, f"{name} does not keep an edit", "the edit", _FIX)
        for seen in (clean, edited):
            _check_projected(model, layer, seen)
        _check_moved(name, clean, edited)


@no_grad
def prove_mlps(model: Any, sample: Int[Tensor, "row pos"], layers: Sequence[int]) -> None:
    """Prove for some blocks that `hook_mlp_out` holds what the MLP adds to the stream, and that edits act.

    Two passes up to the end of each block, one clean, one with random numbers at the hook. A stream behind
    the MLP (the output of the block, or what a module of the block reads) must change by the change at the
    hook; and without what the hook holds it must be the stream before: one that a module reads besides the
    block's input, or the input plus what attention writes. A fixed factor on what the MLP writes is allowed.
    The caller's own hooks are off meanwhile.

    Raises:
        HookError: The hook does not fire once in a pass, has another shape, or holds something else.
    """
    for layer in layers:
        name = compat.mlp_hook(layer)
        clean = _run(model, sample, layer, name)
        written = _held_once(clean, name)
        stream = clean.leaving[0]
        if written.shape != stream.shape:
            raise HookError(
                f"{name} has the wrong shape",
                seen=tuple(written.shape),
                expected=f"[batch, pos, d_model] = {tuple(stream.shape)}",
                fix=_FIX,
            )
        drawn = _drawn_like(written)
        edited = _run(model, sample, layer, name, drawn)
        _check_moved(name, clean, edited)
        if not _is_added(clean, edited, written, drawn):
            raise HookError(
                f"{name} does not hold what the MLP adds to the stream",
                seen="a stream behind the MLP that is not the one before it plus what the hook holds",
                expected="stream behind the MLP = stream before it + the hook's tensor",
                fix=_FIX,
            )


@no_grad
def prove_blocks(model: Any, sample: Int[Tensor, "row pos"], layers: Sequence[int]) -> None:
    """Prove for some blocks that edits of the streams before and behind them act.

    That these hooks hold the stream is proven by `preflight`. The caller's own hooks are off meanwhile.

    Raises:
        HookError: A hook does not fire once in a pass, or an edit does not reach what reads the stream.
    """
    last = compat.n_layers(model) - 1
    for layer in layers:
        before, behind = compat.block_hooks(model, layer)
        clean = _run(model, sample, layer, before)
        drawn = _drawn_like(_held_once(clean, before))
        _check_moved(before, clean, _run(model, sample, layer, before, drawn))
        reader = None
        if layer == last:
            reader = compat.norm_modules(model)[-1] or compat.unembedding(model)
        edited = _run(model, sample, layer, behind, drawn, reader)
        arrived = edited.read.get("reader") if layer == last else edited.leaving[-1]
        if arrived is None or not is_close(arrived, drawn):
            raise HookError(
                f"an edit of {behind} does not reach what follows the block",
                seen="another stream there" if arrived is not None else "nothing that reads the stream",
                expected="the edited stream",
                fix=_FIX,
            )


def _run(
    model: Any,
    sample: Tensor,
    layer: int,
    name: str,
    value: Tensor | None = None,
    reader: nn.Module | None = None,
) -> _Pass:
    """Run up to the end of a block, or to the logits where a later reader is to be seen."""
    seen = _Pass()
    shape = torch.Size((*sample.shape, compat.d_model(model)))

    def at_hook(tensor: Tensor) -> Tensor:
        tensor = tensor if value is None else value
        seen.held.append(tensor.clone())
        return tensor

    def enter(tensor: Tensor) -> Tensor:
        seen.entering.append(tensor.clone())
        return tensor

    during(
        lambda: run_edited(
            model,
            sample,
            edits=[(compat.block_hooks(model, layer)[0], enter), (name, at_hook)],
            states=(layer + 1,),
            on_state=lambda state, stream: seen.leaving.append(stream.clone()),
            logits_at=() if reader is None else (sample.shape[1] - 1,),
        ),
        compat.callers_hooks_off(model),
        *_watched(model, layer, seen, shape, reader),
    )
    return seen


def _watched(
    model: Any, layer: int, seen: _Pass, shape: torch.Size, reader: nn.Module | None
) -> tuple[Edit, Edit]:
    """Return hooks that record what the modules of a block read and what attention gives."""
    points = {id(point) for point in model.hook_dict.values()}
    projection = compat.output_projection(model, layer)

    def note(into: dict[str, Tensor], key: str, given: Any) -> None:
        x = given[0] if isinstance(given, tuple) and given else given
        if isinstance(x, Tensor) and x.shape[-1:] == shape[-1:] and x.numel() == shape.numel():
            into[key] = x.detach().reshape(shape).clone()

    def before(key: str) -> Callable[..., None]:
        return lambda module, args: note(seen.read, key, args)

    def after(key: str) -> Callable[..., None]:
        return lambda module, args, output: note(seen.attended, key, output)

    def project(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.read["projection"] = args[0].detach().clone()

    block = model.blocks[layer]
    # By the name of attention, not of the block: a bridge lists the wrapped modules first.
    attention = getattr(block, "attn", None)
    attending = () if attention is None else attention.named_modules(prefix="attn")
    reading = [
        (module, before(key)) for key, module in block.named_modules() if key and id(module) not in points
    ]
    reading += [] if projection is None else [(projection, project)]
    reading += [] if reader is None else [(reader, before("reader"))]
    giving = [(module, after(key)) for key, module in attending if id(module) not in points]
    return compat.module_hooks(model, reading, before=True), compat.module_hooks(model, giving)


def _held_once(seen: _Pass, name: str) -> Tensor:
    if len(seen.held) != 1:
        raise HookError(
            f"{name} did not fire once",
            seen=f"{len(seen.held)} times in a forward pass",
            expected="once: an edit of it would be lost, or made several times",
            fix=_FIX,
        )
    return seen.held[0]


def _drawn_like(tensor: Tensor) -> Tensor:
    """Return random numbers of the size of an activation, the same in every call."""
    drawn = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
    size = tensor.float().square().mean().sqrt().clamp_min(1e-6)
    return drawn.to(device=tensor.device, dtype=tensor.dtype) * size.to(tensor.dtype)


def _check_projected(model: Any, layer: int, seen: _Pass) -> None:
    """Raise HookError unless the output projection was given what `hook_z` holds."""
    name, z = compat.head_hook(layer), seen.held[0]
    what = f"{name} is not what the output projection of the heads reads"
    given = seen.read.get("projection")
    if given is not None:
        fits = given.numel() == z.numel()
        wanted = given.reshape(z.shape) if fits else torch.full_like(z, torch.nan)
        check_equal(z, wanted, what, "the outputs of the heads, side by side", _FIX)
        return
    weights, bias = compat.output_weights(model, layer), compat.output_bias(model, layer)
    written = seen.attended.get("attn")
    if weights is None or bias is None or written is None:
        raise HookError(
            f"{name} cannot be proven",
            seen="neither a module that projects the outputs of the heads, nor its weights",
            expected="either of them",
            fix=_FIX,
        )
    projected = torch.einsum("bphd,hdm->bpm", z, weights.to(z)) + bias.to(z)
    check_equal(written, projected, what, "attention to write z W_O + b_O", _FIX)


def _check_moved(name: str, clean: _Pass, edited: _Pass) -> None:
    """Raise HookError where an edit leaves the stream behind the block as it was at some position."""
    moved = (edited.leaving[0] - clean.leaving[0]).abs().amax(dim=-1)
    if not bool((moved > 0).all()):
        raise HookError(
            f"an edit of {name} does not reach the stream",
            seen="the same stream behind the block at some positions",
            expected="another one at every position",
            fix=_FIX,
        )


def _is_added(clean: _Pass, edited: _Pass, written: Tensor, drawn: Tensor) -> bool:
    """Return whether some stream is the one before the MLP plus what the hook holds, in both passes."""
    entering = clean.entering[0]
    before = [x for x in clean.read.values() if x.shape == entering.shape and not is_close(x, entering)]
    before += [entering + x for x in clean.attended.values()]
    after_clean = {"leaving": clean.leaving[0], **clean.read}
    after_edited = {"leaving": edited.leaving[0], **edited.read}
    wanted = (drawn - written).double()
    for key, total in after_clean.items():
        if total.shape != written.shape or key not in after_edited:
            continue
        change = (after_edited[key] - total).double()
        factor = float((change * wanted).sum() / wanted.square().sum())
        if factor == 0 or not is_close(total + (factor * wanted).to(total), after_edited[key]):
            continue
        rest = total - factor * written
        if any(is_close(rest, x) for x in before):
            return True
    return False
