"""Checks at the door of the capture: indices, vocabulary, padding, finite states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.capture import compat
from tl_emergence.checks import integers
from tl_emergence.errors import SettingError, StateError, TokenError
from tl_emergence.prompts.prompt_set import PromptSet


def indices(what: str, given: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Return sorted distinct indices from 0, all `count` of them for None; negatives count from the end.

    A boolean mask of length `count` gives the indices of its True entries.

    Raises:
        SettingError: One is out of range or no whole number, none is asked for, or a mask does not fit.
    """
    asked = integers(what, given, count=count)
    if asked is None:
        return tuple(range(count))
    wrong = [i for i in asked if not -count <= i < count]
    if wrong or len(asked) == 0:
        raise SettingError(
            f"{what} out of range",
            seen=wrong or "none",
            expected=f"{-count} to {count - 1}",
            fix=f"Name at least one {what}; there are {count}.",
        )
    return tuple(sorted({i % count for i in asked}))


def check_fits_model(model: Any, prompts: PromptSet, bos: int | None) -> None:
    """Raise TokenError for tokens that the model cannot run or that are no content."""
    tokens, size = prompts.tokens, compat.vocabulary_size(model)
    if int(tokens.max()) >= size:
        raise TokenError(
            "token ids outside the vocabulary",
            seen=int(tokens.max()),
            expected=f"ids below {size}",
            fix="The prompts were made with another model's tokenizer; make them with this one.",
        )
    if bos is not None and not 0 <= bos < size:
        raise TokenError(
            "BOS outside the vocabulary",
            seen=bos,
            expected=f"an id from 0 to {size - 1}",
            fix="Pass the model's own BOS token as bos_token_id, or prepend_bos=False.",
        )
    length = prompts.n_positions + (bos is not None)
    longest = compat.context_length(model)
    if longest is not None and length > longest:
        raise TokenError(
            "prompts longer than the model's context",
            seen=f"{length} tokens, BOS included",
            expected=f"at most {longest}",
            fix="Cut the prompts.",
        )
    if bos is not None and bool((tokens[:, 0] == bos).all()):
        raise TokenError(
            "BOS is among the content tokens",
            seen=f"token {bos} at position 0 of every prompt",
            expected="content tokens only: BOS is put before every prompt by the run",
            fix="Pass tokens[:, 1:], or prepend_bos=False if it is meant as content.",
        )
    if prompts.masked:
        return
    for token in compat.padding_candidates(model):
        _check_runs_at_the_edges(tokens, token)
    pad = compat.padding_token(model)
    if pad is not None and bool(((tokens[:, 0] == pad) | (tokens[:, -1] == pad)).any()):
        raise TokenError(
            "padding among the content tokens",
            seen=f"padding token {pad} at the edge of a prompt",
            expected="prompts of one length without padding",
            fix="Pass attention_mask=... to prompts.from_tokens, which drops the padding.",
        )


def _check_runs_at_the_edges(tokens: Int[Tensor, "prompt pos"], token: int) -> None:
    """Raise TokenError where a token that tokenizers pad with stands at the edge of some prompts only.

    Many tokenizers pad with EOS or BOS (GPT-2, Pythia, Llama), whose id alone does not tell padding from
    content. That it begins or ends some prompts and not others does: every prompt has the same length here.
    """
    for edge, column in (("beginning", tokens[:, 0]), ("end", tokens[:, -1])):
        count = int((column == token).sum())
        if 0 < count < len(tokens):
            raise TokenError(
                "padding among the content tokens",
                seen=f"the EOS or BOS token {token} at the {edge} of {count} of {len(tokens)} prompts",
                expected="prompts of one length without padding",
                fix="Pass attention_mask=... to prompts.from_tokens, which drops the padding. If it is "
                "meant as content, a mask of ones says so.",
            )


def check_finite(
    states: tuple[int, ...],
    written: Sequence[tuple[int, Float[Tensor, "state _row d_model"]]],
    name: Callable[[int], str] = "h_{}".format,
) -> None:
    """Raise StateError when a state of (position, tensor) pairs holds NaN or infinity."""
    for position, tensor in written:
        # One pass: a NaN or infinity anywhere makes the sum not finite. A sum may also overflow by
        # itself, so the exact test has the last word.
        if bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all()):
            continue
        bad = [s for s, x in zip(states, tensor, strict=True) if not bool(torch.isfinite(x).all())]
        raise not_finite(f"{name(bad[0])} at position {position}")


def not_finite(where: str) -> StateError:
    """Return the error for states that hold NaN or infinity."""
    return StateError(
        "states are not finite",
        seen=f"NaN or infinity in {where}",
        expected="finite residual streams",
        fix="Run the model in float32 or bfloat16 (float16 overflows in some models), and check hooks "
        "that edit the stream.",
    )
