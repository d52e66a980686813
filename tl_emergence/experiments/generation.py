"""Text by a model, for the comparison of text sources: what it writes after sentences that a human wrote."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.capture import compat
from tl_emergence.capture.edited import PROBE_ROWS, prove_shortcuts, run_edited
from tl_emergence.capture.forward import with_prefix
from tl_emergence.checks import integer, number
from tl_emergence.errors import SettingError
from tl_emergence.prompts.tokenizer import encode, tokenizer_of

_STOP = re.compile(r"\w\.(?=\s)")
_WORD = re.compile(r"\S+")


def up_to_full_stops(texts: Iterable[str], most_words: int) -> list[str]:
    """Return, for every full stop inside a text, the last words up to and with it, `most_words` at most.

    Example:
        >>> up_to_full_stops(["She went. He stayed. They met"], most_words=3)
        ['She went.', 'went. He stayed.']
    """
    found = []
    for text in texts:
        starts = [word.start() for word in _WORD.finditer(text)]
        for stop in _STOP.finditer(text):
            upto = bisect.bisect_left(starts, stop.end())
            first = starts[max(0, upto - most_words)]
            found.append(" ".join(text[first : stop.end()].split()))
    return found


@torch.no_grad()
def continuations(
    model: Any,
    openings: Sequence[str],
    *,
    n_tokens: int = 16,
    opening_tokens: int = 16,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 128,
) -> list[str]:
    """Return what a model writes after each opening, by sampling at a temperature.

    Every token is sampled from a whole forward pass, without a cache of keys and values: that of
    TransformerBridge 4.3 is not read back, and gives noise (seen with transformers 5).

    Args:
        model: A HookedTransformer or TransformerBridge with a tokenizer.
        openings: Texts; the last `opening_tokens` tokens of each are shown, shorter ones are left out.
        n_tokens: Tokens to sample; what follows an end of text is cut off.
        opening_tokens: Tokens shown.
        temperature: Of the sampling; nothing else is cut off (no top-k, no top-p).
        seed: Seed of the sampling. Global random state is not touched.
        batch_size: Openings a forward pass. Texts do not depend on it, but for the rounding of logits.

    Raises:
        SettingError: No opening that is long enough, a number out of range.

    Cost: `n_tokens` forward passes, with logits at the last position only.
    """
    n_tokens = integer("n_tokens", n_tokens, least=1)
    shown = integer("opening_tokens", opening_tokens, least=1)
    if not 0 < number("temperature", temperature) < float("inf"):
        raise SettingError(
            "temperature out of range", seen=temperature, expected="a number above 0", fix="Pass 1.0."
        )
    tokenizer = tokenizer_of(model)
    ids = [encode(tokenizer, text)[-shown:] for text in openings]
    ids = [row for row in ids if len(row) == shown]
    if not ids:
        raise SettingError(
            "no opening to continue",
            seen=f"none of {len(openings)} with {shown} tokens",
            expected="at least one",
            fix="Pass longer texts, or a smaller opening_tokens.",
        )
    inputs = with_prefix(torch.tensor(ids), compat.bos_token(model, None, None))
    generator = torch.Generator().manual_seed(integer("seed", seed))
    draws = torch.rand(len(inputs), n_tokens, generator=generator, device="cpu", dtype=torch.float64)
    batch_size = integer("batch size", batch_size, least=1)
    device, end = compat.device(model), inputs.shape[1] - 1
    shortcuts = prove_shortcuts(model, inputs[:PROBE_ROWS].to(device), logits_at=[end])
    texts = []
    for batch, drawn in zip(inputs.split(batch_size), draws.split(batch_size), strict=True):
        rows = batch
        for u in drawn.T:
            end = rows.shape[1] - 1
            logits = run_edited(model, rows.to(device), logits_at=[end], shortcuts=shortcuts)
            assert logits is not None
            p = (logits[:, 0].double().cpu() / float(temperature)).softmax(dim=-1)
            rows = torch.cat([rows, _sampled(p, u)], dim=1)
        texts += [_text(tokenizer, row) for row in rows[:, batch.shape[1] :].tolist()]
    return texts


def _sampled(
    p: Float[Tensor, "batch vocabulary"], u: Float[Tensor, " batch"]
) -> Int[Tensor, "batch token=1"]:
    """Return the token at which the distribution function passes u, uniform in [0, 1), in each row.

    Example:
        >>> _sampled(torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]), torch.tensor([0.5, 0.0])).tolist()
        [[2], [1]]
    """
    up_to = p.cumsum(dim=-1)
    return torch.searchsorted(up_to, (u * up_to[:, -1])[:, None], right=True).clamp_max(p.shape[1] - 1)


def _text(tokenizer: Any, tokens: list[int]) -> str:
    end = getattr(tokenizer, "eos_token_id", None)
    kept = tokens[: tokens.index(end)] if end in tokens else tokens
    return tokenizer.decode(kept, skip_special_tokens=True)
