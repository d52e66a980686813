"""Proof, on a few prompts, that the hooks of a model mean what their names say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tl_emergence.capture import compat
from tl_emergence.capture.checks import not_finite
from tl_emergence.capture.norms import Norm, no_norm, probe_norm
from tl_emergence.capture.protected import during, no_grad
from tl_emergence.errors import HookError
from tl_emergence.torch_state import with_torch_defaults

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# What a norm puts out is compared in the precision of float32 at most: it may work in it inside.
_NORM_TOLERANCE = {**_TOLERANCE, torch.float64: _TOLERANCE[torch.float32]}


class _Recorded(Exception):
    """Raised behind the final norm: the unembedding is not needed."""


@dataclass(frozen=True, eq=False)
class Preflight:
    """What the preflight established about a model.

    Attributes:
        norms: The norm that reads each h_l, proven on real states; None where there is no such norm.
        reasons: For each h_l, why there is no norm; empty where there is one.
        folded: Whether the gains were folded into the weights: the model says that its weights were
            processed, and every gain is 1.
        centred: Whether the residual stream has mean zero (writing weights centred).
    """

    norms: tuple[Norm | None, ...]
    reasons: tuple[str, ...]
    folded: bool
    centred: bool


@with_torch_defaults
def preflight(model: Any, sample: Int[Tensor, "row pos"]) -> Preflight:
    """Check the residual hooks of a model on a few inputs (BOS included), with two forward passes.

    Checked: every residual hook exists and gives [batch, pos, d_model]; the output of block l is the
    input of block l + 1; a state does not depend on later tokens (causal, and the same in two runs); the
    norm that reads h_l is fed h_l and computes what its probed gain says.

    Raises:
        HookError: One of the first three does not hold. A norm that does not fit is no error here:
            it makes space="read" unavailable and is reported as the reason.
        StateError: NaN or infinity in a state.
    """
    layers = compat.n_layers(model)
    _check_hooks_exist(model, layers)
    states, norm_io = _record(model, sample)
    shape = (*sample.shape, compat.d_model(model))
    for name in _residual_hooks(layers):
        tensor = states.get(name)
        if tensor is None:
            raise HookError(
                f"{name} did not fire",
                seen="a forward pass that never came by it",
                expected="every block to run, its residual hooks included",
                fix="Use a model whose blocks all run; report it with the model's name.",
            )
        if tuple(tensor.shape) != shape:
            raise HookError(
                f"{name} has the wrong shape",
                seen=tuple(tensor.shape),
                expected=f"[batch, pos, d_model] = {shape}",
                fix="This architecture's residual stream cannot be read; report it with the model's name.",
            )
        if not bool(torch.isfinite(tensor).all()):
            raise not_finite(f"{name}, on the first prompts")
    for layer in range(layers - 1):
        check_equal(
            states[f"blocks.{layer}.hook_resid_post"],
            states[f"blocks.{layer + 1}.hook_resid_pre"],
            f"blocks.{layer}.hook_resid_post is not blocks.{layer + 1}.hook_resid_pre",
            "the output of each block to be the input of the next",
            _fix_of_stream(model, layer),
        )
    _check_causal(model, sample, states)
    stream = [states[compat.residual_hook(model, state)] for state in range(layers + 1)]
    if compat.has_norms(model):
        proven = [
            prove_norm(module, stream[state], norm_io.get(state))
            for state, module in enumerate(compat.norm_modules(model))
        ]
    else:
        proven = [(no_norm(shape[-1]), "")] * (layers + 1)
    last = stream[-1].cpu().double()
    centred = bool(last.mean(dim=-1).abs().max() <= 1e-4 * last.square().mean().sqrt())
    norms = tuple(norm for norm, _ in proven)
    flat = all(norm is None or bool((norm.gain - 1).abs().max() < 1e-6) for norm in norms)
    folded = compat.weights_processed(model) and flat
    return Preflight(norms, tuple(reason for _, reason in proven), folded, centred)


def _fix_of_stream(model: Any, layer: int) -> str:
    """Return what to do where the output of a block is not the input of the next."""
    behind, before = compat.block_hooks(model, layer)[1], compat.block_hooks(model, layer + 1)[0]
    if getattr(model.hook_dict[before], "fwd_hooks", None):
        return (
            f"Your hook on {before} edits the stream after the output of block {layer} was read. Put the "
            f"same hook on {behind} instead: block {layer + 1} then reads the same stream."
        )
    return (
        "A hook alias points at another tensor in this TransformerLens version: update TransformerLens, "
        "or report it with the model's name."
    )


def _residual_hooks(layers: int) -> list[str]:
    return [f"blocks.{i}.hook_resid_{side}" for i in range(layers) for side in ("pre", "post")]


def _check_hooks_exist(model: Any, layers: int) -> None:
    known = model.hook_dict
    missing = [name for name in _residual_hooks(layers) if name not in known]
    if missing:
        raise HookError(
            "residual hooks are missing",
            seen=f"no {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            expected="hook_resid_pre and hook_resid_post in every block",
            fix="Use an architecture with a plain stack of blocks.",
        )


def _record(model: Any, sample: Tensor) -> tuple[dict[str, Tensor], dict[int, tuple[Tensor, Tensor]]]:
    """Run once; return every residual state, and input and output of every norm that reads one."""
    states: dict[str, Tensor] = {}
    norm_io: dict[int, tuple[Tensor, Tensor]] = {}

    def keep_state(name: str) -> Callable[..., None]:
        def hook(tensor: Tensor, hook: Any) -> None:
            states[name] = tensor.detach().clone()

        return hook

    modules = {state: m for state, m in enumerate(compat.norm_modules(model)) if m is not None}
    last = compat.n_layers(model)

    def keep_norm(state: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                norm_io.setdefault(state, (args[0].detach().clone(), output.detach().clone()))
            if state == last:
                raise _Recorded

        return hook

    @no_grad
    def run() -> None:
        with suppress(_Recorded):
            compat.run(model, sample)

    during(
        run,
        compat.hooked(model, [(name, keep_state(name)) for name in _residual_hooks(last)]),
        compat.module_hooks(model, [(module, keep_norm(state)) for state, module in modules.items()]),
    )
    return states, norm_io


def _check_causal(model: Any, sample: Tensor, states: dict[str, Tensor]) -> None:
    if sample.shape[1] < 2:
        return
    changed = sample.clone()
    changed[:, -1] = (changed[:, -1] + 1) % compat.vocabulary_size(model)
    again, _ = _record(model, changed)
    training = getattr(model, "training", False)
    for name, tensor in states.items():
        check_equal(
            tensor[:, :-1],
            again[name][:, :-1],
            f"{name} at earlier positions changed when only the last token did",
            "causal attention and the same states in every run",
            "The model is in training mode (dropout): call model.eval() first."
            if training
            else "Emergence is defined for causal models; a hook that draws random numbers also does this.",
        )


def check_equal(seen: Tensor, wanted: Tensor, what: str, expected: str, fix: str) -> None:
    """Raise HookError where two tensors differ by more than rounding, in the precision of the first."""
    # On the CPU: not every device has float64.
    seen64, wanted64 = seen.cpu().double(), wanted.cpu().double()
    gap, scale = float((seen64 - wanted64).abs().max()), float(wanted64.abs().max())
    # A NaN compares false to everything: it must land in the error, not slip through.
    if not gap <= _TOLERANCE[seen.dtype] * max(scale, 1e-30):
        raise HookError(
            what, seen=f"a largest difference of {gap:.3g} (states up to {scale:.3g})",
            expected=expected, fix=fix,
        )  # fmt: skip


def prove_norm(
    module: nn.Module | None, state: Tensor, io: tuple[Tensor, Tensor] | None
) -> tuple[Norm | None, str]:
    """Return the norm if it is fed `state` and does what it was probed to do, else None and the reason."""
    if module is None:
        return None, "the architecture has no norm there"
    if io is None:
        return None, "its norm module did not run on a tensor"
    seen, output = io
    if seen.ndim == state.ndim + 1:  # one copy a head (use_attn_in, use_split_qkv_input)
        seen, output = seen[:, :, 0], output[:, :, 0]
    tolerance = _TOLERANCE[state.dtype]
    if seen.shape != state.shape or not _close(seen, state, tolerance):
        return None, "the block's norm does not read the residual stream (post-norm architecture)"
    norm = probe_norm(module, state.shape[-1], state)
    if norm is None:
        return None, f"{type(module).__name__} is no RMSNorm or LayerNorm"
    if not _close(
        norm(seen.to(torch.promote_types(seen.dtype, torch.float32))), output, _NORM_TOLERANCE[state.dtype]
    ):
        return None, f"{type(module).__name__} does more than a gain on a normalised state"
    return norm, ""


def is_close(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have one shape and differ by rounding only."""
    return a.shape == b.shape and _close(a, b, _TOLERANCE[b.dtype])


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    a, b = a.cpu().double(), b.cpu().double()
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp_min(1e-30))
