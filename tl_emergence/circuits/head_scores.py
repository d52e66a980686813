"""What heads look like before anything is ablated: attention patterns and the size of their outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.capture import compat
from tl_emergence.capture.checks import check_fits_model, not_finite
from tl_emergence.capture.edited import run_edited
from tl_emergence.capture.forward import with_prefix
from tl_emergence.capture.preflight import is_close
from tl_emergence.capture.protected import no_grad
from tl_emergence.checks import integer
from tl_emergence.circuits.components import activation_of, check_hooks, check_output, head_components
from tl_emergence.errors import HookError, SettingError, TokenError
from tl_emergence.prompts.prompt_set import PromptSet, as_prompt_set
from tl_emergence.torch_state import with_torch_defaults

_OfBatch = Callable[[int, Tensor], Float[Tensor, "batch head"]]
"""What a layer's activation says of each head on each prompt of a batch."""


@with_torch_defaults
def previous_token_scores(
    model: Any,
    prompts: PromptSet | Int[Tensor, "prompt pos"],
    *,
    prepend_bos: bool | None = None,
    bos_token_id: int | None = None,
    batch_size: int = 64,
) -> Float[Tensor, "layer head"]:
    """Return how much of its attention each head pays to the token before, a fraction from 0 to 1.

    score(head) = mean over prompts and content positions t >= 1 of pattern(t -> t - 1).

    Uniform attention scores about the mean of 1 / (number of keys). The first content token has no content
    before it and is left out.

    Args:
        model: A HookedTransformer or TransformerBridge.
        prompts: A `PromptSet`, or content tokens [prompt, pos] without BOS.
        prepend_bos: Put BOS before every prompt; the model's own habit by default.
        bos_token_id: The BOS token, where the tokenizer does not say.
        batch_size: Prompts a forward pass.

    Returns:
        float64 on the CPU; query heads, also where they share keys and values.

    Raises:
        HookError: Not a TransformerLens model, or one whose attention patterns cannot be read.
        TokenError: Prompts that the model cannot run, or of one token only.
        StateError: NaN or infinity.

    Cost: one forward pass without unembedding; the patterns of one batch are held at a time. The model is
    left as it was.

    Example:
        >>> previous_token_scores(model, from_tokens(tokens)).shape  # layers, heads
        torch.Size([2, 2])
    """
    return _attention_to(model, as_prompt_set(prompts), 1, 1, prepend_bos, bos_token_id, batch_size)


@with_torch_defaults
def induction_scores(
    model: Any,
    prompts: PromptSet | Int[Tensor, "prompt pos"],
    *,
    period: int,
    prepend_bos: bool | None = None,
    bos_token_id: int | None = None,
    batch_size: int = 64,
) -> Float[Tensor, "layer head"]:
    """Return how much of its attention each head pays to what came after this token last time.

    On prompts that repeat, r_1..r_k r_1..r_k, with k the period (Olsson et al., arXiv 2209.11895, "prefix
    matching"),

    score(head) = mean over prompts and content positions t >= k of pattern(t -> t - k + 1),

    a fraction from 0 to 1.

    Args:
        model: A HookedTransformer or TransformerBridge.
        prompts: A `PromptSet` or content tokens, in which every token is the one `period` places before, from
            place `period` on.
        period: After how many tokens they repeat.
        prepend_bos: Put BOS before every prompt; the model's own habit by default.
        bos_token_id: The BOS token, where the tokenizer does not say.
        batch_size: Prompts a forward pass.

    Returns:
        float64 on the CPU; query heads, also where they share keys and values.

    Raises:
        HookError: Not a TransformerLens model, or one whose attention patterns cannot be read.
        SettingError: A period that is no whole number, below 2, or not shorter than the prompts.
        TokenError: Prompts that do not repeat with that period, or that the model cannot run.
        StateError: NaN or infinity.

    Cost: one forward pass without unembedding. The model is left as it was.

    Example:
        >>> induction_scores(model, from_tokens(tokens.repeat(1, 2)), period=3).shape
        torch.Size([2, 2])
    """
    prompts = as_prompt_set(prompts)
    _check_period(prompts, integer("period", period, least=2))
    return _attention_to(model, prompts, period - 1, period, prepend_bos, bos_token_id, batch_size)


