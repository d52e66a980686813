"""Prompt sets from tokens: what is checked, copied and remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tl_emergence.errors import SettingError, TokenError
from tl_emergence.prompts import from_tokens
from tl_emergence.prompts.prefixes import first_rows, number_by_appearance, prefix_ids

GOOD = torch.tensor([[5, 7], [6, 7], [5, 8]])


def test_tokens_are_copied() -> None:
    mine = GOOD.clone()
    prompts = from_tokens(mine)
    mine[0, 0] = 99
    assert torch.equal(prompts.tokens, GOOD)


def test_equal_content_has_an_equal_hash_whatever_the_dtype() -> None:
    assert from_tokens(GOOD).content_hash == from_tokens(GOOD.to(torch.int32)).content_hash
    assert from_tokens(GOOD).content_hash != from_tokens(GOOD.flip(0)).content_hash
    assert from_tokens(GOOD).content_hash != from_tokens(GOOD.t().contiguous()).content_hash


def test_padding_on_either_side_is_dropped_by_an_explicit_mask() -> None:
    padded = torch.tensor([[0, 0, 5, 7], [0, 6, 7, 0], [5, 8, 0, 0]])
    mask = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]])
    assert torch.equal(from_tokens(padded, attention_mask=mask).tokens, GOOD)


def test_prompts_are_taken_in_the_order_asked_for_as_a_set_of_their_own() -> None:
    whole = from_tokens(GOOD, name="mine", labels=["a", "b"])
    assert whole.take([2, 0]).tokens.tolist() == [[5, 8], [5, 7]]
    assert whole.take(slice(1, None)).content_hash == from_tokens(GOOD[1:]).content_hash
    assert (whole.take([-1, 0]).name, whole.take([-1, 0]).labels) == ("mine", ("a", "b"))
    with pytest.raises(TokenError, match=r"no such prompt: saw \[3\]; expected rows below 3"):
        whole.take([0, 3])
    with pytest.raises(TokenError, match="too few prompts"):
        whole.take(slice(1))


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (GOOD[0], {}, r"tokens have the wrong shape: saw \(2,\); expected \[prompt, pos\]"),
        (GOOD[None], {}, "tokens have the wrong shape"),
        (GOOD[:, :0], {}, "tokens have the wrong shape"),
        (GOOD.float(), {}, "tokens have the wrong dtype: saw torch.float32"),
        ([[1, 2], [3, 4]], {}, "tokens are not a tensor: saw list"),
        (GOOD[:1], {}, r"too few prompts: saw 1 prompt\(s\); expected at least 2"),
        (GOOD - 6, {}, "negative token ids: saw -1"),
        (GOOD, {"labels": ["one"]}, "labels do not fit the prompts: saw 1 labels for 2 positions"),
        (GOOD, {"attention_mask": torch.ones(3, 3)}, "attention_mask does not fit the tokens"),
        (
            GOOD,
            {"attention_mask": [[1, 1]] * 2},
            r"attention_mask does not fit the tokens: saw \(2, 2\) for tokens \(3, 2\)",
        ),
        (GOOD, {"details": {"scale": torch.ones(2)}}, "details that cannot be saved: saw .*Tensor"),
        (
            GOOD,
            {"attention_mask": torch.tensor([[1, 1], [1, 0], [1, 1]])},
            "prompts of unequal length: saw between 1 and 2 tokens under the mask",
        ),
    ],
)
def test_bad_tokens_get_a_typed_error(tokens: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenError, match=message):
        from_tokens(tokens, **options)


MASK = [True, False, True]


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("mask", [MASK, tuple(MASK), np.array(MASK), torch.tensor(MASK)])
def test_a_boolean_mask_takes_the_rows_where_it_is_true(mask: Any) -> None:
    # Read as the numbers 1, 0, 1 it would have given rows 1, 0 and 1.
    assert from_tokens(GOOD).take(mask).tokens.tolist() == [[5, 7], [5, 8]]


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    "rows", [[2, 0], (2, 0), np.array([2, 0]), np.array([2, 0], dtype=np.uint8), torch.tensor([2, 0])]
)
def test_row_numbers_are_taken_from_any_sequence(rows: Any) -> None:
    assert from_tokens(GOOD).take(rows).tokens.tolist() == [[5, 8], [5, 7]]


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (3, r"rows is one number: saw 3.*slice\(3\)"),
        (True, "rows is one number: saw True"),
        (np.int64(2), "rows is one number"),
        ([True, False], r"the mask of rows has the wrong length: saw 2 truth values.*for each row: 3"),
        ([True, 1, 0], "row is not a whole number: saw True"),
        ([0.0, 1.0], "row is not a whole number"),
        ({0, 2}, "row has no order of its own: saw set"),
        ({0: 1}, "row is a mapping"),
        ("02", "row is not a sequence"),
        (slice(0, 2.5), "a bound of the slice is not a whole number"),
        (slice(None, None, 0), "step of the slice is 0"),
    ],
)
def test_rows_that_are_neither_numbers_nor_a_mask_are_refused(rows: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        from_tokens(GOOD).take(rows)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    "mask",
    [
        [[0, 1, 1], [1, 1, 0]],
        np.array([[0, 1, 1], [1, 1, 0]]),
        torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]]),
        torch.tensor([[False, True, True], [True, True, False]]),
    ],
)
def test_an_attention_mask_is_read_from_any_zeros_and_ones(mask: Any) -> None:
    tokens = torch.tensor([[0, 5, 7], [5, 8, 0]])
    assert from_tokens(tokens, attention_mask=mask).tokens.tolist() == [[5, 7], [5, 8]]


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("wrong", [float("nan"), 0.5, 2.0, -1e9])
def test_an_attention_mask_of_anything_but_zeros_and_ones_is_refused(wrong: float) -> None:
    mask = torch.ones(3, 2)
    mask[1, 1] = wrong
    with pytest.raises(TokenError, match="attention_mask is not made of zeros and ones"):
        from_tokens(GOOD, attention_mask=mask)


@pytest.mark.usefixtures("as_shipped")
def test_a_path_as_a_name_is_kept_as_text() -> None:
    prompts = from_tokens(GOOD, name=Path("lists.txt"), labels=[Path("a"), "b"])  # type: ignore[arg-type]
    assert (prompts.name, prompts.labels) == ("lists.txt", ("a", "b"))


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"name": 3}, SettingError),
        ({"name": "\ud800"}, SettingError),
        ({"labels": "ab"}, SettingError),
        ({"labels": {"a", "b"}}, SettingError),
        ({"labels": [1, 2]}, SettingError),
        ({"details": "ab"}, TokenError),
        ({"details": {"scale": float("nan")}}, TokenError),
    ],
)
def test_what_could_not_be_saved_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        from_tokens(GOOD, **options)


def test_prefixes_are_equal_exactly_when_all_their_tokens_are() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 3, (60, 5), generator=generator)
    ids = prefix_ids(tokens)
    for t in range(5):
        same_tokens = (tokens[:, None, : t + 1] == tokens[None, :, : t + 1]).all(dim=-1)
        assert torch.equal(ids[t][:, None] == ids[t][None, :], same_tokens)


def test_numbers_are_given_in_order_of_appearance() -> None:
    ids = number_by_appearance(torch.tensor([9, 2, 9, 7, 2]))
    assert ids.tolist() == [0, 1, 0, 2, 1]
    assert first_rows(ids).tolist() == [0, 1, 3]
