"""What a model gets wrong in lists: its errors and losses at every separator, prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.capture import compat
from tl_emergence.capture.edited import PROBE_ROWS, prove_shortcuts, run_edited
from tl_emergence.capture.forward import with_prefix
from tl_emergence.errors import TokenError
from tl_emergence.prompts.prompt_set import PromptSet

ERRORS = ("category error", "repetition", "category loss", "next-item loss")
"""Category error: the likeliest token is no entity. Repetition: it is one already listed. Category loss:
-log2 of the probability of all entities not yet listed. Next-item loss: -log2 p(the entity that follows)."""


@torch.no_grad()
def list_errors(
    model: Any, prompts: PromptSet, entities: Int[Tensor, " entity"], *, batch_size: int = 64
) -> dict[str, Float[Tensor, "shot prompt"]]:
    """Return `ERRORS` at every separator but the last, prompt by prompt: 0 or 1 for errors, bits for losses.

    Random lists have no one right continuation, so that the floor of the next-item loss is log2 of the number
    of entities left.

    Args:
        model: A HookedTransformer or TransformerBridge.
        prompts: Lists: entity, separator, entity, separator, ...
        entities: The tokens of all entities.
        batch_size: Prompts a forward pass.

    Raises:
        TokenError: Prompts that are not such lists.

    Cost: one forward pass; logits are kept at the separators only.
    """
    items = prompts.tokens[:, ::2]
    shots = items.shape[1]
    if prompts.n_positions != 2 * shots or not bool(torch.isin(items, entities).all()):
        raise TokenError(
            "prompts that are no lists",
            seen=repr(prompts),
            expected="entity, separator, entity, separator, ...",
            fix="Make them with prompts.demonstrations and a separator.",
        )
    bos = compat.bos_token(model, None, None)
    offset = 0 if bos is None else 1
    at = [offset + 2 * shot + 1 for shot in range(shots - 1)]
    inputs = with_prefix(prompts.tokens, bos).to(compat.device(model))
    shortcuts = prove_shortcuts(model, inputs[:PROBE_ROWS], logits_at=at)
    found: dict[str, list[Tensor]] = {name: [] for name in ERRORS}
    for tokens, listed in zip(inputs.split(batch_size), items.split(batch_size), strict=True):
        logits = run_edited(model, tokens, logits_at=at, shortcuts=shortcuts)
        assert logits is not None
        for name, values in _errors(logits.cpu(), listed, entities).items():
            found[name].append(values)
    return {name: torch.cat(parts).T.contiguous() for name, parts in found.items()}


def _errors(
    logits: Float[Tensor, "batch shot vocabulary"],
    items: Int[Tensor, "batch listed"],
    entities: Int[Tensor, " entity"],
) -> dict[str, Float[Tensor, "batch shot"]]:
    log_p = logits.double().log_softmax(dim=-1)
    best = logits.argmax(dim=-1)
    shots = best.shape[1]
    # Listed so far: item k is known at separator j where k <= j.
    known = torch.ones(shots, items.shape[1], dtype=torch.bool).tril()
    repeated = ((best[:, :, None] == items[:, None, :]) & known).any(dim=-1)
    used = ((items[:, None, :, None] == entities) & known[None, :, :, None]).any(dim=2)
    left = log_p[:, :, entities].masked_fill(used, float("-inf")).logsumexp(dim=-1)
    following = log_p.gather(-1, items[:, 1:, None]).squeeze(-1)
    bits = -1.0 / torch.tensor(2.0, dtype=torch.float64).log()
    return {
        "category error": (~torch.isin(best, entities)).double(),
        "repetition": repeated.double(),
        "category loss": bits * left,
        "next-item loss": bits * following,
    }


def onset(error: Float[np.ndarray, "shot prompt"]) -> int | None:
    """Return the shot at which a model starts to err: the first whose error stands above one before.

    Above: the mean over prompts of the difference from the shot of the smallest mean so far exceeds three of
    its standard errors, prompt by prompt. None: the error never rises.
    """
    mean = error.mean(axis=1)
    for j in range(1, len(error)):
        rise = error[j] - error[int(mean[:j].argmin())]
        if rise.mean() > 3 * rise.std(ddof=1) / len(rise) ** 0.5:
            return j + 1
    return None


def entity_tokens(entities: Sequence[str], model: Any) -> Int[Tensor, " entity"]:
    """Return the token of each entity, as `demonstrations` writes them: whole lists of one shot."""
    from tl_emergence.prompts import demonstrations

    one = demonstrations(list(entities), model, shots=1, n="all", shuffle=False)
    return one.tokens[:, 0]
