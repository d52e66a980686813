"""Estimators inside emergence: macro and micro share settings, errors account for shared prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tl_emergence as tle
from tl_emergence.errors import SettingError


@pytest.fixture(scope="module")
def many() -> torch.Tensor:
    return torch.randint(5, 60, (120, 3), generator=torch.Generator().manual_seed(0))


def test_gaussian_emergence_is_the_difference_of_its_parts_with_a_jackknife_error(
    toy: Any, many: torch.Tensor
) -> None:
    settings: dict[str, Any] = {"estimator": "gaussian", "space": "unit", "components": 4}
    found = tle.information_emergence(toy, many, **settings)
    assert found.sigma == 0.5 and found.cap_bits is None and found.settings["components"] == 4
    assert not bool(found.macro_saturated.any()) and found.settings["direction"] == "none"
    mean = found.micro.cumsum(dim=1) / torch.arange(1, 4)
    assert torch.allclose(found.emergence, found.macro - mean)
    assert bool((found.stderr[:, 1:] > 0).all()) and bool((found.stderr < 1).all())
    assert [part.n_prompts for part in found.subsamples] == [60, 30]
    finer = tle.information_emergence(toy, many, **settings, sigma=0.1)
    assert bool((finer.macro > found.macro).all())


def test_gaussian_parts_that_are_done_are_not_computed_again(
    toy: Any, many: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"estimator": "gaussian", "space": "unit", "components": 4}
    whole = tle.information_emergence(toy, many, **settings, workdir=tmp_path)
    monkeypatch.setattr("tl_emergence.estimators.gaussian.information", lambda *_: pytest.fail("again"))
    again = tle.information_emergence(toy, many, **settings, workdir=tmp_path)
    assert torch.equal(whole.emergence, again.emergence) and torch.equal(whole.stderr, again.stderr)


def test_usable_information_has_errors_of_shared_prompts_and_pointwise_values(
    toy: Any, many: torch.Tensor
) -> None:
    settings: dict[str, Any] = {"estimator": "vinfo", "space": "unit", "components": 4, "folds": 4}
    found = tle.information_emergence(toy, many, **settings)
    assert (found.sigma, found.cap_bits, found.settings["folds"]) == (0.5, None, 4)
    assert found.macro_pointwise is not None and found.micro_pointwise is not None
    assert torch.allclose(found.macro_pointwise.double().mean(dim=2), found.macro, atol=1e-5)
    mean = found.micro.cumsum(dim=1) / torch.arange(1, 4)
    assert torch.allclose(found.emergence, found.macro - mean)
    assert bool((found.stderr[:, 1:] > 0).all()) and bool((found.macro > 0.2).all())
    # Errors of a difference over the same prompts: not those of independent samples.
    apart = (found.macro_stderr.square() + found.micro_stderr.square()).sqrt()
    assert not torch.allclose(found.stderr[:, 1:], apart[:, 1:])
    assert [part.n_prompts for part in found.subsamples] == [60, 30]


@pytest.mark.parametrize("estimator", ["gaussian", "vinfo"])
def test_a_noise_floor_is_required_where_states_determine_each_other(
    toy: Any, many: torch.Tensor, estimator: str
) -> None:
    with pytest.raises(SettingError, match=r"sigma out of range: saw \[0.0\].*no finite information without"):
        tle.information_emergence(toy, many, estimator=estimator, sigma=0)


def test_the_published_procedure_runs_on_a_model(toy: Any, many: torch.Tensor) -> None:
    found = tle.information_emergence(
        toy, many, estimator="mine_paper", space="unit", steps=2, layers=[1], positions=[2]
    )
    assert found.settings["below_the_published_settings"] == ["rows", "steps"]
    assert bool(torch.isfinite(found.emergence).all()) and bool((found.stderr > 0).all())
