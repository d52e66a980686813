"""The experiments on a small real checkpoint: what they measure, keep, refuse, and read again."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tl_emergence as tle
from tests import toys
from tl_emergence import experiments, models
from tl_emergence.errors import ModelLoadError, ResultFileError, SettingError, TokenError
from tl_emergence.experiments import ExperimentResult
from tl_emergence.experiments.claims import CLAIMS, VERDICTS
from tl_emergence.prompts import LISTS, demonstrations
from tl_emergence.selection import singles

pytestmark = pytest.mark.skipif(toys.LENS_MAJOR < 3, reason="a local checkpoint needs a TransformerBridge")

WORDS = [word for word in LISTS["country"] if " " not in word]
TEXTS = [
    ". ".join(", ".join(WORDS[(i + k + 3 * j) % len(WORDS)] for k in range(4)) for j in range(6)) + "."
    for i in range(30)
]
"""Sentences of the words that the tokenizer of the tests knows."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return models.load(str(toys.save_checkpoint(tmp_path_factory.mktemp("checkpoint"))))


def shots(model: Any, **changes: Any) -> ExperimentResult:
    return experiments.shots({"toy": model}, **{"most": 4, "n": (16, 64), **changes})


def natural_text(model: Any, **changes: Any) -> ExperimentResult:
    return experiments.natural_text({"toy": model}, **{"texts": TEXTS, "n": 24, "n_tokens": (4,), **changes})


def model_size(model: Any, **changes: Any) -> ExperimentResult:
    return experiments.model_size({"toy": model, "again": model}, **{"n": 32, "shots": 2, **changes})


def training(model: Any, **changes: Any) -> ExperimentResult:
    return experiments.training({0: lambda: model, 10: lambda: model}, **{"n": 24, **changes})


def variance(model: Any, **changes: Any) -> ExperimentResult:
    return experiments.variance(
        {"toy": model}, **{"most": 4, "n": 24, "seeds": (0, 1), "resamples": 40, **changes}
    )


def text_sources(model: Any, **changes: Any) -> ExperimentResult:
    written = {"other": TEXTS[5:25]}
    settings = {"texts": TEXTS, "written": written, "n": 16, "n_tokens": 3, "n_texts": 8}
    return experiments.text_sources({"toy": model}, **{**settings, **changes})


EXPERIMENTS: list[Callable[..., ExperimentResult]] = [
    shots, natural_text, model_size, training, variance, text_sources,
]  # fmt: skip


@pytest.mark.parametrize("run", EXPERIMENTS, ids=lambda run: run.__name__)
def test_an_experiment_is_measured_saved_read_again_and_drawn(
    run: Callable[..., ExperimentResult], checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module("text_sources"), "continuations", lambda *_, **__: TEXTS[:20])
    before = {name: p.clone() for name, p in checkpoint.named_parameters()}
    state = torch.get_rng_state()
    found = run(checkpoint, workdir=tmp_path / "work")
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(p, before[name]) for name, p in checkpoint.named_parameters())
    assert found.findings and all(one.claim in CLAIMS for one in found.findings)
    assert all(one.verdict in VERDICTS for one in found.conclusions)
    assert all(one.low <= one.value <= one.high for one in found.findings if not np.isnan(one.low))
    assert {one.estimator for one in (*found.findings, *found.conclusions)} == {"noise"}
    found.save(tmp_path / "out")
    again = experiments.load_experiment(tmp_path / "out")
    assert again.summary() == found.summary() and again.settings == json.loads(json.dumps(found.settings))
    for name, table in found.tables.items():
        assert again.tables[name].equals(table), name
    assert again.to_dataframe().equals(found.to_dataframe())
    assert set(again.to_dataframe()["part"]) == set(found.parts)
    figure = again.plot()
    assert figure.axes and all(axes.get_ylabel() for axes in figure.axes)


def module(name: str) -> Any:
    """Return the module of an experiment: the package's attribute of that name is the function."""
    return importlib.import_module(f"tl_emergence.experiments.{name}")


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    calls: list[int] = []
    measure = tle.information_emergence

    def count(*given: Any, **settings: Any) -> Any:
        calls.append(1)
        return measure(*given, **settings)

    monkeypatch.setattr(module(name), "information_emergence", count)
    return calls


