"""Prompt sets made alike: the same number of prompts, and the same entropy of their tokens."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from tl_emergence.checks import integer
from tl_emergence.errors import SettingError, TokenError
from tl_emergence.prompts.prompt_set import PromptSet

_STEPS = 40
_MOST = 64.0


def token_entropy(prompts: PromptSet) -> float:
    """Return the mean over positions of the entropy of the token there, in bits: exact mean micro.

    Example:
        >>> import torch
        >>> from tl_emergence.prompts import from_tokens
        >>> token_entropy(from_tokens(torch.tensor([[5, 7], [6, 7]])))
        0.5
    """
    return float(np.mean([-(p * np.log2(p)).sum() for p in map(_shares, prompts.tokens.T.numpy())]))


def alike(sets: Mapping[str, PromptSet], n: int, seed: int) -> dict[str, PromptSet]:
    """Return n prompts of each set such that the entropies of their tokens agree.

    The target is the median of the entropies that a plain draw of n prompts has in each set, as far as every
    set can reach it. Of each set prompts of common or of rare tokens are preferred: n are drawn without
    replacement with weights exp(-b s_i), s_i the mean surprisal of prompt i's tokens in its own set, and b,
    of either sign, is found by bisection. What is left of the difference can be read from `token_entropy`; a
    set with little more than n prompts leaves more.

    Args:
        sets: Prompt sets by name.
        n: Prompts to keep of each.
        seed: Seed of the draws.

    Raises:
        SettingError: A set with fewer than n prompts.
        TokenError: Sets of unequal length.
    """
    n, seed = integer("n", n, least=2), integer("seed", seed)
    few = {name: len(prompts) for name, prompts in sets.items() if len(prompts) < n}
    if few:
        raise SettingError(
            "too few windows", seen=str(few), expected=f"{n} in every set", fix="Lower n, or pass more text."
        )
    if len({prompts.n_positions for prompts in sets.values()}) > 1:
        raise TokenError(
            "sets of unequal length",
            seen=str({name: prompts.n_positions for name, prompts in sets.items()}),
            expected="one number of tokens",
            fix="Cut windows of one length.",
        )
    lowest, plain, highest = (
        [token_entropy(_tilted(prompts, n, seed, tilt)) for prompts in sets.values()]
        for tilt in (_MOST, 0.0, -_MOST)
    )
    target = float(np.median([max(lowest), min(highest), float(np.median(plain))]))
    return {name: _with_entropy(prompts, n, seed, target) for name, prompts in sets.items()}


def _with_entropy(prompts: PromptSet, n: int, seed: int, target: float) -> PromptSet:
    low, high = -_MOST, _MOST
    best = _tilted(prompts, n, seed, 0.0)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        found = _tilted(prompts, n, seed, middle)
        if abs(token_entropy(found) - target) < abs(token_entropy(best) - target):
            best = found
        low, high = (middle, high) if token_entropy(found) > target else (low, middle)
    return best


def _tilted(prompts: PromptSet, n: int, seed: int, tilt: float) -> PromptSet:
    """Draw n prompts without replacement, common tokens preferred: Gumbel top-n, one noise for any tilt."""
    noise = torch.rand(
        len(prompts), generator=torch.Generator().manual_seed(seed), device="cpu", dtype=torch.float64
    )
    keys = -torch.log(-torch.log(noise)) - tilt * torch.from_numpy(_surprisals(prompts))
    return prompts.take(keys.topk(n).indices.tolist())


def _surprisals(prompts: PromptSet) -> np.ndarray:
    columns = []
    for column in prompts.tokens.T.numpy():
        _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        columns.append(-np.log2(counts[inverse] / len(column)))
    return np.mean(columns, axis=0)


def _shares(column: np.ndarray) -> np.ndarray:
    return np.unique(column, return_counts=True)[1] / len(column)
