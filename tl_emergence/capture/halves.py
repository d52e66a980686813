"""The stream between the two halves of a block, and the proof that it is what lies between them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tl_emergence.capture import compat
from tl_emergence.capture.checks import not_finite
from tl_emergence.capture.cuts import Cut
from tl_emergence.capture.forward import LastStateReached
from tl_emergence.capture.norms import Norm, no_norm
from tl_emergence.capture.preflight import Preflight, check_equal, is_close, preflight, prove_norm
from tl_emergence.capture.protected import during, no_grad
from tl_emergence.errors import HookError


@dataclass(frozen=True, eq=False)
class _Seen:
    """What one pass went by: activations by hook name, and what norms and MLPs were given and gave."""

    activations: dict[str, Tensor] = field(default_factory=dict)
    norm_io: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    mlp_in: dict[int, Tensor] = field(default_factory=dict)


def half_preflight(model: Any, sample: Int[Tensor, "row pos"]) -> Preflight:
    """Check the hooks of a model between attention and MLP, with two forward passes more than `preflight`.

    Checked besides: every block has a stream in the middle that a pass goes by; it does not depend on later
    tokens; it is the input of the block plus what attention wrote, and the output is it plus what the MLP
    wrote (where the model has hooks of these); the norm of the MLP is fed that stream, computes what its
    probed gain says, and gives what the MLP reads.

    Returns:
        Norms and reasons of state 2l, the input of block l, of state 2l + 1, its middle, and of the output.

    Raises:
        HookError: Attention and MLP side by side, or no MLP, so that there is no middle; hooks that do not
            mean what their names say. A norm that does not fit is no error here: it makes space="read"
            unavailable and is reported as the reason.
        StateError: NaN or infinity in a state.
    """
    check_has_middle(model)
    whole = preflight(model, sample)
    seen = _record(model, sample)
    again: _Seen | None = None
    if sample.shape[1] > 1:  # with one position there is no earlier one that could see what is changed
        changed = sample.clone()
        changed[:, -1] = (changed[:, -1] + 1) % compat.vocabulary_size(model)
        again = _record(model, changed)
    norms, reasons = [], []
    for layer in range(compat.n_layers(model)):
        middle = _checked_middle(model, layer, seen)
        if again is not None:
            check_equal(
                middle[:, :-1],
                _checked_middle(model, layer, again)[:, :-1],
                f"{compat.middle_hook(layer)} at earlier positions changed when only the last token did",
                "causal attention and the same states in every run",
                "Emergence is defined for causal models; a hook that draws random numbers also does this.",
            )
        norm, reason = _middle_norm(model, layer, middle, seen)
        norms += [whole.norms[layer], norm]
        reasons += [whole.reasons[layer], reason and f"{compat.middle_hook(layer)}: {reason}"]
    return replace(whole, norms=(*norms, whole.norms[-1]), reasons=(*reasons, whole.reasons[-1]))


def check_has_middle(model: Any) -> None:
    """Raise HookError for a model whose blocks have no stream between attention and MLP."""
    hooks = [compat.middle_hook(layer) for layer in range(compat.n_layers(model))]
    missing = [name for name in hooks if name not in model.hook_dict]
    if not missing and not compat.no_middle(model):
        return
    raise HookError(
        "blocks have no halves",
        seen=compat.no_middle(model) or f"no {missing[0]}",
        expected="blocks in which attention writes to the stream before the MLP reads it",
        fix="Measure whole blocks: tl_emergence.information_emergence.",
    )


def _checked_middle(model: Any, layer: int, seen: _Seen) -> Tensor:
    """Return the stream in the middle of a block, once it was found to lie between its two ends."""
    name = compat.middle_hook(layer)
    before, after = (seen.activations.get(end) for end in compat.block_hooks(model, layer))
    middle = seen.activations.get(name)
    if middle is None or before is None or after is None or middle.shape != before.shape:
        raise HookError(
            f"{name} cannot be read",
            seen="a forward pass that never came by it" if middle is None else tuple(middle.shape),
            expected="the residual stream between attention and MLP in every block: [batch, pos, d_model]",
            fix="Measure whole blocks: tl_emergence.information_emergence.",
        )
    if not bool(torch.isfinite(middle).all()):
        raise not_finite(f"{name}, on the first prompts")
    for part, start, end, what in (
        (compat.attention_hook(layer), before, middle, f"{name} is not the block's input plus attention"),
        (compat.mlp_hook(layer), middle, after, f"the block's output is not {name} plus its MLP"),
    ):
        written = seen.activations.get(part)
        if written is None:  # not every architecture has a hook there
            continue
        fits = written.shape == start.shape
        check_equal(
            end,
            start + written.to(start) if fits else torch.full_like(start, torch.nan),
            what,
            f"the two streams to differ by {part}",
            "One of your own hooks edits one of the three only, or the architecture scales what its halves "
            "write: measure whole blocks instead.",
        )
    return middle


def _middle_norm(model: Any, layer: int, middle: Tensor, seen: _Seen) -> tuple[Norm | None, str]:
    """Return the norm through which the MLP reads the stream, proven; or None and the reason."""
    given = seen.mlp_in.get(layer)
    if not compat.has_norms(model):
        norm, reason, output = no_norm(middle.shape[-1]), "", middle
    else:
        io = seen.norm_io.get(layer)
        norm, reason = prove_norm(compat.mlp_norm_module(model, layer), middle, io)
        output = None if io is None else io[1]
    if norm is None:
        return None, reason
    if given is None:
        return None, "its MLP was not seen to read a tensor"
    if output is None or not is_close(given, output):
        return None, "the MLP reads something else than what its norm gives"
    return norm, ""


@no_grad
def _record(model: Any, sample: Tensor) -> _Seen:
    """Run once, up to the output of the last block."""
    seen = _Seen()
    layers = range(compat.n_layers(model))
    last = compat.residual_hook(model, len(layers))

    def keep(name: str) -> Callable[..., None]:
        def hook(tensor: Any, hook: Any) -> None:
            if isinstance(tensor, Tensor):
                seen.activations[name] = tensor.detach().clone()
            if name == last:
                raise LastStateReached

        return hook

    def keep_norm(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                seen.norm_io.setdefault(layer, (args[0].detach().clone(), output.detach().clone()))

        return hook

    def keep_mlp(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if args and isinstance(args[0], Tensor):
                seen.mlp_in.setdefault(layer, args[0].detach().clone())

        return hook

    names = [
        name
        for layer in layers
        for name in (
            *compat.block_hooks(model, layer),
            compat.middle_hook(layer),
            compat.attention_hook(layer),
            compat.mlp_hook(layer),
        )
        if name in model.hook_dict
    ]
    modules = [
        (module, hook(layer))
        for layer in layers
        for module, hook in (
            (compat.mlp_norm_module(model, layer), keep_norm),
            (compat.mlp_module(model, layer), keep_mlp),
        )
        if module is not None
    ]

    def run() -> None:
        with suppress(LastStateReached):
            compat.run(model, sample)

    during(
        run, compat.hooked(model, [(name, keep(name)) for name in names]), compat.module_hooks(model, modules)
    )
    return seen


def _name(state: int) -> str:
    return f"blocks.{state // 2}.hook_resid_mid" if state % 2 else f"h_{state // 2}"


HALVES = Cut(2, compat.half_hook, half_preflight, _name)
"""Halves of blocks: state 2l is h_l, the input of block l; 2l + 1 is the stream that its MLP reads."""