@with_torch_defaults
def attention_entropies(
    model: Any,
    prompts: PromptSet | Int[Tensor, "prompt pos"],
    *,
    prepend_bos: bool | None = None,
    bos_token_id: int | None = None,
    batch_size: int = 64,
) -> Float[Tensor, "layer head"]:
    """Return how spread the attention of each head is, in bits.

    entropy(head) = mean over prompts and content positions t of -sum_s pattern(t -> s) log2 pattern(t -> s),

    over all keys s, BOS among them. 0 where a head looks at one key only; log2 of the number of keys where it
    looks at all alike.

    Args:
        model: A HookedTransformer or TransformerBridge.
        prompts: A `PromptSet`, or content tokens [prompt, pos] without BOS.
        prepend_bos: Put BOS before every prompt; the model's own habit by default.
        bos_token_id: The BOS token, where the tokenizer does not say.
        batch_size: Prompts a forward pass.

    Returns:
        float64 on the CPU; query heads, also where they share keys and values.

    Raises:
        HookError: Not a TransformerLens model, or one whose attention patterns cannot be read.
        TokenError: Prompts that the model cannot run.
        StateError: NaN or infinity.

    Cost: one forward pass without unembedding. The model is left as it was.

    Example:
        >>> bool((attention_entropies(model, from_tokens(tokens)) >= 0).all())
        True
    """

    def spread(pattern: Tensor) -> Tensor:
        # xlogy, not x * log(x): a key that gets no attention adds 0.
        return -torch.xlogy(pattern, pattern).sum(dim=-1) / torch.log(torch.tensor(2.0))

    prompts = as_prompt_set(prompts)
    bos = _checked(model, prompts, prepend_bos, bos_token_id, batch_size)
    first = 0 if bos is None else 1

    def of(layer: int, pattern: Tensor) -> Float[Tensor, "batch head"]:
        return reduce(spread(pattern[:, :, first:]), "batch head pos -> batch head", "mean")

    return _means(model, prompts, bos, batch_size, _pattern_hooks(model), of)


@with_torch_defaults
def head_norms(
    model: Any,
    prompts: PromptSet | Int[Tensor, "prompt pos"],
    *,
    at: Literal["stream", "z"] = "stream",
    prepend_bos: bool | None = None,
    bos_token_id: int | None = None,
    batch_size: int = 64,
) -> Float[Tensor, "layer head"]:
    """Return the size of what each head puts out, in units of the activations.

    norm(head) = mean over prompts and content positions t of |z_t W_O| (at "stream"), or of |z_t| (at "z"),

    with z the head's output at `hook_z` and W_O its output weights. "stream" is what the head adds to the
    residual stream, without the bias that all heads of a block share, and before a norm or gate that some
    architectures put behind attention.

    Args:
        model: A HookedTransformer or TransformerBridge.
        prompts: A `PromptSet`, or content tokens [prompt, pos] without BOS.
        at: Where the size is taken. "z" needs no weights, and is not comparable between blocks.
        prepend_bos: Put BOS before every prompt; the model's own habit by default.
        bos_token_id: The BOS token, where the tokenizer does not say.
        batch_size: Prompts a forward pass.

    Returns:
        float64 on the CPU; query heads, also where they share keys and values.

    Raises:
        HookError: Not a TransformerLens model, or one whose heads or output weights cannot be had; nothing
            is put in their place.
        SettingError: Another place.
        TokenError: Prompts that the model cannot run.
        StateError: NaN or infinity.

    Cost: one forward pass without unembedding; at "stream" prompts x positions x d_head x d_model operations
    a head besides. The model is left as it was.

    Example:
        >>> bool((head_norms(model, from_tokens(tokens)) > 0).all())
        True
    """
    if at not in ("stream", "z"):
        raise SettingError("unknown place", seen=repr(at), expected="'stream' or 'z'", fix="Choose.")
    prompts = as_prompt_set(prompts)
    bos = _checked(model, prompts, prepend_bos, bos_token_id, batch_size)
    first = 0 if bos is None else 1
    components = head_components(model, None)
    check_hooks(model, components)

    def of(layer: int, z: Tensor) -> Float[Tensor, "batch head"]:
        check_output(next(c for c in components if c.layer == layer), model, z)
        out = z[:, first:].float()
        if at == "stream":
            weights = _output_weights(model, layer, z).to(out)
            out = einsum(out, weights, "batch pos head d_head, head d_head d_model -> batch pos head d_model")
        return reduce(out.norm(dim=-1), "batch pos head -> batch head", "mean")

    def hook(layer: int, keep: Callable[[Tensor], None]) -> Any:
        return activation_of("head", model, layer, keep)

    return _means(model, prompts, bos, batch_size, hook, of)


def _attention_to(
    model: Any,
    prompts: PromptSet,
    back: int,
    start: int,
    prepend_bos: bool | None,
    bos_token_id: int | None,
    batch_size: int,
) -> Float[Tensor, "layer head"]:
    """Return the mean attention to the key `back` places before, from content position `start` on."""
    bos = _checked(model, prompts, prepend_bos, bos_token_id, batch_size)
    if prompts.n_positions <= start:
        raise TokenError(
            "prompts too short",
            seen=f"{prompts.n_positions} token(s) a prompt",
            expected=f"more than {start}",
            fix="Pass longer prompts.",
        )
    first = start + (0 if bos is None else 1)

    def of(layer: int, pattern: Tensor) -> Float[Tensor, "batch head"]:
        paid = pattern.diagonal(offset=-back, dim1=-2, dim2=-1)[..., first - back :]
        return reduce(paid, "batch head pos -> batch head", "mean")

    return _means(model, prompts, bos, batch_size, _pattern_hooks(model), of)


