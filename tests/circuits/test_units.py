"""Values of heads and blocks: emergence prompt by prompt, aggregates, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import tl_emergence as tle
from tests import toys
from tl_emergence.circuits import UnitValues, block_means, block_values
from tl_emergence.errors import SettingError, UnitError
from tl_emergence.prompts import from_tokens

LABELS, LAYERS = ("L0H0", "L0H1", "L1H0"), (0, 0, 1)


@pytest.fixture(scope="module")
def result(toy: Any) -> tle.EmergenceResult:
    found = tle.information_emergence(toy, from_tokens(toys.TOKENS), space="unit")
    assert isinstance(found, tle.EmergenceResult)
    return found


def test_the_mean_of_block_values_over_prompts_is_the_emergence_of_the_block(
    result: tle.EmergenceResult,
) -> None:
    for t in range(3):
        found = block_values(result, positions=[t])
        assert torch.allclose(found.values.mean(dim=1).double(), result.emergence[:, t], atol=1e-5)
    assert torch.equal(block_values(result).values, block_values(result, positions=[2]).values)


def test_block_values_carry_labels_layers_and_the_hash_of_the_prompts(result: tle.EmergenceResult) -> None:
    found = block_values(result)
    assert (found.labels, found.layers, found.unit) == (("L0", "L1"), (0, 1), "bits")
    assert found.prompts == from_tokens(toys.TOKENS).content_hash


def test_block_values_of_several_positions_are_their_mean(result: tle.EmergenceResult) -> None:
    both = block_values(result, positions=[1, 2]).values
    each = [block_values(result, positions=[t]).values for t in (1, 2)]
    assert torch.allclose(both, (each[0] + each[1]) / 2)


def test_with_micro_first_block_values_subtract_the_first_position_even_if_it_was_not_asked_for(
    toy: Any,
) -> None:
    found = tle.information_emergence(
        toy, from_tokens(toys.TOKENS), space="unit", micro="first", positions=[0, 2]
    )
    assert isinstance(found, tle.EmergenceResult)
    values = block_values(found).values
    assert torch.allclose(values.mean(dim=1).double(), found.emergence[:, -1], atol=1e-5)


def test_an_estimator_without_pointwise_values_has_no_block_values(toy: Any) -> None:
    found = tle.information_emergence(toy, from_tokens(toys.TOKENS), estimator="exact")
    assert isinstance(found, tle.EmergenceResult)
    with pytest.raises(UnitError, match="estimator 'exact'.*Measure with estimator='noise'"):
        block_values(found)


@pytest.mark.parametrize("positions", [[3], [-2], []])
def test_a_position_that_was_not_measured_is_refused(
    result: tle.EmergenceResult, positions: list[int]
) -> None:
    with pytest.raises(SettingError):
        block_values(result, positions=positions)


def test_a_position_without_those_before_it_is_refused(toy: Any) -> None:
    found = tle.information_emergence(toy, from_tokens(toys.TOKENS), space="unit", positions=[0, 2])
    assert isinstance(found, tle.EmergenceResult)
    with pytest.raises(SettingError, match=r"position 2 of a result without \[1\]"):
        block_values(found)


def test_block_means_average_the_heads_that_there_are() -> None:
    heads = UnitValues(
        "loss", torch.tensor([[1.0, 0.0], [3.0, 4.0], [5.0, 7.0]]), LABELS, LAYERS, "nats", "x"
    )
    found = block_means(heads)
    assert found.values.tolist() == [[2.0, 2.0], [5.0, 7.0]]
    assert (found.labels, found.layers, found.unit, found.prompts) == (("L0", "L1"), (0, 1), "nats", "x")


def test_units_are_selected_by_label_in_the_order_asked_for() -> None:
    heads = UnitValues("loss", torch.arange(6.0).view(3, 2), LABELS, LAYERS)
    found = heads.select(["L1H0", "L0H0"])
    assert found.values.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert (found.labels, found.layers) == (("L1H0", "L0H0"), (1, 0))
    with pytest.raises(UnitError, match="lacks units: saw .*L7H7"):
        heads.select(["L7H7"])


@pytest.mark.parametrize(
    ("values", "labels", "layers", "message"),
    [
        (torch.zeros(3), LABELS, LAYERS, "wrong shape"),
        (torch.zeros(3, 0), LABELS, LAYERS, "wrong shape"),
        (torch.zeros(3, 2), LABELS[:2], LAYERS, "2 labels and 3 layers for 3 units"),
        (torch.zeros(3, 2), LABELS, LAYERS[:2], "3 labels and 2 layers for 3 units"),
        (torch.zeros(3, 2), ("L0H0",) * 3, LAYERS, "not distinct"),
        (torch.tensor([[0.0], [torch.nan], [torch.inf]]), LABELS, LAYERS, "infinity in L0H1, L1H0"),
    ],
)
def test_values_that_cannot_be_held_are_refused(
    as_shipped: None, values: torch.Tensor, labels: Any, layers: Any, message: str
) -> None:
    with pytest.raises(UnitError, match=message):
        UnitValues("loss", values, labels, layers)


def test_values_of_arrays_and_lists_become_tensors_and_what_is_no_matrix_of_numbers_is_refused(
    as_shipped: None,
) -> None:
    for values in (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]], torch.tensor([[1, 2], [3, 4]]).to_sparse()):
        made = UnitValues("loss", values, ["L0", "L1"], np.arange(2))  # type: ignore[arg-type]
        assert made.values.tolist() == [[1.0, 2.0], [3.0, 4.0]] and made.values.dtype == torch.float64
        assert made.labels == ("L0", "L1") and made.layers == (0, 1)
    for wrong in ("x", None, [[1], [2, 3]], torch.ones(2, 2, device="meta"), torch.ones(2, 2) * 1j, len):
        with pytest.raises(UnitError, match="no numbers"):
            UnitValues("loss", wrong, ("L0", "L1"), (0, 1))  # type: ignore[arg-type]


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("convert", [torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.clone])
@pytest.mark.parametrize("layers", [list(LAYERS), np.array(LAYERS), torch.tensor(LAYERS)])
def test_values_labels_and_layers_are_taken_from_lists_arrays_and_tensors(convert: Any, layers: Any) -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]])
    plain = UnitValues("loss", values, LABELS, LAYERS)
    found = UnitValues("loss", convert(values), list(LABELS), layers)  # type: ignore[arg-type]
    assert torch.equal(found.values.float(), plain.values)
    assert (found.labels, found.layers) == (LABELS, LAYERS)
    assert all(type(layer) is int for layer in found.layers)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("loss", "abc", LABELS, LAYERS), UnitError, "'loss' has no numbers: saw str"),
        (("loss", [[1.0], [2.0, 3.0], [4.0]], LABELS, LAYERS), UnitError, "'loss' has no numbers: saw list"),
        (("loss", torch.ones(3, 2) > 0, LABELS, LAYERS), UnitError, "saw torch.bool"),
        (("loss", torch.ones(3, 2), "abc", LAYERS), SettingError, "labels is not a sequence"),
        (("loss", torch.ones(3, 2), set(LABELS), LAYERS), SettingError, "labels has no order"),
        (("loss", torch.ones(3, 2), LABELS, [True, False, True]), SettingError, "boolean mask"),
        (("loss", torch.ones(3, 2), LABELS, [0.0, 0.0, 1.0]), SettingError, "not a whole number"),
        ((3, torch.ones(3, 2), LABELS, LAYERS), SettingError, "name is not a text"),
    ],
)
def test_what_are_no_values_of_units_gets_a_typed_error(
    arguments: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        UnitValues(*arguments)
