"""Padding whose token is EOS or BOS (GPT-2, Pythia, Llama) is not measured as content."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests import toys
from tl_emergence import capture_states, prompts
from tl_emergence.errors import TokenError

EOS = 0  # of the tokenizer of the tests, where it is BOS too
CONTENT = torch.tensor([[5, 9, 7], [6, 9, 7], [5, 9, 8], [6, 9, 8]])


@pytest.fixture(scope="module")
def model() -> Any:
    model = toys.make_model(toys.MODEL_KINDS[0])
    model.tokenizer = SimpleNamespace(
        bos_token_id=EOS, eos_token_id=EOS, unk_token_id=None, pad_token_id=None
    )
    return model


def captured(model: Any, tokens: Any, **options: Any) -> Any:
    return capture_states(model, prompts.from_tokens(tokens, **options), prepend_bos=False)


@pytest.mark.parametrize("pad", [None, EOS])
@pytest.mark.parametrize(("row", "column"), [(1, 0), (1, -1), (slice(0, 3), -1)])
def test_eos_at_the_edge_of_some_prompts_is_refused_as_padding(
    row: Any, column: int, pad: int | None, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.tokenizer, "pad_token_id", pad)
    padded = CONTENT.clone()
    padded[row, column] = EOS
    with pytest.raises(TokenError, match="padding among the content tokens: saw the EOS or BOS token 0"):
        captured(model, padded)


def test_eos_inside_prompts_or_at_the_edge_of_all_is_content(model: Any) -> None:
    for rows, column in ((1, 1), (slice(None), -1), (slice(None), 0)):
        tokens = CONTENT.clone()
        tokens[rows, column] = EOS
        assert len(captured(model, tokens).prompts) == 4


def test_an_attention_mask_drops_the_padding_or_says_that_the_token_is_content(model: Any) -> None:
    padded = torch.cat([CONTENT, torch.full((4, 1), EOS)], dim=1)
    padded[1] = padded[1].roll(1)
    mask = padded != EOS
    states = captured(model, padded, attention_mask=mask)
    assert torch.equal(states.prompts.tokens, CONTENT)
    meant = captured(model, padded, attention_mask=torch.ones_like(padded))
    assert torch.equal(meant.prompts.tokens, padded) and meant.prompts.take([0, 1]).masked
