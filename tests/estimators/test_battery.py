"""The same bad input, and the same odd but good input, for every estimator."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tl_emergence as tle
from tl_emergence.errors import EmergenceError, SettingError, StateError
from tl_emergence.estimators import ESTIMATORS, mutual_information

EVERY = pytest.mark.parametrize("estimator", list(ESTIMATORS))
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(60, 2, generator=GENERATOR)
Y = 0.8 * X + 0.6 * torch.randn(60, 2, generator=GENERATOR)
QUICK: dict[str, dict[str, Any]] = {"mine_paper": {"steps": 3}}


def measured(x: Any, y: Any, estimator: str, **settings: Any) -> Any:
    return mutual_information(x, y, estimator=estimator, **{**QUICK.get(estimator, {}), **settings})


@EVERY
@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("y", "message"),
    [
        (Y[:, 0], r"y has the wrong shape: saw \(60,\)"),
        (Y[:59], "x and y are not paired: saw 60 rows of x and 59 of y"),
        (Y.long(), "y is not a float tensor: saw torch.int64"),
        (Y.log(), "y is not finite: saw NaN or infinity in row"),
        (Y.to_sparse(), "y is not dense: saw torch.sparse_coo"),
        (Y.double() * 1e200, r"y cannot be squared: saw values up to .*e\+200"),
        (Y.double() * 1e-200, "y cannot be squared: saw .* differences up to .*e-200"),
    ],
)
def test_a_bad_y_is_refused(y: torch.Tensor, message: str, estimator: str) -> None:
    with pytest.raises(StateError, match=message):
        measured(X, y, estimator)


@EVERY
@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("sigma", [-1.0, math.nan, math.inf, 1e300, 1e-300, "large"])
def test_a_bad_sigma_is_refused(sigma: Any, estimator: str) -> None:
    with pytest.raises(SettingError, match="sigma"):
        measured(X, Y, estimator, sigma=sigma)


@EVERY
@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 1.5}, "seed is not a whole number"),
        ({"widht": 5}, "options that .* does not have: saw widht"),
    ],
)
def test_a_bad_seed_or_option_is_refused(settings: dict[str, Any], message: str, estimator: str) -> None:
    with pytest.raises(SettingError, match=message):
        measured(X, Y, estimator, **settings)


@EVERY
def test_none_for_an_option_is_a_default_or_refused(estimator: str) -> None:
    for name in ESTIMATORS[estimator].options:
        try:
            found = measured(X, Y, estimator, **{name: None})
        except SettingError as refused:
            assert name in str(refused)
        else:
            assert math.isfinite(found.bits)


@EVERY
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_callers_grad_mode_and_gradients_do_not_matter(
    estimator: str, mode: Callable[[], Any], threads: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        plain = measured(X.clone().requires_grad_(), Y, estimator)
        with mode():
            found = measured(X + 0, Y + 0, estimator)
    finally:
        torch.set_num_threads(before)
    assert found.bits == pytest.approx(plain.bits, abs=1e-6)
    assert math.isfinite(found.stderr) and found.stderr == pytest.approx(plain.stderr, abs=1e-6)


@pytest.mark.parametrize("estimator", ["nce", "mine_paper"])
def test_emergence_is_measured_in_inference_mode_too(toy: Any, estimator: str) -> None:
    tokens = torch.randint(5, 60, (60, 3), generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"estimator": estimator, "space": "unit", "layers": [1], "positions": [2]}
    plain = tle.information_emergence(toy, tokens, **settings, **QUICK.get(estimator, {}))
    with torch.inference_mode():
        found = tle.information_emergence(toy, tokens, **settings, **QUICK.get(estimator, {}))
    assert torch.allclose(found.emergence, plain.emergence, atol=1e-5)


@EVERY
def test_a_mean_far_from_0_hides_nothing_in_float64_or_is_refused(estimator: str) -> None:
    plain = measured(X.double(), Y.double(), estimator)
    try:
        far = measured(X.double() + 1e9, Y.double(), estimator)
    except StateError as refused:
        assert estimator == "mine_paper" and "does not fit into float32" in str(refused)
    else:
        assert far.bits == pytest.approx(plain.bits, abs=1e-2)


@pytest.mark.parametrize("scale", [1e30, 1e-30])
@EVERY
def test_sizes_at_the_edge_of_float32_give_finite_numbers_or_a_typed_error(
    scale: float, estimator: str
) -> None:
    try:
        found = measured(scale * X, scale * Y, estimator)
    except EmergenceError:
        return
    assert math.isfinite(found.bits) and math.isfinite(found.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["gaussian", "nce", "vinfo"])
def test_the_null_check_of_related_states_covers_0(estimator: str) -> None:
    """The acceptance of the null check: 0 within the 95 % interval in at least 45 of 50 draws."""
    hits = 0
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        x, z = torch.randn(2, 120, 3, generator=generator)
        found = mutual_information(x, 0.8 * x + 0.6 * z, estimator=estimator, seed=seed, null=True).null
        assert found is not None
        hits += abs(found.bits) <= 1.96 * found.stderr + 1e-12
    assert hits >= 45
