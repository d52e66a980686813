"""Natural-text windows, cut at full stops by the rules of the paper."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import Any, Literal

import torch

from tl_emergence.checks import integer
from tl_emergence.errors import TokenError, unknown_name
from tl_emergence.prompts.prompt_set import PromptSet
from tl_emergence.prompts.sources import read_texts
from tl_emergence.prompts.tokenizer import encode, tokenizer_of
from tl_emergence.torch_state import with_torch_defaults

_BREAKS = frozenset(".:?;-\n")
_ANCHORS = ("start", "end")


@with_torch_defaults
def sentences(
    texts: str | PathLike[str] | Iterable[str] | Iterable[dict[str, Any]],
    model_or_tokenizer: Any,
    *,
    n_tokens: int = 8,
    anchor: Literal["start", "end"] = "start",
    n: int | None = None,
    field: str | None = None,
    min_tokens: int = 20,
    min_stops: int = 2,
) -> PromptSet:
    """Cut windows of `n_tokens` tokens from natural text, at most one window a full stop.

    The rules are those of Chen et al. (arXiv 2405.12617, section 4.2): a window begins right after a full
    stop (`anchor="start"`) or ends right before one (`anchor="end"`); no token in it contains any of
    `. : ? ; -` or a newline; a text counts when it has more than `min_tokens` tokens and at least
    `min_stops` full stops. Windows are taken in the order of the texts, repeats included: real text
    repeats itself, and the exact ceiling accounts for it.

    Args:
        texts: An iterable of strings (or of rows with a text field: a Hugging Face dataset, streamed or
            not), a .txt file (blank lines separate texts), a .jsonl file, "persuasion" (Jane Austen's novel,
            which comes with the package), or "openorca" / "openhermes" (streamed from the hub).
        model_or_tokenizer: The tokenizer in hand (of transformers or of the tokenizers library), or a
            TransformerLens model that has one.
        n_tokens: Tokens a window.
        anchor: Which side of a full stop.
        n: Stop after this many windows; None takes all, which needs a finite source.
        field: The field of a row that holds the text; "text" unless given.
        min_tokens: A text counts when it has more tokens than this.
        min_stops: A text counts when it has at least this many full stops.

    Raises:
        SettingError: A source, anchor or number that cannot be.
        TokenError: Rows without text, windows of unknown tokens only, or fewer windows than asked for (at
            least 2).

    Example:
        >>> text = "France, Germany, Italy. Spain, China, Japan, India. Russia, Brazil, Canada."
        >>> sentences([text], tokenizer, n_tokens=3, min_tokens=5)
        PromptSet('sentences', 2 prompts x 3 tokens)
    """
    if anchor not in _ANCHORS:
        raise unknown_name("anchor", anchor, _ANCHORS)
    n_tokens = integer("n_tokens", n_tokens, least=1)
    n = None if n is None else integer("n", n, least=2)
    min_tokens, min_stops = integer("min_tokens", min_tokens), integer("min_stops", min_stops)
    tokenizer = tokenizer_of(model_or_tokenizer)
    windows: list[list[int]] = []
    read = short = 0
    for text in read_texts(texts, field):
        read += 1
        found = _windows(tokenizer, text, n_tokens, anchor, min_tokens, min_stops)
        short += found is None
        windows.extend(found or ())
        if n is not None and len(windows) >= n:
            break
    _check_known(tokenizer, windows)
    wanted = 2 if n is None else n
    if len(windows) < wanted:
        raise TokenError(
            "too few windows",
            seen=f"{len(windows)} windows in {read} texts, {short} of which do not count (min_tokens="
            f"{min_tokens}, min_stops={min_stops})",
            expected=f"at least {wanted}",
            fix="Pass more or longer texts, shorter windows (n_tokens), a smaller n, or lower min_tokens and "
            "min_stops; a window holds none of . : ? ; - and no newline.",
        )
    details = {
        "kind": "sentences",
        "source": str(texts) if isinstance(texts, str | PathLike) else type(texts).__name__,
        "field": field,
        "n": n,
        "n_tokens": n_tokens,
        "anchor": anchor,
        "texts_read": read,
        "min_tokens": min_tokens,
        "min_stops": min_stops,
    }
    labels = tuple(f"token {t + 1}" for t in range(n_tokens))
    return PromptSet(torch.tensor(windows[:n]), labels, "sentences", details=details)


def _check_known(tokenizer: Any, windows: list[list[int]]) -> None:
    """Raise TokenError where all windows are of unknown tokens only: they would be one prompt."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is not None and windows and all(token == unknown for window in windows for token in window):
        raise TokenError(
            "windows of unknown tokens only",
            seen=f"{len(windows)} windows, in which every token is the unknown token {unknown}",
            expected="text that the tokenizer knows",
            fix="Use a tokenizer for the language of the text.",
        )


def _windows(
    tokenizer: Any, text: str, n_tokens: int, anchor: str, min_tokens: int, min_stops: int
) -> list[list[int]] | None:
    """Return the windows of a text, or None for a text that does not count."""
    ids = encode(tokenizer, text)
    pieces = [tokenizer.decode([token]) for token in ids]
    stops = [i for i, piece in enumerate(pieces) if piece.strip() == "."]
    if len(ids) <= min_tokens or len(stops) < min_stops:
        return None
    breaks = [not _BREAKS.isdisjoint(piece) for piece in pieces]
    starts = [stop + 1 if anchor == "start" else stop - n_tokens for stop in stops]
    spans = [slice(first, first + n_tokens) for first in starts if 0 <= first <= len(ids) - n_tokens]
    return [ids[span] for span in spans if not any(breaks[span])]