def test_a_stopped_experiment_goes_on_where_it_was(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = variance(checkpoint)
    measure = tle.information_emergence
    calls: list[int] = []

    def stops(*given: Any, **settings: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*given, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(module("variance"), "information_emergence", stops)
        with pytest.raises(KeyboardInterrupt):
            variance(checkpoint, workdir=tmp_path)
    again = counted(monkeypatch, "variance")
    found = variance(checkpoint, workdir=tmp_path)
    assert len(again) == 2  # the second seed, and the first with other noise
    for name, table in whole.tables.items():
        assert found.tables[name].equals(table), name
    with pytest.raises(SettingError, match="another run"):
        variance(checkpoint, n=32, workdir=tmp_path)


def test_the_knee_of_the_exact_curve_is_where_the_number_of_prompts_allows(checkpoint: Any) -> None:
    found = shots(checkpoint, most=4, n=(16, 256))
    knees = found.tables["knees"].drop_duplicates(["n"]).set_index("n")
    # 25 countries: 4.6, 9.2, 13.8 bits. 4 bits of 16 prompts are passed by one entity, 8 of 256 by two.
    assert knees.loc[16, "crossing"] == 1 and knees.loc[256, "crossing"] == 2
    assert knees.loc[256, "exact_knee"] == 2
    steps = [one for one in found.findings if one.quantity == "macro_rise" and one.place == "separator"]
    assert steps and all(one.exact == pytest.approx(0.0, abs=1e-9) for one in steps)


def test_the_crossing_is_said_where_too_few_shots_are_left_to_look_beyond_it(checkpoint: Any) -> None:
    found = shots(checkpoint, most=3, n=64)  # 9.2 bits of two countries pass the 6 bits of 64 prompts
    knees = [one for one in found.findings if one.quantity == "macro_knee"]
    assert {one.beside["crossing"] for one in knees} == {2}
    assert not any(one.quantity == "emergence_change_past_cap" for one in found.findings)
    assert "passes log2 N at shot 2" in found.conclusions[0].because
    assert "at no shot" not in found.summary()


@pytest.mark.parametrize(
    ("run", "changes", "error", "message"),
    [
        (shots, {"lists": []}, SettingError, "nothing to measure"),
        (shots, {"lists": ["countries"]}, SettingError, "Did you mean 'country'"),
        (shots, {"most": 2}, SettingError, r"most \(shots a prompt\) out of range"),
        (shots, {"n": [1]}, SettingError, "n out of range"),
        (natural_text, {"texts": []}, TokenError, "too few windows"),
        (natural_text, {"texts": ["short"]}, TokenError, "too few windows"),
        (natural_text, {"texts": [3]}, TokenError, "a row without text"),
        (natural_text, {"n": 5000}, SettingError, "too few windows"),
        (natural_text, {"anchors": ["middle"]}, SettingError, "unknown anchor"),
        (variance, {"seeds": []}, SettingError, "no seed"),
        (variance, {"resamples": 3}, SettingError, "resamples out of range"),
        (variance, {"prompts": ["Atlantis", "Lemuria", "Mu", "Thule"]}, TokenError, "does not tell apart"),
        (text_sources, {"reader": "nobody"}, SettingError, "no such reader"),
        (text_sources, {"written": {"human": TEXTS}}, SettingError, "two sources of one name"),
        (text_sources, {"n": 5000}, SettingError, "too few windows"),
        (text_sources, {"texts": "openorca"}, SettingError, "texts that models wrote, as human text"),
        (variance, {"seeds": (0, 0)}, SettingError, "a seed twice"),
        (shots, {"n": (64, 64)}, SettingError, "a list or a number of prompts twice"),
    ],
)
def test_bad_input_gets_its_typed_error(
    run: Callable[..., ExperimentResult],
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    checkpoint: Any,
    monkeypatch: pytest.MonkeyPatch,
    as_shipped: None,
) -> None:
    monkeypatch.setattr(module("text_sources"), "continuations", lambda *_, **__: TEXTS[:20])
    with pytest.raises(error, match=message):
        run(checkpoint, **changes)


def test_lists_that_cannot_be_drawn_are_refused_before_a_model_runs(checkpoint: Any, tmp_path: Path) -> None:
    for changes in ({"n": [16, 1]}, {"lists": ["country", ["Japan", "Spain"]], "n": 16}):
        with pytest.raises(SettingError, match="out of range"):
            shots(checkpoint, workdir=tmp_path / "work", **changes)
        assert not (tmp_path / "work").exists()


def test_names_that_cannot_be_kept_apart_are_refused(checkpoint: Any, as_shipped: None) -> None:
    with pytest.raises(SettingError, match="Name the model by the last part"):
        experiments.natural_text({"EleutherAI/pythia-70m": checkpoint}, texts=TEXTS)
    with pytest.raises(SettingError, match=r"two sources of one name: saw \['toy'\]"):
        text_sources(checkpoint, written={"toy": TEXTS})


def test_models_of_one_vocabulary_read_a_prompt_set_as_it_is(checkpoint: Any) -> None:
    prompts = demonstrations("country", checkpoint, shots=2, n=24, seed=5)
    found = model_size(checkpoint, prompts=prompts, bos_token_id=1, prepend_bos=True)
    assert found.settings["n"] == 24 and prompts.content_hash in found.settings["prompts"]
    steps = training(checkpoint, prompts=prompts, bos_token_id=1, prepend_bos=True)
    assert steps.settings["n"] == 24
    with pytest.raises(SettingError, match="no part to tell rows of"):
        replace(steps, parts={}).to_dataframe()
    alone = tle.information_emergence(
        checkpoint, prompts, space="read", seed=0, bos_token_id=1, prepend_bos=True
    )
    part, again = (next(singles(part)) for part in found.parts.values())
    assert isinstance(alone, tle.EmergenceResult)
    assert torch.equal(part.emergence, alone.emergence) and torch.equal(part.emergence, again.emergence)


def test_a_step_of_other_weights_does_not_go_on(checkpoint: Any, tmp_path: Path) -> None:
    training(checkpoint, n=16, workdir=tmp_path)
    assert training(checkpoint, n=16, workdir=tmp_path).tables["checkpoints"].shape[0] == 6
    weight = next(iter(checkpoint.parameters()))
    before = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0] += 1
    try:
        with pytest.raises(SettingError, match="step-000000 is not the model that was measured before"):
            training(checkpoint, n=16, workdir=tmp_path)
    finally:
        with torch.no_grad():
            weight.copy_(before)


def test_a_checkpoint_whose_step_is_not_known_has_none(checkpoint: Any, as_shipped: None) -> None:
    named = {"first": lambda: checkpoint, "last": lambda: checkpoint}
    found = experiments.training(named, n=16)
    assert list(found.parts) == ["first", "last"] and found.settings["steps"] is None
    assert bool(found.tables["checkpoints"]["step"].isna().all())
    assert {one.checkpoint for one in found.findings} == {"first", "last"}
    assert "step" not in found.summary().partition("\n")[2]
    steps = training(checkpoint, n=16)
    assert steps.settings["steps"] == [0, 10]
    with pytest.raises(SettingError, match="checkpoints by step and by name"):
        experiments.training({0: lambda: checkpoint, "last": lambda: checkpoint}, n=16)  # type: ignore[dict-item]


def test_a_result_of_an_older_format_is_refused(checkpoint: Any, tmp_path: Path) -> None:
    training(checkpoint, n=16).save(tmp_path)
    path = tmp_path / "experiment.json"
    older = {**json.loads(path.read_text()), "version": 2}
    del older["checksum"]  # which that version did not have
    path.write_text(json.dumps(older))
    with pytest.raises(ResultFileError, match=r"not an? experiment of this version.*version 2.*version 3"):
        experiments.load_experiment(tmp_path)


def test_no_model_and_no_checkpoint_are_refused(as_shipped: None) -> None:
    with pytest.raises(SettingError, match="no model"):
        experiments.shots({})
    with pytest.raises(SettingError, match="no checkpoint"):
        experiments.training({})
    with pytest.raises(ModelLoadError, match="no training steps there"):
        models.load("gemma-3-270m", step=3)


def test_a_folder_without_an_experiment_is_named(tmp_path: Path, checkpoint: Any) -> None:
    with pytest.raises(ResultFileError, match="no experiment there"):
        experiments.load_experiment(tmp_path)
    training(checkpoint, n=16).save(tmp_path / "x")
    path = tmp_path / "x" / "experiment.json"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ResultFileError):
        experiments.load_experiment(tmp_path / "x")