def _pattern_hooks(model: Any) -> Callable[[int, Callable[[Tensor], None]], Any]:
    def hook(layer: int, keep: Callable[[Tensor], None]) -> Any:
        def kept(pattern: Tensor) -> Tensor:
            keep(pattern.float())
            return pattern

        name = compat.pattern_hook(layer)
        if name not in model.hook_dict:
            raise _no_patterns(name, "no such hook")
        return [(name, kept)]

    return hook


@no_grad
def _means(
    model: Any,
    prompts: PromptSet,
    bos: int | None,
    batch_size: int,
    hooks: Callable[[int, Callable[[Tensor], None]], Any],
    of: _OfBatch,
) -> Float[Tensor, "layer head"]:
    """Return the mean over prompts of what each layer's activation says of its heads."""
    layers, n_heads = compat.n_layers(model), compat.n_heads(model)
    total = torch.zeros(layers, n_heads, dtype=torch.float64)
    inputs = with_prefix(prompts.tokens, bos).to(compat.device(model))
    for batch in inputs.split(batch_size):
        seen: set[int] = set()

        def collect(layer: int, seen: set[int] = seen, rows: int = len(batch)) -> Callable[[Tensor], None]:
            def keep(activation: Tensor) -> None:
                found = of(layer, activation).cpu().double()
                if found.shape != (rows, n_heads):
                    raise _no_patterns(f"layer {layer}", f"[batch, head] = {list(found.shape)}")
                if not bool(torch.isfinite(found).all()):
                    raise not_finite(f"the heads of layer {layer}")
                total[layer] += found.sum(dim=0)
                seen.add(layer)

            return keep

        edits = [edit for layer in range(layers) for edit in hooks(layer, collect(layer))]
        run_edited(model, batch, edits=edits, states=(layers,), on_state=lambda state, stream: None)
        if len(seen) < layers:
            missing = min(set(range(layers)) - seen)
            raise _no_patterns(f"the heads of layer {missing}", "a pass that never came by their hook")
    return total / len(prompts)


def _checked(
    model: Any, prompts: PromptSet, prepend_bos: bool | None, bos_token_id: int | None, batch_size: int
) -> int | None:
    """Return the BOS token, once model and prompts have been found to fit."""
    compat.check_model(model)
    integer("batch size", batch_size, least=1)
    bos = compat.bos_token(model, prepend_bos, bos_token_id)
    check_fits_model(model, prompts, bos)
    return bos


def _check_period(prompts: PromptSet, period: int) -> None:
    if period >= prompts.n_positions:
        raise SettingError(
            "period out of range",
            seen=period,
            expected=f"2 to {prompts.n_positions - 1}, for prompts of {prompts.n_positions} tokens",
            fix="Pass the number of tokens after which the prompts repeat.",
        )
    wrong = int((prompts.tokens[:, period:] != prompts.tokens[:, :-period]).any(dim=1).sum())
    if wrong:
        raise TokenError(
            "prompts that do not repeat",
            seen=f"{wrong} of {len(prompts)} prompts that do not repeat after {period} tokens",
            expected="r_1..r_k r_1..r_k in every prompt",
            fix="Pass the right period, or repeated prompts: from_tokens(tokens.repeat(1, 2)).",
        )


def _output_weights(
    model: Any, layer: int, z: Float[Tensor, "batch pos head d_head"]
) -> Float[Tensor, "head d_head d_model"]:
    """Return W_O, once it was seen to give what the output projection gives.

    A square matrix of weights fits both ways round: some versions of TransformerLens give its transpose.
    """
    weights = compat.output_weights(model, layer)
    shape = (compat.n_heads(model), z.shape[-1], compat.d_model(model))
    if weights is None or tuple(weights.shape) != shape:
        raise HookError(
            f"no output weights of the heads of layer {layer}",
            seen="no W_O" if weights is None else f"W_O of shape {tuple(weights.shape)}",
            expected=f"[head, d_head, d_model] = {list(shape)}",
            fix="Take the size of their output before it: at='z'.",
        )
    projection, weights = compat.output_projection(model, layer), weights.detach()
    if projection is None:
        return weights
    projection = compat.silent_copy(projection)
    flat = rearrange(z[:1], "batch pos head d_head -> batch pos (head d_head)")
    wanted = projection(flat) - projection(torch.zeros_like(flat))
    if not bool(torch.isfinite(wanted).all()):
        raise not_finite(f"the heads of layer {layer}")
    joined = rearrange(weights, "head d_head d_model -> (head d_head) d_model")
    for matrix in (joined, joined.T):
        if matrix.shape == joined.shape and is_close(flat @ matrix.to(flat), wanted):
            return matrix.reshape(shape)
    raise HookError(
        f"W_O of layer {layer} is not what projects the outputs of the heads",
        seen="another product with them than the output projection gives",
        expected="z W_O + b_O = what the projection gives",
        fix="Take the size of their output before it: at='z'; or update TransformerLens.",
    )


def _no_patterns(where: str, seen: str) -> HookError:
    return HookError(
        f"{where} cannot be read",
        seen=seen,
        expected="an activation with one slot a query head, in every forward pass",
        fix="Attention has to be computed eagerly: load the model with attn_implementation='eager'; "
        "otherwise report it with the model's name.",
    )
