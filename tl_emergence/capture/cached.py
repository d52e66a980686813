"""States from an activation cache that the caller already has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tl_emergence.capture import compat
from tl_emergence.capture.checks import check_finite, indices
from tl_emergence.capture.norms import Norm
from tl_emergence.capture.protected import no_grad
from tl_emergence.capture.spaces import Reading, Space
from tl_emergence.capture.states import CapturedStates
from tl_emergence.checks import as_tensor, integer
from tl_emergence.errors import SettingError, StateError
from tl_emergence.prompts.prefixes import first_rows, number_by_appearance, prefix_ids
from tl_emergence.prompts.prompt_set import PromptSet, checked_mask


@runtime_checkable
class StateCache(Protocol):
    """Anything that gives states by hook name: an ActivationCache, or a plain dictionary."""

    def __getitem__(self, name: Any, /) -> Any:
        """Return the tensor of a hook."""
        ...

    def keys(self) -> Iterable[Any]:
        """Return the hook names."""
        ...


CacheNorms = Sequence[Callable[[Tensor], Tensor]]
"""One callable a state: the first norm of every block, then the final norm."""

# Two prompts with the same prefix were run in different batches: equal up to rounding, no more.
_SAME = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}


def states_from_cache(
    cache: StateCache,
    micro_cache: StateCache,
    prompts: PromptSet,
    micro_tokens: Any,
    *,
    n_prefix: int,
    norms: CacheNorms | None,
    layers: Sequence[int] | None,
    positions: Sequence[int] | None,
    attention_mask: Any,
    spaces: Sequence[Space],
) -> CapturedStates:
    """Pick the residual streams out of two caches, each distinct prefix and token once.

    Raises:
        StateError: A hook is missing, shapes do not fit the tokens, a token has no micro state, prompts
            with the same prefix have different states, NaN or infinity.
        SettingError: A layer or position out of range, a wrong number of norms.
    """
    n_prefix = integer("n_prefix", n_prefix, least=0)
    for name, found in (("cache", cache), ("micro_cache", micro_cache)):
        if not isinstance(found, StateCache):
            raise StateError(
                f"{name} is no cache",
                seen=type(found).__name__,
                expected="a mapping from hook names to tensors",
                fix="model.run_with_cache returns (logits, cache): pass the second.",
            )
    n_layers = _count_layers(cache)
    if norms is not None:
        n_layers = max(n_layers, _count_norms(norms) - 1)  # a cache of some blocks, norms of all
    blocks = indices("layer", layers, n_layers)
    wanted = indices("position", positions, prompts.n_positions)
    held = tuple(sorted({state for block in blocks for state in (block, block + 1)}))
    if norms is not None and len(norms) != n_layers + 1:
        raise SettingError(
            "wrong number of norms",
            seen=len(norms),
            expected=f"{n_layers + 1}: the first norm of each block, then the final norm",
            fix="norms=[*(block.ln1 for block in model.blocks), model.ln_final].",
        )
    columns = _content_columns(prompts, n_prefix, attention_mask)
    _check_length(cache, held[0], n_layers, columns, attention_mask)
    token_rows = _token_rows(prompts.tokens[:, : max(wanted) + 1], micro_tokens)
    micro = torch.stack(
        [_micro_state(micro_cache, state, n_layers, len(micro_tokens), n_prefix) for state in held]
    )
    check_finite(held, [(0, micro)])
    prefixes = prefix_ids(prompts.tokens)
    macro = []
    for t in wanted:
        first = first_rows(prefixes[t])
        found = [_macro_state(cache, s, n_layers, columns[:, t], prefixes[t], first) for s in held]
        macro.append(torch.stack(found))
        check_finite(held, [(t, macro[-1])])
    _check_embeddings(cache, n_layers, columns, prompts.tokens, wanted)
    known = (None,) * (n_layers + 1) if norms is None else tuple(_on_rows(norm) for norm in norms)
    dtype = str(_state(cache, held[0], n_layers, "cache").dtype).removeprefix("torch.")
    return CapturedStates(
        prompts=prompts,
        layers=blocks,
        positions=wanted,
        states=held,
        macro=tuple(macro),
        prefix_rows=tuple(prefixes[t] for t in wanted),
        micro=micro,
        token_rows=token_rows,
        reading=Reading(known, ("no norms were passed",) * (n_layers + 1)),
        scales=tuple(_scale(cache, s, n_layers, columns) for s in held) if "resid" in spaces else None,
        provenance={
            "model": "from cache",
            "n_layers": n_layers,
            "d_model": micro.shape[-1],
            "dtype": dtype,
            "n_prefix": n_prefix,
            "state_dtype": str(micro.dtype).removeprefix("torch."),
        },
    )


def _count_norms(norms: Any) -> int:
    if not isinstance(norms, Sequence) or not all(callable(norm) for norm in norms):
        raise SettingError(
            "norms are not callables",
            seen=type(norms).__name__,
            expected="a list with the norm that reads each state",
            fix="norms=[*(block.ln1 for block in model.blocks), model.ln_final].",
        )
    return len(norms)


def _on_rows(norm: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Apply a norm to rows as if they were sequences of one position, wherever its weights are.

    TransformerLens' own norm modules take [batch, pos, d_model]; hooks on them stay asleep.
    """
    if isinstance(norm, Norm):
        return norm

    def apply(x: Tensor) -> Tensor:
        if not isinstance(norm, nn.Module):
            return norm(x[:, None])[:, 0]
        first = next(norm.parameters(), x)
        return no_grad(compat.silent_copy(norm))(x[:, None].to(first.device))[:, 0].to(x)

    return apply


