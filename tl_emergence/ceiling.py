"""The exact value of every score on a prompt set: what a perfect estimator would say, whatever the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.capture.checks import indices
from tl_emergence.checks import instance, integer, integers, seed_number
from tl_emergence.errors import SettingError, unknown_name
from tl_emergence.estimators.deranged import derangement
from tl_emergence.estimators.exact import entropy_bits, miller_madow_bits, shared_bits
from tl_emergence.prompts.prefixes import prefix_ids
from tl_emergence.prompts.prompt_set import PromptSet
from tl_emergence.torch_state import with_torch_defaults

Micro = Literal["alone", "first"]
"""Where micro comes from: each token run alone, or macro at the first position."""


@dataclass(frozen=True, eq=False)
class Ceiling:
    """Exact Shannon values in bits for every scored block and position.

    A transformer is almost surely injective from prompts to states (arXiv 2510.15511), so for l >= 1 the
    macro information is the entropy of the prefix s_0..s_t and the micro information that of the token
    s_t; h_0 is the embedding, so at l = 0 macro is the token's entropy too.
    """

    macro: Float[Tensor, "layer pos"]
    micro: Float[Tensor, "layer pos"]
    emergence: Float[Tensor, "layer pos"]


@with_torch_defaults
def exact_emergence(
    prompts: PromptSet,
    *,
    layers: Sequence[int],
    positions: Sequence[int] | None = None,
    micro: str = "alone",
) -> Ceiling:
    """Return the ceiling of a prompt set: plug-in entropies of its prefixes and tokens.

    macro[l,t] = H(s_0..s_t) for l >= 1 and H(s_t) for l = 0; micro[l,t] = H(s_t);
    emergence[l,t] = macro[l,t] - mean(micro[l,0..t]) (arXiv 2405.12617, equation 3, at every position).

    Args:
        prompts: The prompt set; no model is needed.
        layers: Numbers of the blocks, from 0.
        positions: Content positions, all by default.
        micro: "alone", or "first" for micro[l,t] = macro[l,0] at every t.

    Raises:
        SettingError: A negative layer, a position out of range, an unknown `micro`.

    Cost: one sort of N numbers a position; 303,600 prompts of 8 tokens take a fraction of a second.

    Example:
        >>> lists = demonstrations("country", tokenizer, n="all")
        >>> round(float(exact_emergence(lists, layers=[1]).emergence[0, -1]), 4)
        15.8899
    """
    instance("a prompt set", prompts, PromptSet, "Pass prompts.from_tokens(tokens).")
    layers = _checked_layers(layers)
    check_micro(micro)
    wanted = indices("position", positions, prompts.n_positions)
    prefix = _entropies(prefix_ids(prompts.tokens[:, : max(wanted) + 1]))
    token = _entropies(prompts.tokens[:, : max(wanted) + 1].t())
    return _ceiling(prefix, token, token, layers, wanted, micro)


@with_torch_defaults
def exact_deranged(
    prompts: PromptSet,
    *,
    seed: int,
    layers: Sequence[int],
    positions: Sequence[int] | None = None,
    micro: str = "alone",
) -> Ceiling:
    """Return the exact values of a prompt set whose states were deranged, as the control "deranged" does.

    macro[l,t] = H(p) + H(p') - H(p, p') by counts, p the prefix s_0..s_t of a prompt and p' that of the
    prompt before it in the seeded cycle; at l = 0, p is the token s_t. micro[l,t] is the same of the tokens
    alone. It is not 0: N distinct prompts, deranged, still are a bijection.

    Args:
        prompts: The prompt set; no model is needed.
        seed: The seed of the run, which names the cycle.
        layers: Numbers of the blocks, from 0.
        positions: Content positions, all by default.
        micro: As in `exact_emergence`.

    Raises:
        SettingError: As `exact_emergence`.

    Cost: that of `exact_emergence`.

    Example:
        >>> float(exact_deranged(from_tokens(tokens), seed=0, layers=[1]).macro[0, -1])  # 8 prompts
        3.0
    """
    instance("a prompt set", prompts, PromptSet, "Pass prompts.from_tokens(tokens).")
    layers = _checked_layers(layers)
    check_micro(micro)
    wanted = indices("position", positions, prompts.n_positions)
    tokens = prompts.tokens[:, : max(wanted) + 1]
    other = derangement(len(tokens), seed_number(seed))
    prefixes, single = prefix_ids(tokens), tokens.t()
    values = [
        torch.tensor([shared_bits(x, y[other]) for x, y in zip(of_x, of_y, strict=True)], dtype=torch.float64)
        for of_x, of_y in ((prefixes, prefixes), (single, prefixes), (single, single))
    ]
    return _ceiling(values[0], values[1], values[2], layers, wanted, micro)


@with_torch_defaults
def exact_population(
    prompts: PromptSet, *, layers: Sequence[int], positions: Sequence[int] | None = None
) -> Ceiling:
    """Return the ceiling of the population that a prompt set was drawn from: another number.

    In closed form where the set knows its population (demonstrations), else the Miller-Madow estimate.

    Raises:
        SettingError: The population is not known and more than half of the prompts are singletons; a
            negative layer, a position out of range.

    Example:
        >>> some = demonstrations("country", tokenizer, n=512)
        >>> round(float(exact_population(some, layers=[1]).macro[0, -1]), 4)
        18.2118
    """
    instance("a prompt set", prompts, PromptSet, "Pass prompts.from_tokens(tokens).")
    layers = _checked_layers(layers)
    wanted = indices("position", positions, prompts.n_positions)
    last = max(wanted) + 1
    if prompts.population is not None:
        prefix, token = prompts.population.prefix_bits[:last], prompts.population.token_bits[:last]
    else:
        estimated = [
            [miller_madow_bits(ids) for ids in rows]
            for rows in (prefix_ids(prompts.tokens[:, :last]), prompts.tokens[:, :last].t())
        ]
        prefix, token = (torch.tensor(values, dtype=torch.float64) for values in estimated)
    return _ceiling(prefix, token, token, layers, wanted, "alone")


def check_micro(micro: str) -> None:
    """Raise SettingError unless `micro` is "alone" or "first"."""
    if not isinstance(micro, str) or micro not in get_args(Micro):
        raise unknown_name("micro", str(micro), get_args(Micro))


def _checked_layers(layers: Sequence[int]) -> tuple[int, ...]:
    found = tuple(integer("layer", layer, least=0) for layer in integers("layer", layers) or ())
    if not found:
        raise SettingError("no layer", seen=layers, expected="at least one", fix="Pass layers=[1].")
    return found


def _entropies(ids: Int[Tensor, "pos prompt"]) -> Float[Tensor, " pos"]:
    return torch.tensor([entropy_bits(row) for row in ids], dtype=torch.float64)


def _ceiling(
    later: Float[Tensor, " pos"],
    first: Float[Tensor, " pos"],
    token: Float[Tensor, " pos"],
    layers: Sequence[int],
    positions: tuple[int, ...],
    micro: str,
) -> Ceiling:
    """Put the macro values of later blocks and of block 0, and the micro values of tokens, together."""
    alone = token if micro == "alone" else token[:1].expand(len(token))
    mean = alone.cumsum(0) / torch.arange(1, len(alone) + 1)
    macro = torch.stack([later if layer > 0 else first for layer in layers])
    chosen = list(positions)
    per_layer = repeat(torch.stack([alone, mean]), "kind pos -> kind layer pos", layer=len(layers))
    return Ceiling(macro[:, chosen], per_layer[0][:, chosen], (macro - per_layer[1])[:, chosen])
