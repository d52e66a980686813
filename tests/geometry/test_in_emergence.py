"""Geometry beside emergence: in results, data frames, files and work folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tl_emergence as tle
from tests import toys
from tl_emergence import answers
from tl_emergence.errors import SettingError
from tl_emergence.geometry import GeometrySettings, companion_geometry
from tl_emergence.geometry.companion import GEOMETRY_NAMES
from tl_emergence.prompts import from_tokens

pytestmark = pytest.mark.matrix
PROMPTS = from_tokens(toys.TOKENS)
FEW = GeometrySettings(components=2)


def measure(model: Any, prompts: Any = PROMPTS, **settings: Any) -> Any:
    settings = {"space": "unit", "geometry": FEW, "estimator": "exact", **settings}
    return tle.information_emergence(model, prompts, **settings)


def same(a: Any, b: Any) -> bool:
    return all(
        torch.equal(x.nan_to_num(nan=-99), y.nan_to_num(nan=-99))
        for x, y in zip(a.tensors().values(), b.tensors().values(), strict=True)
    )


def test_geometry_is_there_when_asked_for_in_the_space_that_is_scored(model: Any) -> None:
    found = measure(model, space=("unit", "resid"))
    for space in ("unit", "resid"):
        states = tle.capture_states(model, PROMPTS, spaces=("resid",))
        assert same(found[space].geometry, companion_geometry(states, space=space, settings=FEW))
        assert found[space].settings["geometry"] == {"components": 2, "whole": "concatenation", "sigma": 0.5}
    assert measure(model, geometry=False).geometry is None


def test_controls_have_their_own_geometry_and_a_sweep_shares_one(model: Any) -> None:
    sweep = measure(model, estimator="noise", sigma=(0.5, 1.0), controls=("shuffled_weights",))
    control = sweep[0.5].controls["shuffled_weights"]
    assert same(sweep[0.5].geometry, sweep[1.0].geometry)
    assert not torch.equal(control.geometry.norm, sweep[0.5].geometry.norm)


def test_estimators_share_one_geometry_a_run_and_space(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    monkeypatch.setattr(
        answers,
        "companion_geometry",
        lambda states, **settings: (
            measured.append(settings["space"]) or companion_geometry(states, **settings)
        ),
    )
    settings: dict[str, Any] = {
        "space": ("unit", "resid"),
        "controls": ("shuffled_tokens", "deranged"),
        "sigma": (0.5, 1.0),
    }
    found = measure(toy, estimator=("exact", "noise"), **settings)
    assert measured == ["unit", "resid"] * 2  # of the model and of its one control with states of its own
    for space in ("unit", "resid"):
        exact, noise = found["exact"][space], found["noise"][space][1.0]
        assert exact.geometry is noise.geometry
        assert same(exact.geometry, measure(toy, space=space).geometry)
        assert exact.settings["geometry"] == noise.settings["geometry"]
        assert exact.controls["shuffled_tokens"].geometry is noise.controls["shuffled_tokens"].geometry


def test_a_deranged_control_leaves_its_columns_empty(toy: Any) -> None:
    found = measure(toy, controls=("deranged",))
    assert found.controls["deranged"].geometry is None
    frame = found.to_dataframe()
    assert bool(frame[frame.control == "deranged"][list(GEOMETRY_NAMES)].isna().all(axis=None))
    assert bool(frame[frame.control == "model"]["norm"].notna().all())


def test_the_data_frame_has_a_column_for_each_quantity(toy: Any) -> None:
    found = measure(toy)
    frame = found.to_dataframe()
    assert list(frame.columns[-len(GEOMETRY_NAMES) :]) == list(GEOMETRY_NAMES)
    rows = frame[(frame.layer == 1) & (frame.pos == 2)]
    assert len(rows) == 3  # macro, micro and emergence
    for name in GEOMETRY_NAMES:
        assert set(rows[name]) == {float(getattr(found.geometry, name)[1, 2])}
    assert "psi" not in measure(toy, geometry=False).to_dataframe().columns


def test_geometry_survives_saving_and_loading(toy: Any, tmp_path: Path) -> None:
    found = measure(toy, controls=("shuffled_tokens",))
    found.save(tmp_path)
    loaded: Any = tle.load_result(tmp_path)
    assert same(loaded.geometry, found.geometry)
    own = "shuffled_tokens"
    assert same(loaded.controls[own].geometry, found.controls[own].geometry)
    assert loaded.settings == found.settings
    measure(toy, geometry=False).save(tmp_path)
    assert tle.load_result(tmp_path).geometry is None  # type: ignore[union-attr]


def test_a_cache_gives_the_geometry_of_its_model(model: Any) -> None:
    _, cache = model.run_with_cache(toys.TOKENS)
    distinct = toys.TOKENS.unique()
    _, micro_cache = model.run_with_cache(distinct[:, None])
    found = tle.information_emergence_from_cache(
        cache,
        micro_cache,
        tokens=toys.TOKENS,
        micro_tokens=distinct,
        n_prefix=0,
        space="resid",
        geometry=FEW,
    )
    expected = measure(model, space="resid", prepend_bos=False)
    assert found.geometry is not None
    for name in ("effective_rank", "participation_ratio", "prompt_entropy", "norm", "cosine_to_previous"):
        ours, theirs = getattr(found.geometry, name), getattr(expected.geometry, name)
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3, equal_nan=True), name


def test_a_run_that_was_stopped_does_not_measure_its_geometry_again(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measure(toy, workdir=tmp_path)
    monkeypatch.setattr(answers, "companion_geometry", lambda *_, **__: pytest.fail("measured again"))
    assert same(measure(toy, workdir=tmp_path).geometry, found.geometry)
    with pytest.raises(SettingError, match="belongs to another run: saw .* differs in geometry"):
        measure(toy, workdir=tmp_path, geometry=False)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_geometry_of_very_few_prompts_says_how_many_are_needed(toy: Any, n: int) -> None:
    with pytest.raises(SettingError, match=f"saw {n} prompts.*Pass more prompts: 5 or more"):
        tle.information_emergence(toy, toys.TOKENS[:n], geometry=True)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("yes", "geometry is neither asked for nor left out: saw 'yes'"),
        (None, "neither asked for nor left out: saw None"),
        (True, r"too few prompts for the emergence criteria: saw 8 prompts, 7 .* and 4 \+ 4.*components=2\)"),
    ],
)
def test_geometry_that_cannot_be_had_is_refused_before_the_model_runs(
    toy: Any, asked: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tl_emergence.capture import compat

    monkeypatch.setattr(compat, "run", lambda *_: pytest.fail("the model ran"))
    with pytest.raises(SettingError, match=message):
        measure(toy, geometry=asked)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"components": 0}, "components out of range: saw 0"),
        ({"components": 2.0}, "components is not a whole number"),
        ({"whole": "sum"}, "unknown whole: saw 'sum'"),
        ({"sigma": -1}, "sigma out of range: saw -1.0"),
        ({"sigma": "small"}, "sigma is not a number"),
    ],
)
def test_settings_out_of_range_cannot_be_made(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        GeometrySettings(**settings)