def _scale(cache: StateCache, state: int, n_layers: int, columns: Int[Tensor, "prompt pos"]) -> float:
    """Return the root mean square of h_l over all prompts and all their content positions."""
    found = _checked_shape(
        _state(cache, state, n_layers, "cache"), len(columns), int(columns.max()) + 1, None, "cache"
    )
    mean_squares = found.to(torch.promote_types(found.dtype, torch.float32)).square().mean(dim=-1).cpu()
    return float(mean_squares.gather(1, columns).double().mean().sqrt())


def _names(cache: StateCache) -> set[Any]:
    return set(cache.keys())


def _count_layers(cache: StateCache) -> int:
    found = [re.fullmatch(r"blocks\.(\d+)\.hook_resid_(pre|post)", str(name)) for name in _names(cache)]
    numbers = [int(match[1]) for match in found if match]
    if not numbers:
        raise StateError(
            "no residual stream in the cache",
            seen=f"{len(found)} entries, none of them blocks.{{l}}.hook_resid_pre or hook_resid_post",
            expected="the residual hooks of every block to be scored",
            fix="Cache with names_filter=lambda name: 'hook_resid_p' in name.",
        )
    return max(numbers) + 1


def _state(cache: StateCache, state: int, n_layers: int, which: str) -> Tensor:
    names = [f"blocks.{state}.hook_resid_pre", f"blocks.{state - 1}.hook_resid_post"]
    names = [name for name in names if 0 <= int(name.split(".")[1]) < n_layers]
    held = _names(cache)
    for name in names:
        if name in held:
            found = cache[name]
            if isinstance(found, Tensor):
                return found
            converted = as_tensor(found)
            if converted is None:
                raise StateError(
                    f"{name} in the {which} is no tensor",
                    seen=type(found).__name__,
                    expected="a tensor, a NumPy array or nested lists of numbers",
                    fix="Convert it: torch.as_tensor(values).",
                )
            # Python floats have no precision of their own: float32, as PyTorch has it.
            return converted if hasattr(found, "dtype") else converted.float()
    raise StateError(
        f"a hook is missing from the {which}",
        seen=f"no {' and no '.join(names)}",
        expected=f"the residual stream h_{state}",
        fix="Cache it, or name with layers= only blocks whose input and output are cached.",
    )


