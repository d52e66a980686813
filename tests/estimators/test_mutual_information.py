"""The door that every pair of matrices comes in by."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tl_emergence.errors import SettingError, StateError
from tl_emergence.estimators import ESTIMATORS, mutual_information

GOOD = torch.arange(12.0).view(6, 2)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(6), r"x has the wrong shape: saw \(6,\); expected \[sample, d\]"),
        (torch.zeros(6, 2, 2), "x has the wrong shape"),
        (torch.zeros(6, 0), "x has the wrong shape"),
        (torch.zeros(6, 2, dtype=torch.int64), "x is not a float tensor: saw torch.int64"),
        ([[1.0, 2.0]], "x is not a float tensor: saw list"),
        (torch.zeros(1, 2), "x has too few rows: saw 1; expected at least 2"),
        (torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]), "x is not finite: saw NaN or infinity in row 1"),
        (torch.tensor([[0.0, float("inf")], [0.0, 0.0]]), "x is not finite: saw NaN or infinity in row 0"),
        (torch.zeros(5, 2), "x and y are not paired: saw 5 rows of x and 6 of y"),
    ],
)
@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_bad_input_gets_a_typed_error(x: Any, message: str, estimator: str) -> None:
    with pytest.raises(StateError, match=message):
        mutual_information(x, GOOD, estimator=estimator)


def test_an_unknown_estimator_is_named_with_the_nearest_one() -> None:
    with pytest.raises(SettingError, match=r"unknown estimator: saw 'niose'.*Did you mean 'noise'\?"):
        mutual_information(GOOD, GOOD, estimator="niose")


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(SettingError, match=r"options that noise does not have: saw steps"):
        mutual_information(GOOD, GOOD, steps=5)


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_the_callers_tensors_are_not_changed(estimator: str) -> None:
    x, y = GOOD.clone(), GOOD.flip(0).clone()
    mutual_information(x, y, estimator=estimator)
    assert torch.equal(x, GOOD) and torch.equal(y, GOOD.flip(0))
