"""Tokenizers: finding the one in hand, and the one token that a word is in the middle of a text."""

from __future__ import annotations

from typing import Any

from tl_emergence.errors import TokenError

# Words are encoded behind this and the shared beginning is cut off, so that tokenizers which add
# a leading space of their own (SentencePiece) give the token that a word has *inside* a text.
_CONTEXT = "x"


def tokenizer_of(model_or_tokenizer: Any) -> Any:
    """Return the tokenizer of a TransformerLens model, or the tokenizer itself.

    Raises:
        TokenError: Neither a tokenizer nor a model that has one.
    """
    found = model_or_tokenizer
    if hasattr(model_or_tokenizer, "cfg"):
        found = getattr(model_or_tokenizer, "tokenizer", None)
    if found is None or isinstance(found, str) or not hasattr(found, "encode"):
        raise TokenError(
            "no tokenizer",
            seen=type(model_or_tokenizer).__name__,
            expected="a tokenizer, or a TransformerLens model that has one",
            fix="Pass the loaded model or its tokenizer (second, after the texts or the list), or make the "
            "prompts yourself with prompts.from_tokens.",
        )
    return found


def encode(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a text, without special tokens."""
    return list(tokenizer.encode(text, add_special_tokens=False))


def tokens_inside_text(tokenizer: Any, text: str) -> list[int]:
    """Return the ids that `text` has when it follows other text.

    Falls back to the ids of the text alone where a tokenizer merges it with what stands before.
    """
    context = encode(tokenizer, _CONTEXT)
    joined = encode(tokenizer, _CONTEXT + text)
    if joined[: len(context)] == context and len(joined) > len(context):
        return joined[len(context) :]
    return encode(tokenizer, text)