def _content_columns(prompts: PromptSet, n_prefix: int, attention_mask: Any) -> Int[Tensor, "prompt pos"]:
    """Return where in the cache each prompt's content positions are."""
    n, length = prompts.tokens.shape
    if attention_mask is None:
        return torch.arange(n_prefix, n_prefix + length).expand(n, length)
    given = as_tensor(attention_mask)
    fits = given is not None and given.ndim == 2 and len(given) == n
    mask = checked_mask(given) if fits else torch.zeros(n, 1, dtype=torch.bool)
    if not bool((mask.sum(dim=1) == n_prefix + length).all()):
        raise StateError(
            "attention_mask does not fit the tokens",
            seen=f"shape {tuple(mask.shape)}, {int(mask.sum(dim=1).min())} to "
            f"{int(mask.sum(dim=1).max())} tokens per prompt"
            if fits
            else str(getattr(attention_mask, "shape", type(attention_mask).__name__)),
            expected=f"a tensor [prompt, pos]: {n} prompts with {n_prefix} + {length} tokens under the mask",
            fix="Pass the mask of the run that filled the cache, BOS included.",
        )
    return mask.nonzero()[:, 1].view(n, -1)[:, n_prefix:]


def _check_length(
    cache: StateCache, state: int, n_layers: int, columns: Int[Tensor, "prompt pos"], attention_mask: Any
) -> None:
    """Raise StateError unless the cache has as many positions as the prefix and the tokens, or the mask."""
    shape = tuple(_state(cache, state, n_layers, "cache").shape)
    if attention_mask is None:
        wanted, why = int(columns.max()) + 1, "n_prefix and the tokens of a prompt together"
    else:
        mask = as_tensor(attention_mask)
        wanted, why = (0 if mask is None else mask.shape[1]), "the attention mask"
    if len(shape) == 3 and shape[1] > wanted:  # a shorter one is named where it is read
        raise StateError(
            "the cache is longer than the prompts",
            seen=f"{shape[1]} positions in the cache",
            expected=f"{wanted}: {why}",
            fix="Pass n_prefix=1 if run_with_cache put BOS before the tokens (the default of "
            "TransformerLens), and run the micro tokens in the same way.",
        )


def _check_embeddings(
    cache: StateCache,
    n_layers: int,
    columns: Int[Tensor, "prompt pos"],
    tokens: Int[Tensor, "prompt pos"],
    positions: Sequence[int],
) -> None:
    """Raise StateError where h_0 does not go with the tokens: then the cache is read at other positions.

    h_0 at a position is the embedding of the token there. Prompts with the same token must have the same
    h_0, and h_0 must not be the same for all where tokens differ.
    """
    name = "blocks.0.hook_resid_pre"
    if name not in _names(cache):
        return
    least = int(columns[:, list(positions)].max()) + 1
    embeddings = _checked_shape(_state(cache, 0, n_layers, "cache"), len(columns), least, None, "cache")
    for t in positions:
        column = columns[:, t]
        here = embeddings[torch.arange(len(column)), column.to(embeddings.device)].cpu()
        here = here.to(torch.promote_types(here.dtype, torch.float32))
        ids = number_by_appearance(tokens[:, t])
        one_per_token = here[first_rows(ids)]
        scale = _SAME[embeddings.dtype] * here.square().mean().sqrt()
        gap = (here - one_per_token[ids]).abs().max()
        alike = len(one_per_token) > 1 and bool((one_per_token - one_per_token[:1]).abs().max() <= scale)
        if gap > scale or alike:
            raise StateError(
                "the cache does not belong to these tokens",
                seen=f"h_0 at position {t} is "
                + (
                    "the same for different tokens"
                    if alike
                    else f"different for one token, by {float(gap):.3g}"
                ),
                expected="the embedding of the token at that position",
                fix="Check n_prefix: 1 if BOS stands before the tokens in the cache, 0 if not. Tokens, mask "
                "and cache must have their prompts in the same order.",
            )


