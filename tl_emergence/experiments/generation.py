"""Text by a model, for the comparison of text sources: continuations of openings that a human wrote."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from tl_emergence.capture import compat
from tl_emergence.capture.forward import with_prefix
from tl_emergence.checks import integer, number
from tl_emergence.errors import SettingError
from tl_emergence.prompts.tokenizer import encode, tokenizer_of

_BATCH = 32


@torch.no_grad()
def continuations(
    model: Any,
    openings: Sequence[str],
    *,
    n_tokens: int = 100,
    opening_tokens: int = 12,
    temperature: float = 1.0,
    seed: int = 0,
) -> list[str]:
    """Return a continuation of each opening, the opening left out, by sampling at a temperature.

    Args:
        model: A HookedTransformer or TransformerBridge with a tokenizer and `generate`.
        openings: Texts; the first `opening_tokens` tokens of each are shown to the model.
        n_tokens: Tokens to sample; fewer where the model ends its text.
        opening_tokens: Tokens shown.
        temperature: Of the sampling; nothing is cut off (no top-k, no top-p).
        seed: Seed of the sampling. Global random state is put back afterwards.

    Raises:
        SettingError: No opening that is long enough, a number out of range.

    Cost: `n_tokens` forward passes a batch of 32, with the model's own cache of keys and values.
    """
    n_tokens, shown = (
        integer("n_tokens", n_tokens, least=1),
        integer("opening_tokens", opening_tokens, least=1),
    )
    if not 0 < number("temperature", temperature) < float("inf"):
        raise SettingError(
            "temperature out of range", seen=temperature, expected="a number above 0", fix="Pass 1.0."
        )
    tokenizer = tokenizer_of(model)
    ids = [encode(tokenizer, text)[:shown] for text in openings]
    ids = [row for row in ids if len(row) == shown]
    if not ids:
        raise SettingError(
            "no opening to continue",
            seen=f"none of {len(openings)} with {shown} tokens",
            expected="at least one",
            fix="Pass longer texts, or a smaller opening_tokens.",
        )
    inputs = with_prefix(torch.tensor(ids), compat.bos_token(model, None, None)).to(compat.device(model))
    end = getattr(tokenizer, "eos_token_id", None)
    texts = []
    devices = [inputs.device] if inputs.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        torch.manual_seed(integer("seed", seed))
        # TransformerLens calls transformers by an argument that a later version will rename.
        warnings.simplefilter("ignore", FutureWarning)
        for batch in inputs.split(_BATCH):
            found = model.generate(
                batch, max_new_tokens=n_tokens, do_sample=True, temperature=float(temperature),
                stop_at_eos=False, verbose=False,
            )  # fmt: skip
            for row in found[:, batch.shape[1] :].tolist():
                kept = row[: row.index(end)] if end in row else row
                texts.append(tokenizer.decode(kept, skip_special_tokens=True))
    return texts
