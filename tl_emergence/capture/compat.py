"""Everything that differs between TransformerLens versions and model classes, in one file.

Nothing here imports TransformerLens: models are known by what they offer (`cfg`, `hooks`, `hook_dict`,
`blocks`), so HookedTransformer (2.x, 3.x) and TransformerBridge (3.x, 4.x) come in by the same door.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tl_emergence.capture.protected import CallersEdit, Edit, Step, uninterrupted
from tl_emergence.checks import integer, truth
from tl_emergence.errors import HookError, TokenError, warn_caller

MODEL_NOTE = "tl_emergence_note"
"""Attribute of a model that says, for titles, what it was made from (`models.load` sets it)."""

_NEEDED = ("cfg", "hooks", "hook_dict", "run_with_hooks", "blocks")


def check_model(model: Any) -> None:
    """Raise HookError unless `model` offers what a TransformerLens model offers."""
    missing = [name for name in _NEEDED if not hasattr(model, name)]
    if missing:
        raise HookError(
            "not a TransformerLens model",
            seen=f"{type(model).__name__} without {', '.join(missing)}",
            expected="a HookedTransformer or a TransformerBridge",
            fix="Load it first: tl_emergence.models.load(name); or wrap a Hugging Face model: "
            "TransformerBridge.boot_transformers(name, hf_model=model, ...).",
        )


def n_layers(model: Any) -> int:
    """Return the number of blocks."""
    return int(model.cfg.n_layers)


def d_model(model: Any) -> int:
    """Return the width of the residual stream."""
    return int(model.cfg.d_model)


def vocabulary_size(model: Any) -> int:
    """Return the number of token ids that the model's embedding knows."""
    return int(model.cfg.d_vocab)


def context_length(model: Any) -> int | None:
    """Return the longest input that the model takes, or None where it does not say."""
    n_ctx = getattr(model.cfg, "n_ctx", None)
    return int(n_ctx) if n_ctx else None


def device(model: Any) -> torch.device:
    """Return the device of the model's first parameter."""
    first = next(iter(model.parameters()), None)
    return torch.device("cpu") if first is None else first.device


def estimation_device(model: Any) -> torch.device:
    """Return where states are measured: beside the model, or on the CPU where a device has no float64."""
    found = device(model)
    return torch.device("cpu") if found.type == "mps" else found


def residual_hook(model: Any, state: int) -> str:
    """Return the hook of h_l: the input of block l, or for l = L the output of the last block."""
    if state < n_layers(model):
        return f"blocks.{state}.hook_resid_pre"
    return f"blocks.{state - 1}.hook_resid_post"


def norm_modules(model: Any) -> list[nn.Module | None]:
    """Return the norm that reads each h_l: the first norm of block l, then the final norm.

    None where the architecture has no norm at that place (post-norm models, models without norms).
    """
    found = [getattr(block, "ln1", None) for block in model.blocks]
    return [*found, getattr(model, "ln_final", None)]


def unembedding(model: Any) -> nn.Module | None:
    """Return the module that makes logits of the stream behind the final norm; None where there is none."""
    return getattr(model, "unembed", None)


def has_norms(model: Any) -> bool:
    """Return whether the model has norms at all (toy models may be built without any)."""
    return getattr(model.cfg, "normalization_type", "unknown") is not None


def weights_processed(model: Any) -> bool:
    """Return whether the model says that its weights were processed (fold_ln, compatibility mode).

    Whether the gains really are gone is measured in the preflight: processing can leave them alone.
    """
    kind = getattr(model.cfg, "normalization_type", None) or ""
    declared = kind.endswith("Pre") or getattr(model.cfg, "layer_norm_folding", False)
    return bool(declared or getattr(model, "_weights_processed", False))


def hooked(model: Any, hooks: list[tuple[str, Callable[..., Any]]]) -> Edit:
    """Return TransformerLens' own context of scoped forward hooks; the caller's hooks stay as they are."""
    return Edit(model, partial(_put_on_points, model, hooks))


def _put_on_points(model: Any, hooks: list[tuple[str, Callable[..., Any]]], steps: list[Step]) -> None:
    inside = ExitStack()
    steps.append(inside.close)
    uninterrupted(lambda: inside.enter_context(model.hooks(fwd_hooks=hooks)))