def _token_rows(tokens: Int[Tensor, "prompt pos"], micro_tokens: Any) -> Int[Tensor, "pos prompt"]:
    given = as_tensor(micro_tokens)
    if given is None or given.is_floating_point() or given.dtype == torch.bool:
        raise StateError(
            "micro_tokens is not a tensor of token ids",
            seen=type(micro_tokens).__name__ if given is None else str(given.dtype),
            expected="one token id for each row of micro_cache, each once",
            fix="Run the distinct tokens: micro_tokens = tokens.unique().",
        )
    names = given.to(torch.int64)
    if names.ndim != 1 or len(names.unique()) != len(names):
        raise StateError(
            "micro_tokens does not name the micro rows",
            seen=f"shape {tuple(names.shape)}, {len(names.unique())} different tokens",
            expected="one token id a row of micro_cache, each once",
            fix="Run the distinct tokens: micro_tokens = tokens.unique().",
        )
    missing = sorted(set(tokens.unique().tolist()) - set(names.tolist()))
    if missing:
        raise StateError(
            "tokens without a micro state",
            seen=missing[:8],
            expected="every token of the prompts among micro_tokens",
            fix="Run the missing tokens alone, behind the same BOS, and add them to micro_cache.",
        )
    order = names.argsort()
    return order[torch.searchsorted(names[order], tokens.t().contiguous())]


def _checked_shape(states: Tensor, rows: int, least: int, most: int | None, which: str) -> Tensor:
    fits = states.ndim == 3 and states.shape[0] == rows and states.shape[1] >= least
    if not fits or (most is not None and states.shape[1] > most) or not states.is_floating_point():
        raise StateError(
            f"states in the {which} do not fit the tokens",
            seen=f"{tuple(states.shape)}, {states.dtype}",
            expected=f"float [example, pos, d_model] with {rows} examples and "
            f"{'' if most == least else 'at least '}{least} positions",
            fix="Check n_prefix (leading positions that are not content, such as BOS) and the batch "
            "dimension (remove_batch_dim=False).",
        )
    return states.detach()


def _micro_state(
    cache: StateCache, state: int, n_layers: int, n_tokens: int, n_prefix: int
) -> Float[Tensor, "token d_model"]:
    length = n_prefix + 1
    found = _checked_shape(
        _state(cache, state, n_layers, "micro_cache"), n_tokens, length, length, "micro_cache"
    )
    return found[:, n_prefix].to("cpu", torch.promote_types(found.dtype, torch.float32))


def _macro_state(
    cache: StateCache,
    state: int,
    n_layers: int,
    columns: Int[Tensor, " prompt"],
    prefix: Int[Tensor, " prompt"],
    first: Int[Tensor, " row"],
) -> Float[Tensor, "row d_model"]:
    found = _state(cache, state, n_layers, "cache")
    found = _checked_shape(found, len(columns), int(columns.max()) + 1, None, "cache")
    here = found[torch.arange(len(columns)), columns.to(found.device)].cpu()
    rows = here.to(torch.promote_types(here.dtype, torch.float32))
    once = rows[first]
    gap = (rows - once[prefix]).abs().max()
    # A NaN fails neither comparison here and is named by check_finite.
    if gap > _SAME[found.dtype] * once.square().mean().sqrt():
        raise StateError(
            "prompts with the same prefix have different states",
            seen=f"a difference of {float(gap):.3g} in h_{state}",
            expected="states that depend on the tokens up to their position and on nothing else",
            fix="Emergence needs a causal model and interventions that treat all prompts alike; check that "
            "tokens, mask and n_prefix belong to this cache.",
        )
    return once