def test_a_result_replaces_another_whole_or_not_at_all(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (training(checkpoint, n=16, seed=seed) for seed in (0, 1))
    old.save(tmp_path)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # between the parts and the description
        patch.setattr(module("result"), "write_folder", killed)
        with pytest.raises(KeyboardInterrupt):
            new.save(tmp_path)
    assert experiments.load_experiment(tmp_path).to_dataframe().equals(old.to_dataframe())
    new.save(tmp_path)
    assert experiments.load_experiment(tmp_path).to_dataframe().equals(new.to_dataframe())
    assert len(list(tmp_path.glob("parts-*"))) == 1


def test_noise_of_the_estimator_is_told_from_differences_between_prompts() -> None:
    from tl_emergence.experiments.spread import noise_rows

    draw = np.random.default_rng(0)
    truth = draw.normal(size=(2, 4000)) * [[1.0], [0.0]]
    one, two = (truth + 0.5 * draw.normal(size=truth.shape) for _ in range(2))
    signal, none = noise_rows("m", {"read": one.tolist()}, {"read": two.tolist()})
    assert signal["noise sd"] == pytest.approx(0.5, abs=0.02)
    assert none["noise sd"] == pytest.approx(none["sd over prompts"], abs=0.02)
    assert signal["agreement"] > 0.4 and abs(none["agreement"]) < 0.05


def test_an_error_starts_where_it_rises_above_an_earlier_shot() -> None:
    from tl_emergence.experiments.errors_of_lists import onset

    draw = np.random.default_rng(0).normal(size=(6, 200))
    falls, rises = np.array([6.0, 5, 4, 3, 2, 1]), np.array([6.0, 5, 4, 4, 5, 6])
    assert onset(draw * 0.1 + falls[:, None]) is None
    assert onset(draw * 0.1 + rises[:, None]) == 5
    assert onset(np.ones((6, 200))) is None
    # Noise alone: three standard errors, against the smallest of those before.
    noise = np.random.default_rng(1).normal(size=(100, 6, 200))
    assert sum(onset(one) is not None for one in noise) < 15


def test_the_verdict_on_variance_can_come_out_either_way() -> None:
    from tl_emergence.experiments.curves import frame
    from tl_emergence.experiments.judging import judged

    def said(starts: float, low: float, last: float = 0.2, exact: int = 2) -> str:
        row = {"spearman": low + 0.1, "low": low, "high": low + 0.2, "over": "shots", "error": "repetition"}
        of = {"model": "m", "space": "read"}
        row |= {**of, "spread": "prompts", "lowest seed": low, "highest seed": low}
        at = {"exact peak": exact, "sd at peak": 0.5, "sd at last": last, "starts": starts, "largest": 9}
        onset = {**of, **at, "seed": 0, "error": "repetition", "peak of spread": 4, "crossing": 2}
        noise = {**of, "agreement": 0.25, "shot": 2, "noise sd": 0.1, "sd over prompts": 0.5}
        tables = {"correlations": frame([row]), "onsets": frame([onset]), "noise": frame([noise])}
        settings = {"n": 64, "sigma": 0.5, "estimator": "noise", "prompts": "country"}
        found = judged("variance", tables, settings)
        assert any(one.quantity == "largest_spread_shot" and one.value == 4 for one in found["findings"])
        (one,) = found["conclusions"]
        assert "about 0.50 to 0.50 of their size" in one.because
        assert ("cannot be tested" in one.because) == np.isnan(starts)
        return one.verdict

    assert said(4.0, 0.3) == "holds"
    assert said(4.0, -0.5) == "holds partly" and said(6.0, 0.3) == "holds partly"
    # A peak at the last shot is none that stands above it.
    assert said(6.0, 0.3, last=0.5) == "does not hold" and said(float("nan"), 0.3) == "holds partly"
    # A peak where the prompts alone have theirs is not the model's, unless errors start there.
    assert said(6.0, 0.3, exact=4) == "does not hold" and said(4.0, 0.3, exact=4) == "holds partly"


def test_errors_of_lists_are_those_of_the_logits(checkpoint: Any) -> None:
    from tl_emergence.experiments.errors_of_lists import entity_tokens, list_errors

    prompts = demonstrations("country", checkpoint, shots=3, n=12, seed=0)
    entities = entity_tokens(LISTS["country"], checkpoint)
    found = list_errors(checkpoint, prompts, entities, batch_size=5)
    inputs = tle.circuits.model_tokens(checkpoint, prompts)
    with torch.no_grad():
        logits = checkpoint(inputs, return_type="logits")[:, -prompts.n_positions :]
    for row, tokens in enumerate(prompts.tokens.tolist()):
        for shot in range(2):
            p = logits[row, 2 * shot + 1].double().softmax(dim=-1)
            seen, best = tokens[: 2 * shot + 1 : 2], int(p.argmax())
            left = [e for e in entities.tolist() if e not in seen]
            wanted = {
                "category error": float(best not in entities.tolist()),
                "repetition": float(best in seen),
                "category loss": -float(np.log2(float(p[left].sum()))),
                "next-item loss": -float(np.log2(float(p[tokens[2 * shot + 2]]))),
            }
            for name, value in wanted.items():
                assert float(found[name][shot, row]) == pytest.approx(value, abs=1e-4), name
    with pytest.raises(TokenError, match="no lists"):
        list_errors(checkpoint, tle.prompts.from_tokens(prompts.tokens[:, :3]), entities)
