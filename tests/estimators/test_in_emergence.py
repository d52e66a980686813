"""Estimators inside emergence: macro and micro share settings, errors account for shared prompts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import tl_emergence as tle
from tl_emergence import emergence
from tl_emergence.capture.spaces import in_space
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


@pytest.mark.parametrize("estimator", ["gaussian", "vinfo"])
def test_the_deranged_control_covers_zero(toy: Any, many: torch.Tensor, estimator: str) -> None:
    settings: dict[str, Any] = {"estimator": estimator, "space": "unit", "components": 3}
    found = tle.information_emergence(toy, many, **settings, controls=("deranged",))
    control = found.controls["deranged"]
    assert bool((found.macro > 0.1).all())
    for value, error in (
        (control.macro, control.macro_stderr),
        (control.micro, control.micro_stderr),
        (control.emergence, control.stderr),
    ):
        assert bool((value.abs() <= 3.5 * error + 1e-12).all())
    assert control.settings["null_means"] == "0, up to its error" and control.settings["deranged"]
    assert "Expected of its macro and micro: 0, up to its error." in found.summary()


def test_the_deranged_control_of_exact_is_the_plug_in_of_the_deranged_set(
    toy: Any, many: torch.Tensor
) -> None:
    found = tle.information_emergence(
        toy, many, estimator="exact", space="unit", controls=("deranged", "deranged"), seed=5
    )
    control = found.controls["deranged"]
    assert float(control.macro[1, 2]) == pytest.approx(math.log2(120))  # distinct prompts: a bijection
    assert torch.allclose(control.macro, control.exact.macro)
    assert torch.allclose(control.micro, control.exact.micro)
    assert torch.allclose(control.emergence, control.exact.emergence)
    assert bool((control.exact.micro < found.exact.micro).all())
    assert "not 0: a deranged finite set is still a bijection" in found.summary()


def test_the_deranged_control_is_that_of_mutual_information(toy: Any, many: torch.Tensor) -> None:
    """The same pairs: the numbers differ by the draws of the noise only."""
    settings: dict[str, Any] = {"estimator": "gaussian", "sigma": 1e-3, "seed": 3, "components": 3}
    found = tle.information_emergence(toy, many, space="unit", **settings, controls=("deranged",))
    states = tle.capture_states(toy, tle.prompts.from_tokens(many))
    x, y = (in_space(states.macro[2][k], k, "unit", states.reading, 1.0) for k in (0, 1))
    rows = states.prefix_rows[2]
    alone = tle.mutual_information(x[rows], y[rows], null=True, **settings)
    assert alone.null is not None
    assert float(found.controls["deranged"].macro[0, 2]) == pytest.approx(alone.null.bits, abs=0.01)


def test_the_deranged_control_runs_nothing_saves_loads_plots_and_goes_on(
    toy: Any, many: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "space": ("unit", "resid"),
        "sigma": (0.5, 1.0),
        "controls": ("deranged", "shuffled_tokens"),
        "workdir": tmp_path / "work",
    }
    captures: list[str] = []
    original = emergence.captured
    monkeypatch.setattr(emergence, "captured", lambda *args: captures.append(args[2]) or original(*args))
    whole = tle.information_emergence(toy, many[:40], **settings)
    assert captures == ["model", "shuffled_tokens"]
    monkeypatch.setattr(
        "tl_emergence.estimators.noise.pointwise_information", lambda *_: pytest.fail("again")
    )
    again = tle.information_emergence(toy, many[:40], **settings)
    again.save(tmp_path / "saved")
    loaded = tle.load_result(tmp_path / "saved")
    for one, other in ((whole, again), (whole, loaded)):
        first, second = (found["unit"][0.5].controls["deranged"] for found in (one, other))  # type: ignore[index]
        assert torch.equal(first.emergence, second.emergence)
        assert torch.equal(first.exact.macro, second.exact.macro)
    single = whole["unit"][0.5]  # type: ignore[index]
    assert list(single.controls) == ["deranged", "shuffled_tokens"]
    assert set(whole.to_dataframe()["control"]) == {"model", "deranged", "shuffled_tokens"}
    whole.plot()
    single.plot()
    whole["unit"].plot()


def test_a_cache_can_be_deranged_but_not_shuffled(toy: Any, many: torch.Tensor) -> None:
    _, cache = toy.run_with_cache(many)
    distinct = many.unique()
    _, micro_cache = toy.run_with_cache(distinct[:, None])
    settings: dict[str, Any] = {"tokens": many, "micro_tokens": distinct, "n_prefix": 0, "space": "unit"}
    settings |= {"estimator": "vinfo", "components": 3}
    found = tle.information_emergence_from_cache(cache, micro_cache, controls=("deranged",), **settings)
    direct = tle.information_emergence(
        toy, many, estimator="vinfo", components=3, space="unit", prepend_bos=False, controls=("deranged",)
    )
    one, other = (result.controls["deranged"] for result in (found, direct))
    assert torch.allclose(one.macro, other.macro, atol=0.02) and torch.equal(
        one.exact.macro, other.exact.macro
    )
    with pytest.raises(SettingError, match=r"a control that needs the model: saw 'shuffled_weights'"):
        tle.information_emergence_from_cache(cache, micro_cache, controls=("shuffled_weights",), **settings)


@pytest.mark.parametrize("estimator", ["gaussian", "vinfo"])
def test_values_of_gaussian_models_above_the_exact_one_are_explained(
    toy: Any, many: torch.Tensor, estimator: str
) -> None:
    found = tle.information_emergence(
        toy, many, estimator=estimator, space="unit", sigma=0.02, components=8, positions=[0]
    )
    assert bool((found.macro > found.exact.macro).any())
    assert "macro values exceed their exact value" in found.summary()
    assert "the prompt set is measured" not in found.summary()


@pytest.mark.parametrize("n", [2, 3, 4])
def test_gaussian_emergence_of_very_few_prompts_says_how_many_are_needed(toy: Any, n: int) -> None:
    tokens = torch.arange(5, 5 + 2 * n).reshape(n, 2)
    with pytest.raises(SettingError, match="too few rows for a Gaussian model.*Pass more rows: 5 or more"):
        tle.information_emergence(toy, tokens, estimator="gaussian", space="unit")
