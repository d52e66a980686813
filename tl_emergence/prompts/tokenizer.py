"""Tokenizers: finding the one in hand, and the one token that a word is in the middle of a text."""

from __future__ import annotations

from typing import Any

from tl_emergence.errors import TokenError

# Words are encoded behind this and the shared beginning is cut off, so that tokenizers which add
# a leading space of their own (SentencePiece) give the token that a word has *inside* a text.
_CONTEXT = "x"


def tokenizer_of(model_or_tokenizer: Any) -> Any:
    """Return the tokenizer of a TransformerLens model, or the tokenizer itself.

    One of the `tokenizers` library (`tokenizers.Tokenizer`) is wrapped as transformers wraps it; it stays as
    it is.

    Raises:
        TokenError: Neither a tokenizer nor a model that has one, or a tokenizer of another library.
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
    if type(found).__module__.split(".")[0] == "tokenizers":
        found = _wrapped(found)
    try:
        encode(found, "")
    except TypeError as error:
        raise TokenError(
            "a tokenizer of another library",
            seen=f"{type(found).__module__}.{type(found).__name__}, whose encode says: {error}",
            expected="a tokenizer of transformers or of the tokenizers library",
            fix="Load it with transformers.AutoTokenizer, or make the prompts yourself with "
            "prompts.from_tokens.",
        ) from error
    return found


def _wrapped(tokenizer: Any) -> Any:
    """Return a transformers tokenizer that works on a copy of one of the `tokenizers` library."""
    from transformers import PreTrainedTokenizerFast

    raw = getattr(tokenizer, "_tokenizer", tokenizer)  # the library's ready-made classes hold theirs inside
    unknown = getattr(raw.model, "unk_token", None)
    special = {} if unknown is None else {"unk_token": unknown}
    # Texts are put together from pieces: a piece must come back as it was.
    return PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False, **special)


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