def module_hooks(
    model: Any,
    hooks: Sequence[tuple[nn.Module, Callable[..., Any]]],
    *,
    before: bool = False,
) -> Edit:
    """Put forward hooks on modules of a model for a while.

    Args:
        model: The model.
        hooks: Modules and PyTorch hooks.
        before: The hooks are called before the forward pass of a module, and may change its input.
    """
    return Edit(model, partial(_put_on_modules, hooks, before))


def _put_on_modules(
    hooks: Sequence[tuple[nn.Module, Callable[..., Any]]], before: bool, steps: list[Step]
) -> None:
    handles: list[RemovableHandle] = []
    steps.append(partial(_take_off, handles))
    uninterrupted(partial(_register, hooks, before, handles))


def _register(
    hooks: Sequence[tuple[nn.Module, Callable[..., Any]]], before: bool, handles: list[RemovableHandle]
) -> None:
    for module, hook in hooks:
        register = module.register_forward_pre_hook if before else module.register_forward_hook
        handles.append(register(hook))


def _take_off(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


def read_last(model: Any, readers: list[tuple[str, Callable[[Tensor], None]]]) -> CallersEdit:
    """Read activations as all other hooks leave them, also hooks that are added later.

    Hooks run in the order in which they were added: before each pass of a hook point the reader is taken off
    and put on again, at the end of the queue.
    """
    handles: dict[str, list[RemovableHandle]] = {name: [] for name, _ in readers}

    def at_the_end(name: str, read: Callable[[Tensor], None]) -> Callable[..., None]:
        def before(point: nn.Module, args: Any) -> None:
            def put_last() -> None:
                for handle in handles[name]:
                    handle.remove()
                handles[name] = [point.register_forward_hook(after)]

            uninterrupted(put_last)

        def after(point: nn.Module, args: Any, output: Any) -> None:
            read(output)

        return before

    def change(steps: list[Step]) -> None:
        before: list[RemovableHandle] = []

        def take_off() -> None:
            for handle in (*before, *(handle for last in handles.values() for handle in last)):
                handle.remove()

        def put_on() -> None:
            for name, read in readers:
                point = model.hook_dict[name]
                before.append(point.register_forward_pre_hook(at_the_end(name, read)))

        steps.append(take_off)
        uninterrupted(put_on)

    return CallersEdit(model, change)


def callers_hooks(model: Any) -> list[str]:
    """Return the names of the hook points and modules that somebody has put forward hooks on."""
    points = [name for name, point in model.hook_dict.items() if point.fwd_hooks]
    return points + [
        name
        for name, module in model.named_modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        # A bridge hooks its own modules; what was added through a hook point is named above.
        if not _of_lens(hook)
    ]


def callers_hooks_off(model: Any) -> Edit:
    """Return a change of the model that takes off the hooks that somebody has put on it, for a while."""
    points = {id(point) for point in model.hook_dict.values()}

    def change(steps: list[Step]) -> None:
        for module in model.modules():
            for name in ("_forward_hooks", "_forward_pre_hooks"):
                hooks = getattr(module, name)
                # A hook that was put on a hook point is wrapped by TransformerLens, whoever it is from.
                is_point = id(module) in points
                stay = [(key, hook) for key, hook in hooks.items() if not is_point and _of_lens(hook)]
                if len(stay) < len(hooks):
                    steps.append(partial(object.__setattr__, module, name, hooks))
                    object.__setattr__(module, name, type(hooks)(stay))

    return Edit(model, change)


def _of_lens(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("transformer_lens")


def run(model: Any, tokens: Tensor) -> None:
    """Run the model on a batch of tokens and return nothing: hooks collect what is wanted."""
    model(tokens, return_type=None)


def logits(model: Any, tokens: Tensor) -> Tensor:
    """Run the model on a batch of tokens and return the logits."""
    return model(tokens, return_type="logits")


def n_heads(model: Any) -> int:
    """Return the number of query heads of a block.

    Raises:
        HookError: A model without attention heads.
    """
    count = getattr(model.cfg, "n_heads", None)
    if not isinstance(count, int) or count < 1:
        raise HookError(
            "the model has no attention heads",
            seen=f"n_heads = {count!r} in its config",
            expected="a number of heads",
            fix="Measure or ablate whole blocks instead.",
        )
    return count


def head_hook(layer: int) -> str:
    """Return the hook of what the heads of a block put out: [batch, pos, head, d_head]."""
    return f"blocks.{layer}.attn.hook_z"


def pattern_hook(layer: int) -> str:
    """Return the hook of where the heads of a block look: [batch, head, query, key], rows adding to 1."""
    return f"blocks.{layer}.attn.hook_pattern"


def output_weights(model: Any, layer: int) -> Tensor | None:
    """Return W_O of a block, [head, d_head, d_model], or None where the model does not offer it."""
    # A bridge derives it from the wrapped weights; what that raises differs between architectures.
    try:
        return model.blocks[layer].attn.W_O
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return None


def output_bias(model: Any, layer: int) -> Tensor | None:
    """Return b_O of a block, [d_model], or None where the model does not offer it."""
    return getattr(model.blocks[layer].attn, "b_O", None)


def output_projection(model: Any, layer: int) -> nn.Module | None:
    """Return the module that reads the outputs of a block's heads side by side, or None for bare weights."""
    projection = getattr(getattr(model.blocks[layer], "attn", None), "o", None)
    return getattr(projection, "original_component", None) or projection


def mlp_hook(layer: int) -> str:
    """Return the hook of what a block's MLP writes."""
    return f"blocks.{layer}.hook_mlp_out"


def attention_hook(layer: int) -> str:
    """Return the hook of what a block's attention writes."""
    return f"blocks.{layer}.hook_attn_out"


def middle_hook(layer: int) -> str:
    """Return the hook of the stream between a block's attention and its MLP."""
    return f"blocks.{layer}.hook_resid_mid"


def half_hook(model: Any, state: int) -> str:
    """Return the hook of a state by its number in halves: 2l enters block l, 2l + 1 is in its middle."""
    return middle_hook(state // 2) if state % 2 else residual_hook(model, state // 2)


def no_middle(model: Any) -> str:
    """Return why no block of a model has a stream in its middle, as far as its config says; else nothing."""
    if getattr(model.cfg, "attn_only", False):
        return "an attention-only model (no MLP)"
    if getattr(model.cfg, "parallel_attn_mlp", False):
        return "attention and MLP side by side in a block (parallel_attn_mlp)"
    return ""


def mlp_norm_module(model: Any, layer: int) -> nn.Module | None:
    """Return the norm that a block's MLP reads the stream through, or None where there is none."""
    return getattr(model.blocks[layer], "ln2", None)


def mlp_module(model: Any, layer: int) -> nn.Module | None:
    """Return the MLP of a block, or None where it is not known by that name."""
    return getattr(model.blocks[layer], "mlp", None)


def block_hooks(model: Any, layer: int) -> tuple[str, str]:
    """Return the hooks of the stream that enters a block and of the stream that leaves it."""
    return f"blocks.{layer}.hook_resid_pre", f"blocks.{layer}.hook_resid_post"


def bos_token(model: Any, prepend_bos: bool | None, bos_token_id: int | None) -> int | None:
    """Return the BOS token to put before every input, or None for no BOS.

    Raises:
        TokenError: BOS was asked for and neither the caller nor the tokenizer says which token it is.
        SettingError: `prepend_bos` is no truth value, or `bos_token_id` no whole number.
    """
    wanted = None if prepend_bos is None else truth("prepend_bos", prepend_bos)
    bos_token_id = None if bos_token_id is None else integer("bos_token_id", bos_token_id)
    if wanted is None:
        wanted = bos_token_id is not None or bool(getattr(model.cfg, "default_prepend_bos", True))
    if not wanted:
        return None
    tokenizer = getattr(model, "tokenizer", None)
    found = bos_token_id if bos_token_id is not None else getattr(tokenizer, "bos_token_id", None)
    if found is None and prepend_bos is not None:
        raise TokenError(
            "no BOS token known",
            seen="prepend_bos=True and a model whose tokenizer names no BOS token",
            expected="the id of the BOS token",
            fix="Pass bos_token_id=..., or prepend_bos=False.",
        )
    if found is None and prepend_bos is None and tokenizer is None:
        warn_caller(
            "The model runs without BOS: it has no tokenizer to say which token that is. Models that were "
            "trained with BOS give other states without it. Pass bos_token_id= if this one was, or "
            "prepend_bos=False to silence this."
        )
    return None if found is None else int(found)


def padding_token(model: Any) -> int | None:
    """Return the tokenizer's padding token where it serves for padding only, else None."""
    tokenizer = getattr(model, "tokenizer", None)
    pad = getattr(tokenizer, "pad_token_id", None)
    shared = {getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id", "unk_token_id")}
    return None if pad is None or pad in shared else int(pad)


def padding_candidates(model: Any) -> tuple[int, ...]:
    """Return the tokens that the tokenizer may have padded with and that also have another meaning."""
    tokenizer = getattr(model, "tokenizer", None)
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {getattr(tokenizer, name, None) for name in names} - {padding_token(model)}
    return tuple(sorted(token for token in ids if isinstance(token, int)))


def lens_major() -> int:
    """Return the major version of the installed TransformerLens."""
    return int(package_version("transformer-lens").split(".")[0])


def transformers_dtype_option() -> str:
    """Return what `from_pretrained` of the installed transformers calls the dtype to load in."""
    return "dtype" if int(package_version("transformers").split(".")[0]) >= 5 else "torch_dtype"


def wrap(hf_model: Any, tokenizer: Any, name: str, model_class: str, device: Any, dtype: torch.dtype) -> Any:
    """Wrap a loaded Hugging Face model, weights unprocessed, in the model class asked for.

    Args:
        hf_model: The model; a bridge takes it over.
        tokenizer: Its tokenizer.
        name: The name that TransformerLens knows it by; a bridge only reads the architecture off the model.
        model_class: "bridge", "hooked", or "auto" for the bridge where there is one.
        device: Where to put it; a bridge only notes it.
        dtype: The dtype that the model has.
    """
    options = {"hf_model": hf_model, "tokenizer": tokenizer, "device": _by_name(device), "dtype": dtype}
    if model_class == "bridge" or (model_class == "auto" and lens_major() >= 3):
        return (
            _class("transformer_lens.model_bridge", "TransformerBridge")
            .boot_transformers(name, **options)
            .eval()
        )
    return (
        _class("transformer_lens", "HookedTransformer").from_pretrained_no_processing(name, **options).eval()
    )


def load_by_name(
    name: str, model_class: str, device: Any, dtype: torch.dtype, step: int | None = None
) -> Any:
    """Load a model from the hub by TransformerLens' own loader, weights unprocessed, at a training step."""
    options: dict[str, Any] = {"device": _by_name(device), "dtype": dtype, "trust_remote_code": False}
    options |= {} if step is None else {"checkpoint_value": step}
    if model_class == "bridge" or (model_class == "auto" and lens_major() >= 3):
        bridge = _class("transformer_lens.model_bridge", "TransformerBridge")
        return bridge.boot_transformers(name, **options).eval()
    hooked_transformer = _class("transformer_lens", "HookedTransformer")
    return hooked_transformer.from_pretrained_no_processing(name, **options).eval()


def _by_name(device: Any) -> str | None:
    """Return a device as TransformerLens wants it: by its name, some lines compare it with strings."""
    return None if device is None else str(device)


def _class(module: str, name: str) -> Any:
    """Import a class that only some versions have."""
    return getattr(importlib.import_module(module), name)


def describe(model: Any) -> dict[str, Any]:
    """Return what identifies the model in a saved result: JSON values only."""
    cfg = model.cfg
    first = next(iter(model.parameters()), None)
    return {
        "model": str(getattr(cfg, "model_name", None) or "unnamed"),
        "model_note": str(getattr(model, MODEL_NOTE, "")),
        "model_class": type(model).__name__,
        "n_layers": n_layers(model),
        "d_model": d_model(model),
        "dtype": str(getattr(first, "dtype", "unknown")).removeprefix("torch."),
        "transformer_lens": package_version("transformer-lens"),
        "torch": torch.__version__,
    }


def package_version(name: str) -> str:
    """Return the version of an installed package, or "not installed"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def silent_copy(module: nn.Module) -> nn.Module:
    """Return a module that computes the same from the same weights, and that nobody has put hooks on.

    The parts are new, their parameters and buffers those of the module itself: to call it changes nothing in
    the model, and wakes no hook that its owner put on it.
    """
    parts = list(module.modules())
    copies = {id(part): object.__new__(type(part)) for part in parts}
    for part in parts:
        # A bridge also keeps parts as plain attributes.
        copies[id(part)].__dict__.update(
            {name: copies.get(id(value), value) for name, value in part.__dict__.items()}
        )
        own = copies[id(part)].__dict__
        own["_modules"] = {name: copies.get(id(child)) for name, child in part._modules.items()}
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            own[name] = type(own[name])()
    return copies[id(module)]
