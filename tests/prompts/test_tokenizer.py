"""Tokenizers: those of the tokenizers library do what the transformers tokenizer made from them does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import toys
from tl_emergence.errors import TokenError
from tl_emergence.prompts import demonstrations, sentences

TEXT = "x. Spain, China, Japan. Germany, Italy. Canada, Mexico."


@pytest.fixture(scope="module")
def raw(tokenizer: Any) -> Any:
    return tokenizer.backend_tokenizer


def test_a_raw_tokenizer_gives_the_prompts_of_the_wrapped_one(raw: Any, tokenizer: Any) -> None:
    options: dict[str, Any] = {"shots": 3, "n": 64, "seed": 2}
    expected = demonstrations("country", tokenizer, **options)
    assert torch.equal(demonstrations("country", raw, **options).tokens, expected.tokens)


def test_a_raw_tokenizer_gives_the_windows_of_the_wrapped_one(raw: Any, tokenizer: Any) -> None:
    options: dict[str, Any] = {"n_tokens": 3, "min_tokens": 5}
    expected = sentences([TEXT, TEXT], tokenizer, **options)
    assert torch.equal(sentences([TEXT, TEXT], raw, **options).tokens, expected.tokens)


def test_a_model_with_a_raw_tokenizer_serves_as_well(raw: Any, tokenizer: Any) -> None:
    model = toys.make_model(toys.MODEL_KINDS[0])
    model.tokenizer = raw
    expected = demonstrations("animal", tokenizer, shots=2, n=16)
    assert torch.equal(demonstrations("animal", model, shots=2, n=16).tokens, expected.tokens)


def test_a_raw_tokenizer_is_not_changed(raw: Any) -> None:
    before = raw.to_str()
    demonstrations("country", raw, shots=2, n=16)
    assert raw.to_str() == before


def test_words_that_a_raw_tokenizer_does_not_know_are_named(raw: Any) -> None:
    with pytest.raises(TokenError, match="does not tell apart: saw ' Atlantis', ' Utopia'"):
        demonstrations(["Italy", "Utopia", "Atlantis"], raw, shots=2, n=4)


class OfAnotherLibrary:
    """As tiktoken and sentencepiece have it: no word about special tokens."""

    def encode(self, text: str) -> list[int]:
        return [1] * len(text)


def test_a_tokenizer_of_another_library_is_refused_with_what_to_pass() -> None:
    for other in (OfAnotherLibrary(), OfAnotherLibrary):
        with pytest.raises(TokenError, match="a tokenizer of another library: saw .*AutoTokenizer"):
            demonstrations("country", other, shots=2, n=4)
