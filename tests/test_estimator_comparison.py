"""Several estimators of the same states: what each gets, what is refused, how a run goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import tl_emergence as tle
from tests.test_results import same
from tl_emergence.ceiling import exact_deranged
from tl_emergence.errors import SettingError
from tl_emergence.estimators import ESTIMATORS, Estimator, option_defaults, takes_noise

NAMES = ["exact", "noise", "gaussian"]
# Small values of the options that cost time or need rows; an estimator gets those that it has.
QUICK = {"draws": 2, "components": 4, "steps": 2}


@pytest.fixture(scope="module")
def many() -> torch.Tensor:
    return torch.randint(5, 60, (64, 3), generator=torch.Generator().manual_seed(0))


def quick(estimator: str | Sequence[str]) -> dict[str, Any]:
    names = [estimator] if isinstance(estimator, str) else estimator
    return {o: value for o, value in QUICK.items() if any(o in ESTIMATORS[name].options for name in names)}


def measure(model: Any, prompts: torch.Tensor, **settings: Any) -> Any:
    given: dict[str, Any] = {"space": "unit", **quick(settings["estimator"]), **settings}
    return tle.information_emergence(model, prompts, **given)


@pytest.fixture(scope="module")
def comparison(toy: Any, many: torch.Tensor) -> tle.EstimatorComparison:
    return measure(toy, many, estimator=NAMES, controls=("shuffled_weights",))


class Recording:
    """An estimator that keeps the settings it was called with."""

    def __init__(self, estimator: Estimator) -> None:
        self._estimator = estimator
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._estimator, name)

    @property
    def chain(self) -> Callable[..., Any]:
        def recorded(chain: Any, **settings: Any) -> Any:
            self.calls.append((chain.name, settings))
            return self._estimator.chain(chain, **settings)

        return recorded


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_every_estimator_measures_macro_and_micro_with_the_same_settings(
    name: str, toy: Any, many: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = Recording(ESTIMATORS[name])
    monkeypatch.setitem(ESTIMATORS, name, recording)
    found = measure(toy, many, estimator=[name], layers=[1], seed=3)[name]
    assert {chain for chain, _ in recording.calls} == {"micro", "macro-1", "macro-2"}
    settings = [settings for _, settings in recording.calls]
    assert all(used == settings[0] for used in settings)
    assert settings[0] == {"sigmas": (recording.default_emergence_sigma,), "seed": 3, **quick(name)}
    assert found.estimator == name and bool(torch.isfinite(found.emergence).all())


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_every_option_has_a_default_and_a_default_noise_level_is_taken(name: str) -> None:
    estimator = ESTIMATORS[name]
    assert list(option_defaults(estimator)) == list(estimator.options)
    assert takes_noise(estimator) >= (estimator.default_emergence_sigma > 0)
    assert not takes_noise(ESTIMATORS["exact"])


def test_each_estimator_says_what_it_says_alone_from_one_capture(
    toy: Any, many: torch.Tensor, comparison: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tl_emergence import controls

    captures, capture = [], controls.capture_states
    monkeypatch.setattr(
        controls, "capture_states", lambda *args, **settings: captures.append(1) or capture(*args, **settings)
    )
    settings: dict[str, Any] = {"controls": ("shuffled_weights",)}
    again: Any = measure(toy, many, estimator=NAMES, **settings)
    assert len(captures) == 2  # the model and its control, whatever the number of estimators
    assert isinstance(again, tle.EstimatorComparison) and list(again) == NAMES
    for name in NAMES:
        alone = measure(toy, many, estimator=name, **settings)
        assert same(again[name], alone) and same(again[name], comparison[name])


def test_spaces_and_noise_levels_nest_inside_the_estimators(toy: Any, many: torch.Tensor) -> None:
    found = measure(toy, many, estimator=NAMES, space=("unit", "resid"), sigma=(0.5, 1.0))
    assert repr(found) == "EstimatorComparison(exact, noise, gaussian)"
    assert list(found["noise"]["resid"]) == list(found["gaussian"]["unit"]) == [0.5, 1.0]
    # `exact` takes no noise: it has one result, at sigma 0, where the others have a sweep.
    assert isinstance(found["exact"]["unit"], tle.EmergenceResult) and found["exact"]["unit"].sigma == 0
    alone = measure(toy, many, estimator="gaussian", space="resid", sigma=1.0)
    assert torch.equal(found["gaussian"]["resid"][1.0].emergence, alone.emergence)
    frame = found.to_dataframe()
    rows = frame.groupby(["estimator", "space", "sigma"]).size()
    assert len(rows) == 2 * (1 + 2 + 2) and rows.nunique() == 1


def test_without_sigma_each_estimator_has_its_own_default(comparison: Any) -> None:
    levels = {name: found.sigma for name, found in comparison.items()}
    assert levels == {name: ESTIMATORS[name].default_emergence_sigma for name in NAMES}


def test_a_list_of_one_estimator_is_a_comparison_of_one(toy: Any, many: torch.Tensor) -> None:
    found = measure(toy, many, estimator=("exact",))
    assert list(found) == ["exact"]
    with pytest.raises(KeyError, match=r"estimator not measured: saw 'noise'; expected one of \['exact'\]"):
        found["noise"]


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": []}, "estimators not usable: saw none"),
        ({"estimator": ("noise", "exact", "noise")}, "estimators not usable: saw .*each once"),
        ({"estimator": ["noise", "gausian"]}, "unknown estimator: saw 'gausian'.*Did you mean 'gaussian'"),
        ({"estimator": ["noise", ["exact"]]}, r"unknown estimator: saw \['exact'\]"),
        ({"estimator": {"noise"}}, "estimator has no order of its own: saw set"),
        ({"components": 4}, "options that exact, noise do not have: saw components.*none but .'draws'"),
        ({"estimator": ["exact"], "draws": 4}, "options that exact does not have: saw draws"),
        ({"draws": 1}, "too few draws"),
        ({"sigma": 0}, r"sigma out of range: saw \[0.0\]"),
        ({"estimator": ["exact"], "sigma": 0.5}, "exact takes no noise"),
        ({"estimator": ["noise", "gaussian"], "components": 0}, "components out of range"),
    ],
)
def test_what_no_estimator_can_answer_is_refused_before_the_model_runs(
    toy: Any, many: torch.Tensor, settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tl_emergence.capture import compat

    monkeypatch.setattr(compat, "run", lambda *_: pytest.fail("the model ran"))
    given: dict[str, Any] = {"estimator": ["exact", "noise"], **settings}
    with pytest.raises(SettingError, match=message):
        tle.information_emergence(toy, many, **given)


def test_a_stopped_comparison_goes_on_and_no_part_stands_for_another(
    toy: Any, many: torch.Tensor, comparison: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from tl_emergence import scoring

    chain, calls = scoring.StateChain, []
    settings: dict[str, Any] = {"estimator": NAMES, "controls": ("shuffled_weights",)}

    def stopping(*args: Any) -> Any:
        calls.append(args[0])
        if len(calls) == 8:
            raise KeyboardInterrupt
        return chain(*args)

    monkeypatch.setattr(scoring, "StateChain", stopping)
    with pytest.raises(KeyboardInterrupt):
        measure(toy, many, workdir=tmp_path, **settings)
    assert len(list(tmp_path.glob("parts/*.safetensors"))) == 7
    resumed = measure(toy, many, workdir=tmp_path, **settings)
    # Model and control, by three estimators: micro and two positions each.
    assert len(calls) == 8 + 18 - 7 and len(list(tmp_path.glob("parts/*.safetensors"))) == 18
    for name in NAMES:
        assert same(resumed[name], comparison[name])
    for other in ({"estimator": ["exact", "noise"]}, {"estimator": "noise"}, {"components": 5}):
        with pytest.raises(SettingError, match="belongs to another run: saw .* differs in estimators"):
            measure(toy, many, workdir=tmp_path, **settings | other)


def test_caches_are_measured_by_several_estimators_too(toy: Any, many: torch.Tensor) -> None:
    _, cache = toy.run_with_cache(many)
    distinct = many.unique()
    _, micro_cache = toy.run_with_cache(distinct[:, None])
    settings: dict[str, Any] = {"tokens": many, "micro_tokens": distinct, "n_prefix": 0, "space": "unit"}
    found = tle.information_emergence_from_cache(
        cache, micro_cache, estimator=NAMES, **quick(NAMES), **settings
    )
    assert isinstance(found, tle.EstimatorComparison) and list(found) == NAMES
    alone = tle.information_emergence_from_cache(
        cache, micro_cache, estimator="noise", **quick("noise"), **settings
    )
    assert same(found["noise"], alone)


def test_every_estimator_has_its_own_deranged_control_and_all_have_its_exact_value(
    toy: Any, many: torch.Tensor
) -> None:
    names = ["exact", "noise", "vinfo"]
    settings: dict[str, Any] = {"controls": ("shuffled_tokens", "deranged"), "seed": 2}
    found = measure(toy, many, estimator=names, **settings)
    expected = exact_deranged(tle.prompts.from_tokens(many), seed=2, layers=[0, 1])
    for name in names:
        assert list(found[name].controls) == ["shuffled_tokens", "deranged"]
        control = found[name].controls["deranged"]
        assert same(control.exact, expected) and control.settings["deranged"]
        assert not torch.equal(found[name].controls["shuffled_tokens"].exact.macro, expected.macro)
        assert same(found[name], measure(toy, many, estimator=name, **settings))
    control = found["exact"].controls["deranged"]
    assert torch.allclose(control.emergence, control.exact.emergence)
    named = [text.get_text() for text in found.plot().legends[0].get_texts()]
    assert "control: tokens shuffled" in named and "control: deranged" in named


def test_a_comparison_survives_saving_and_loading(
    toy: Any, many: torch.Tensor, comparison: Any, tmp_path: Path
) -> None:
    nested = measure(toy, many, estimator=["exact", "noise"], space=["unit"], sigma=[0.5, 1])
    for name, found in {"flat": comparison, "nested": nested}.items():
        found.save(tmp_path / name)
        assert same(tle.load_result(tmp_path / name), found)


def test_the_summary_puts_the_estimators_beside_each_other_first(comparison: Any) -> None:
    table, *each = comparison.summary().split("\n\n== ")
    assert table.startswith("== estimators side by side ==\nEmergence at the last scored position (2, '2')")
    assert [part.split(" ==")[0] for part in each] == [f"estimator {name!r}" for name in NAMES]
    lines = table.splitlines()
    assert lines[3].split() == ["block", *NAMES] and lines[5].split()[0] == "1"
    assert f"noise: {ESTIMATORS['noise'].measures}" in lines
    assert f"{float(comparison['exact'].emergence[1, -1]):.3f}" in lines[5]


def test_the_table_has_the_ceiling_where_exact_was_not_asked_for(toy: Any, many: torch.Tensor) -> None:
    found = measure(toy, many, estimator=["noise"], sigma=1e-4)
    lines = found.side_by_side().splitlines()
    assert lines[2].split() == ["block", "exact", "noise"]
    assert lines[4].split()[1] == f"{float(found['noise'].exact.emergence[1, -1]):.3f}"
    assert lines[4].endswith("(sat.)")


def test_the_notebook_view_has_a_table_an_estimator(comparison: Any) -> None:
    page = comparison._repr_html_()
    assert page.count("<table>") == 3 and "<h4>estimator &#x27;gaussian&#x27;</h4>" in page
