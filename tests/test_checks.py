"""Numbers as users pass them: of Python, NumPy and PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tl_emergence.checks import integer, integers, number, seed_number, sequence, text, truth
from tl_emergence.errors import SettingError


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_whole_numbers_become_plain_ints(value: Any) -> None:
    assert integer("seed", value) == 3 and type(integer("seed", value)) is int


@pytest.mark.parametrize("values", [[0, 2], (0, 2), range(0, 3, 2), np.array([0, 2]), torch.tensor([0, 2])])
def test_sequences_become_tuples_of_plain_ints(values: Any) -> None:
    found = integers("layer", values)
    assert found is not None and found == (0, 2)
    assert all(type(value) is int for value in found)
    assert integers("layer", None) is None


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2), torch.tensor(2.0)])
def test_numbers_become_plain_floats(value: Any) -> None:
    assert number("sigma", value) == 2.0 and type(number("sigma", value)) is float


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: integer("seed", 0.5), r"seed is not a whole number: saw 0.5 \(float\)"),
        (lambda: integer("seed", None), "seed is not a whole number: saw None"),
        (lambda: integer("n", 0, least=1), "n out of range: saw 0; expected 1 or more"),
        (
            lambda: integers("layer", 5),
            r"layer is not a sequence: saw 5 .* Leave it out for all",
        ),
        (lambda: integers("layer", torch.tensor(5)), "layer is not a sequence"),
        (lambda: integers("layer", "12"), "layer is not a sequence: saw '12'"),
        (lambda: integers("layer", [1.5]), "layer is not a whole number: saw 1.5"),
        (lambda: number("sigma", "0.5"), r"sigma is not a number: saw '0.5' \(str\)"),
        (lambda: number("sigma", np.array([0.5])), "sigma is not a number"),
    ],
)
def test_everything_else_is_refused_by_name(call: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        call()


@pytest.mark.parametrize(
    "mask", [[False, True, True], np.array([False, True, True]), torch.tensor([0, 1, 1]) > 0]
)
def test_a_boolean_mask_of_the_right_length_gives_the_indices_where_it_is_true(mask: Any) -> None:
    # It used to be read as the numbers 0, 1 and 1.
    assert integers("layer", mask, count=3) == (1, 2)
    with pytest.raises(SettingError, match="the mask of layers has the wrong length: saw 3 truth values"):
        integers("layer", mask, count=4)
    with pytest.raises(SettingError, match="layer is a boolean mask.*enumerate"):
        integers("layer", mask)


@pytest.mark.parametrize("value", [True, np.bool_(True), np.array(True), torch.tensor(True)])
def test_truth_values_are_neither_whole_numbers_nor_numbers(value: Any) -> None:
    assert truth("null", value) is True
    for check in (integer, number):
        with pytest.raises(SettingError):
            check("seed", value)


@pytest.mark.parametrize("value", ["False", "", 0, 1, None, 0.0, [True], np.array([True])])
def test_nothing_but_a_truth_value_counts_as_one(value: Any) -> None:
    with pytest.raises(SettingError, match="prepend_bos is neither True nor False"):
        truth("prepend_bos", value)


@pytest.mark.parametrize("values", [{0, 1}, frozenset({0, 1}), {0: 1}, "01", b"01", 3, torch.tensor(3)])
def test_a_sequence_has_an_order_of_its_own(values: Any) -> None:
    with pytest.raises(SettingError):
        sequence("layers", values, "numbers")


@pytest.mark.parametrize(
    "call",
    [
        lambda: integer("seed", torch.zeros(2, dtype=torch.long)),
        lambda: integer("seed", torch.zeros((), dtype=torch.long, device="meta")),
        lambda: number("sigma", torch.zeros((), device="meta")),
        lambda: number("sigma", 10**400),
        lambda: number("sigma", 1j),
        lambda: seed_number(2**63),
        lambda: text("name", 3),
        lambda: text("name", "\udc80"),
    ],
)
def test_values_that_cannot_be_turned_plain_get_the_typed_error(call: Any) -> None:
    with pytest.raises(SettingError):
        call()
