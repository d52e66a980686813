"""The door that every pair of matrices comes in by."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tl_emergence.errors import SettingError, StateError
from tl_emergence.estimators import ESTIMATORS, mutual_information

GOOD = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
QUICK: dict[str, dict[str, Any]] = {"mine_paper": {"steps": 20}}


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
        (torch.zeros(5, 2), "x and y are not paired: saw 5 rows of x and 40 of y"),
    ],
)
@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_bad_input_gets_a_typed_error(x: Any, message: str, estimator: str) -> None:
    with pytest.raises(StateError, match=message):
        mutual_information(x, GOOD, estimator=estimator)


def test_an_unknown_estimator_is_named_with_the_nearest_one() -> None:
    with pytest.raises(SettingError, match=r"unknown estimator: saw 'niose'.*Did you mean 'noise'\?"):
        mutual_information(GOOD, GOOD, estimator="niose")


def test_the_estimator_has_to_be_named() -> None:
    with pytest.raises(TypeError, match="estimator"):
        mutual_information(GOOD, GOOD)  # type: ignore[call-arg]


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_estimates_of_the_given_rows_say_so_since_they_read_log2_n_for_independent_rows(
    estimator: str,
) -> None:
    found = mutual_information(GOOD, GOOD.roll(1, 0), estimator=estimator, **QUICK.get(estimator, {}))
    of_finite_set = estimator in ("noise", "exact")
    assert ("bits of this finite set" in repr(found)) == of_finite_set == found.of_finite_set
    assert str(found) == repr(found)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(SettingError, match=r"options that noise does not have: saw steps"):
        mutual_information(GOOD, GOOD, estimator="noise", steps=5)


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_the_callers_tensors_are_not_changed(estimator: str) -> None:
    x, y = GOOD.clone(), GOOD.flip(0).clone()
    mutual_information(x, y, estimator=estimator, null=True, **QUICK.get(estimator, {}))
    assert torch.equal(x, GOOD) and torch.equal(y, GOOD.flip(0))


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_a_constant_side_gives_exactly_zero(estimator: str) -> None:
    constant = torch.full((40, 3), 0.1)
    for x, y in ((GOOD, constant), (constant, GOOD)):
        found = mutual_information(x, y, estimator=estimator, **QUICK.get(estimator, {}))
        assert (found.bits, found.stderr) == (0.0, 0.0)


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_the_same_seed_gives_the_same_value_and_global_random_state_stays(estimator: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state().clone()
    first, again = (
        mutual_information(GOOD, GOOD.roll(1, 0), estimator=estimator, seed=3, **QUICK.get(estimator, {}))
        for _ in range(2)
    )
    assert first.bits == pytest.approx(again.bits, abs=1e-9)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_the_null_check_says_what_it_found_and_what_to_expect(estimator: str) -> None:
    found = mutual_information(
        GOOD, 3 * GOOD + 0.1 * GOOD.flip(0), estimator=estimator, null=True, **QUICK.get(estimator, {})
    )
    assert found.null is not None and found.null.null is None
    expected = found.settings["null_means"]
    if estimator == "exact":
        assert found.null.bits == pytest.approx(math.log2(40)) and "bijection" in expected
    if estimator in ("gaussian", "nce", "vinfo"):
        assert found.bits > 4 or found.saturated
        assert abs(found.null.bits) <= 4 * found.null.stderr and "0, up to" in expected
    assert (
        mutual_information(GOOD, GOOD.flip(0), estimator=estimator, **QUICK.get(estimator, {})).null is None
    )
