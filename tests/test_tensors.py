"""The one check of tensors, and every public function of matrices that goes through it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tl_emergence as tle
from tl_emergence import geometry
from tl_emergence.errors import EmergenceError, StateError
from tl_emergence.estimators import ESTIMATORS, entropy_bits, miller_madow_bits, usable_information
from tl_emergence.tensors import FLOATS

pytestmark = pytest.mark.usefixtures("as_shipped")

ROWS = torch.randn(48, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(48) % 2
HALF = torch.full((48,), 1 / 48)
CUBE = ROWS.reshape(8, 6, 3)
QUICK: dict[str, dict[str, Any]] = {"mine_paper": {"steps": 2}, "nce": {"folds": 2}}


def of_mutual_information(estimator: str, first: bool) -> Callable[[Any], Any]:
    def call(x: Any) -> Any:
        # Another matrix: without noise, one that x determines has infinite Gaussian information.
        pair = (x, ROWS.flip(0)) if first else (ROWS.flip(0), x)
        return tle.mutual_information(*pair, estimator=estimator, **QUICK.get(estimator, {}))

    return call


# Functions of one matrix of floats, each with a value that it takes.
MATRICES: dict[str, tuple[Callable[[Any], Any], torch.Tensor]] = {
    **{f"{name}, x": (of_mutual_information(name, True), ROWS) for name in ESTIMATORS},
    **{f"{name}, y": (of_mutual_information(name, False), ROWS) for name in ESTIMATORS},
    "usable_information": (lambda x: usable_information(x, LABELS, folds=2), ROWS),
    "effective_rank": (geometry.effective_rank, ROWS[:, 0].square()),
    "participation_ratio": (geometry.participation_ratio, ROWS[:, 0].square()),
    "prompt_entropy": (geometry.prompt_entropy, CUBE),
    "mean_norm": (lambda x: geometry.mean_norm(x, HALF), ROWS),
    "cosine_to_previous": (lambda x: geometry.cosine_to_previous(x, ROWS, HALF), ROWS),
    "cosine_to_previous, previous": (lambda x: geometry.cosine_to_previous(ROWS, x, HALF), ROWS),
    "gaussian_criteria": (lambda x: geometry.gaussian_criteria(x, CUBE4, components=1), CUBE4 := ROWS[None]),
    "gaussian_criteria, x_next": (lambda x: geometry.gaussian_criteria(CUBE4, x, components=1), CUBE4),
}
# Functions of labels.
OF_LABELS: dict[str, tuple[Callable[[Any], Any], torch.Tensor]] = {
    "usable_information": (lambda labels: usable_information(ROWS, labels), LABELS),
    "entropy_bits": (entropy_bits, LABELS),
    "miller_madow_bits": (miller_madow_bits, LABELS),
    "discrete_criteria, x": (
        lambda x: geometry.discrete_criteria(x, LABELS[:, None], LABELS, LABELS), LABELS[:, None]
    ),
    "discrete_criteria, v": (
        lambda v: geometry.discrete_criteria(LABELS[:, None], LABELS[:, None], v, LABELS), LABELS
    ),
}  # fmt: skip


def with_one(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def changed(x: torch.Tensor) -> torch.Tensor:
        other = x.clone()
        other.view(-1)[1] = value
        return other

    return changed


# What else a caller may have, made of a good value, with what the error says of it.
UNUSABLE_FLOATS: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "a list": (lambda x: x.tolist(), "is not a float tensor: saw list"),
    "an array": (lambda x: x.numpy(), "is not a float tensor: saw ndarray"),
    "a model": (lambda x: torch.nn.Linear(2, 2), "is not a float tensor: saw Linear"),
    "nothing": (lambda x: None, "is not a float tensor: saw NoneType"),
    "integers": (lambda x: x.long(), "is not a float tensor: saw torch.int64"),
    "uint8": (lambda x: x.abs().to(torch.uint8), "is not a float tensor: saw torch.uint8"),
    "bool": (lambda x: x > 0, "is not a float tensor: saw torch.bool"),
    "complex": (lambda x: x.to(torch.complex64), "is not a float tensor: saw torch.complex64"),
    "float8": (lambda x: x.to(torch.float8_e4m3fn), "dtype that can be computed with: saw torch.float8"),
    "sparse": (lambda x: x.to_sparse(), "is not dense: saw torch.sparse_coo"),
    "meta": (lambda x: x.to("meta"), "has no values: saw a tensor on the device 'meta'"),
    "nested": (lambda x: torch.nested.nested_tensor(list(x)), "is not dense: saw a nested tensor"),
    "NaN": (with_one(math.nan), "is not finite: saw NaN or infinity"),
    "infinity": (with_one(math.inf), "is not finite: saw NaN or infinity"),
    "a dimension more": (lambda x: x[None], "has the wrong shape"),
    "one number": (lambda x: x.sum(), "has the wrong shape"),
    "nothing in it": (lambda x: x[:0], "has the wrong shape"),
}
UNUSABLE_LABELS: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "a list": (lambda x: x.tolist(), "saw list"),
    "floats": (lambda x: x.float(), "saw torch.float32"),
    "complex": (lambda x: x.to(torch.complex64), "saw torch.complex64"),
    "sparse": (lambda x: x.to_sparse(), "not dense: saw torch.sparse_coo|is not dense"),
    "meta": (lambda x: x.to("meta"), "no values: saw a tensor on the device 'meta'"),
    "a dimension more": (lambda x: x[None], r"has the wrong shape|are not paired"),
    "nothing in it": (lambda x: x[:0], "no rows|are not paired|do not fit each other"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("bad", list(UNUSABLE_FLOATS))
@pytest.mark.parametrize("function", list(MATRICES))
def test_a_tensor_that_cannot_be_computed_with_gets_a_typed_error(function: str, bad: str) -> None:
    call, good = MATRICES[function]
    make, message = UNUSABLE_FLOATS[bad]
    if bad == "nested" and good.ndim == 1:
        pytest.skip("a nested tensor has rows")
    with pytest.raises(StateError, match=message):
        call(make(good))


@pytest.mark.parametrize("bad", list(UNUSABLE_LABELS))
@pytest.mark.parametrize("function", list(OF_LABELS))
def test_labels_that_are_none_get_a_typed_error(function: str, bad: str) -> None:
    call, good = OF_LABELS[function]
    make, message = UNUSABLE_LABELS[bad]
    with pytest.raises(StateError, match=message):
        call(make(good))


@pytest.mark.parametrize("function", list(MATRICES))
def test_what_is_right_is_taken_in_every_precision_and_left_as_it_was(function: str) -> None:
    call, good = MATRICES[function]
    trained = function.startswith(("nce", "mine_paper", "usable_information"))
    for dtype in (torch.float16, torch.float64) if trained else FLOATS:
        given = good.clone().to(dtype).requires_grad_()
        before = given.detach().clone()
        call(given)
        assert torch.equal(given.detach(), before) and given.dtype == dtype and given.grad is None
    # Every second number of a larger tensor: not contiguous.
    spread = good.repeat_interleave(2, dim=-1)[..., ::2]
    assert not spread.is_contiguous()
    found = call(spread)
    if not trained:  # training makes more of the last digit
        assert repr(found) == repr(call(good))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_every_integer_type_are_the_same_labels(dtype: torch.dtype) -> None:
    assert entropy_bits(LABELS.to(dtype)) == 1.0
    x = LABELS[:, None].to(dtype)
    found = geometry.discrete_criteria(x, x, LABELS.to(dtype), LABELS + 300)
    assert found.gamma == pytest.approx(1.0)


@pytest.mark.parametrize("rows", [2, 3, 4])
@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_very_few_rows_get_a_value_or_a_typed_error_that_can_be_followed(estimator: str, rows: int) -> None:
    x = ROWS[:rows]
    try:
        found = tle.mutual_information(x, x.flip(0), estimator=estimator, **QUICK.get(estimator, {}))
    except EmergenceError as error:
        assert "at most 0" not in str(error) and "-1" not in str(error)
    else:
        assert math.isfinite(found.bits)
