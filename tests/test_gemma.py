"""A real pretrained model: known tables, real states against the slow twin, agreement between classes."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tl_emergence as tle
from tests import toys
from tests.estimators.oracles import noise_information_slowly
from tests.test_readme import assert_same_but_for_rounding, shown_by_the_demo
from tl_emergence import models
from tl_emergence.capture import capture_states, in_space

pytestmark = pytest.mark.slow

# Macro bits at content positions 0..7 (country, separator, ...), four shots, N = 1,024, sigma 0.5: a rough
# prototype's numbers, to one decimal, on another draw of prompts.
KNOWN: dict[str, dict[int, list[float]]] = {
    "unit": {
        1: [3.6, 0.0, 4.0, 0.0, 3.9, 0.0, 3.9, 0.0],
        3: [4.1, 0.4, 4.4, 0.3, 4.5, 0.1, 4.5, 0.1],
        6: [4.6, 0.4, 4.8, 0.6, 4.8, 0.6, 4.9, 0.6],
        9: [4.4, 0.4, 4.9, 0.5, 4.9, 0.3, 4.9, 0.3],
        12: [4.6, 4.6, 7.3, 8.5, 7.8, 9.4, 7.9, 9.6],
        15: [4.6, 4.6, 7.6, 8.6, 7.6, 9.7, 7.5, 9.9],
    },
    "read": {
        1: [4.6, 0.7, 7.2, 0.3, 7.6, 0.1, 7.4, 0.1],
        3: [4.6, 4.4, 8.2, 5.8, 8.9, 4.7, 8.6, 3.8],
        6: [4.6, 4.6, 8.6, 8.4, 9.7, 9.5, 9.8, 9.5],
        9: [4.6, 4.3, 8.4, 7.6, 9.3, 7.8, 9.4, 7.9],
        12: [4.6, 4.5, 7.8, 7.8, 8.4, 8.3, 8.3, 8.4],
        15: [4.6, 4.6, 8.7, 8.7, 9.7, 9.9, 9.7, 10.0],
    },
}


@pytest.fixture(scope="module")
def gemma() -> Any:
    return models.load("gemma-3-270m")


@pytest.fixture(scope="module")
def measured(gemma: Any) -> tle.SpaceComparison:
    prompts = tle.prompts.demonstrations("country", gemma, shots=4, n=1024, seed=0)
    return tle.information_emergence(
        gemma, prompts, sigma=0.5, space=("read", "unit"), controls=("shuffled_weights",)
    )


@pytest.mark.parametrize("space", ["unit", "read"])
def test_the_known_tables_are_reproduced_within_three_tenths_of_a_bit(
    measured: tle.SpaceComparison, space: str
) -> None:
    found = measured[space]
    assert isinstance(found, tle.EmergenceResult)
    for layer, row in KNOWN[space].items():
        assert found.macro[layer].tolist() == pytest.approx(row, abs=0.3), f"layer {layer}"
    assert found.settings["model_note"] == "Gemma 3 270M base, Q4_K_M, dequantised"
    assert found.collisions == 0
    assert float(found.stderr.max()) <= 0.05


@pytest.mark.parametrize("space", ["unit", "read"])
def test_the_demo_printed_what_the_readme_shows(measured: tle.SpaceComparison, space: str) -> None:
    found = measured[space]
    assert isinstance(found, tle.EmergenceResult)
    assert_same_but_for_rounding(found.summary(), shown_by_the_demo(space))


def test_the_weight_shuffled_control_reaches_its_ceiling_from_block_two_on(
    measured: tle.SpaceComparison,
) -> None:
    for found in measured.values():
        assert isinstance(found, tle.EmergenceResult)
        control = found.controls["shuffled_weights"]
        assert torch.equal(control.exact.emergence, found.exact.emergence)
        gap = (control.exact.macro - control.macro).abs()
        assert float(gap[2:].max()) < 0.1


def test_the_list_reaches_the_separators_after_block_nine_in_unit_and_before_in_read(
    measured: tle.SpaceComparison,
) -> None:
    unit, read = measured["unit"], measured["read"]
    assert isinstance(unit, tle.EmergenceResult) and isinstance(read, tle.EmergenceResult)
    assert unit.at(9, 7)[0] < 0 < 7 < unit.at(12, 7)[0]
    assert read.at(6, 7)[0] > 7 and abs(read.at(12, 7)[0] - read.at(9, 7)[0]) < 1


@pytest.mark.parametrize(("space", "layer", "pos"), [("read", 9, 7), ("unit", 11, 7), ("resid", 1, 4)])
def test_noise_agrees_with_its_slow_twin_on_real_states(gemma: Any, space: Any, layer: int, pos: int) -> None:
    prompts = tle.prompts.demonstrations("country", gemma, shots=4, n=96, seed=5)
    found = tle.information_emergence(gemma, prompts, space=space, layers=[layer], positions=[pos], seed=1)
    states = capture_states(gemma, prompts, layers=[layer], positions=[pos], spaces=("resid",))
    x, y = (
        in_space(
            states.macro[0][i], states.states[i], space, states.reading, states.rms(states.states[i])
        ).double()
        for i in (0, 1)
    )
    weights = torch.bincount(states.prefix_rows[0]).double() / len(prompts)
    slow, error = noise_information_slowly(x.numpy(), y.numpy(), weights.numpy(), 0.5, draws=30, seed=3)
    own = float(found.macro_stderr[0, 0])
    assert abs(float(found.macro[0, 0]) - slow) <= 3 * math.hypot(own, error)
    assert np.isfinite(slow)


@pytest.mark.parametrize("n", [512, 2048])
def test_the_standard_error_on_real_states_is_at_most_a_twentieth_of_a_bit(gemma: Any, n: int) -> None:
    prompts = tle.prompts.demonstrations("country", gemma, shots=4, n=n, seed=1)
    found = tle.information_emergence(gemma, prompts, positions=[7], sigma=(0.25, 0.5, 1, 2))
    assert max(float(result.stderr.max()) for result in found.values()) <= 0.05


def test_a_real_model_is_bit_identical_afterwards(gemma: Any) -> None:
    prompts = tle.prompts.demonstrations("country", gemma, shots=1, n=8, seed=2)
    tokens = torch.cat([torch.full((8, 1), 2), prompts.tokens], dim=1)
    with torch.no_grad():
        before = gemma(tokens)
        tle.information_emergence(gemma, prompts, controls=("shuffled_weights",))
        assert torch.equal(gemma(tokens), before)


@pytest.mark.matrix
def test_model_classes_and_versions_agree(tmp_path: Path) -> None:
    """The same tokens and raw weights give the same emergence, within 1e-3 bits.

    Within a version where it has both classes; between versions through a folder that the version matrix
    names, in which the newest version leaves its result for the others.
    """
    if not toys.lens_knows("google/gemma-3-270m"):
        pytest.skip("this TransformerLens came before Gemma 3")
    classes: list[Any] = ["bridge"] if toys.LENS_MAJOR >= 4 else ["hooked"]
    if toys.LENS_MAJOR == 3:
        classes.append("bridge")
    named = os.environ.get("TL_EMERGENCE_AGREEMENT")
    folder = Path(named) if named else tmp_path
    results = {}
    for model_class in classes:
        model = models.load("gemma-3-270m", model_class=model_class)
        prompts = tle.prompts.demonstrations("country", model, shots=4, n=128, seed=0)
        results[model_class] = tle.information_emergence(model, prompts, space=("read", "unit"))
        del model
    if toys.LENS_MAJOR >= 4:
        results["bridge"].save(folder / "newest")
    elif named:
        results["newest"] = tle.load_result(folder / "newest")
    assert toys.LENS_MAJOR >= 4 or len(results) >= 2 or not named
    first, *others = results.values()
    if not others:
        pytest.skip("one class and no other version's result here: the version matrix compares")
    for other in others:
        for space in ("read", "unit"):
            assert torch.equal(first[space].exact.emergence, other[space].exact.emergence)
            assert float((first[space].emergence - other[space].emergence).abs().max()) <= 1e-3
