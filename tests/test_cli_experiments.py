"""`tl-emergence experiment`: what it prints, writes, refuses, and how it goes on."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests import toys
from tl_emergence import models
from tl_emergence.cli import app
from tl_emergence.experiments import load_experiment
from tl_emergence.prompts import LISTS

pytestmark = pytest.mark.skipif(toys.LENS_MAJOR < 3, reason="a local checkpoint needs a TransformerBridge")
RUNNER = CliRunner()
WORDS = [word for word in LISTS["country"] if " " not in word]
TEXTS = [
    ". ".join(", ".join(WORDS[(i + k + 3 * j) % len(WORDS)] for k in range(5)) for j in range(6)) + "."
    for i in range(30)
]
"""Sentences of nine of the tokens that the tokenizer of the tests knows."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "toy")


def run(name: str, model: Path | str, out: Path, *options: str) -> Result:
    return RUNNER.invoke(
        app, ["experiment", name, str(model), "--out", str(out), "--space", "read", *options]
    )


def test_an_experiment_writes_result_tables_and_figure_and_is_not_run_twice(
    checkpoint: Path, tmp_path: Path
) -> None:
    options = ["--n", "16", "--n", "32", "--shots", "3", "--seed", "1"]
    done = run("shots", checkpoint, tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    assert "Lists saturate near the 7th shot." in done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"figure.png", "result", "run.json"}
    found = load_experiment(tmp_path / "out" / "result")
    assert list(found.parts) == ["toy/country/16", "toy/country/32"] and found.settings["seed"] == 1
    again = run("shots", checkpoint, tmp_path / "out", *options)
    assert again.exit_code == 0 and "holds the finished result" in again.output
    other = run("shots", checkpoint, tmp_path / "out", "--n", "16")
    assert other.exit_code == 2 and "belongs to another run" in other.output


def test_a_stopped_command_goes_on_with_the_texts_and_parts_that_are_there(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = importlib.import_module("tl_emergence.experiments.text_sources")
    (tmp_path / "human.txt").write_text("\n\n".join(TEXTS))
    options = ["--texts", str(tmp_path / "human.txt"), "--n", "16", "--seed", "2"]
    sampled: list[int] = []

    def written(*_: Any, **__: Any) -> list[str]:
        sampled.append(1)
        return TEXTS[:20]

    monkeypatch.setattr(sources, "continuations", written)
    whole = run("text-sources", checkpoint, tmp_path / "whole", *options)
    assert whole.exit_code == 0, whole.output
    measure = sources.information_emergence
    for stop_at, found in ((1, "1 finished parts"), (2, "2 finished parts")):
        calls: list[int] = []

        def stops(*given: Any, calls: list[int] = calls, stop_at: int = stop_at, **settings: Any) -> Any:
            calls.append(1)
            if len(calls) == stop_at:
                raise KeyboardInterrupt
            return measure(*given, **settings)

        sampled.clear()
        out = tmp_path / f"stopped-{stop_at}"
        with monkeypatch.context() as patch:
            patch.setattr(sources, "information_emergence", stops)
            stopped = run("text-sources", checkpoint, out, *options)
        assert stopped.exit_code == 130 and "goes on from here" in stopped.output
        assert not (out / "run.json").exists() and not (out / "result").exists()
        done = run("text-sources", checkpoint, out, *options)
        assert done.exit_code == 0 and found in done.output, done.output
        assert sampled == [1]
        assert {path.name for path in out.iterdir()} == {"figure.png", "result", "run.json"}
        for table in ("findings", "curves", "sources"):
            kept, wanted = (folder / "result" / f"{table}.csv" for folder in (out, tmp_path / "whole"))
            assert kept.read_bytes() == wanted.read_bytes(), table


def test_windows_of_other_lengths_are_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "human.txt").write_text("\n\n".join(TEXTS))
    options = ["--texts", str(tmp_path / "human.txt"), "--n", "16", "--anchor", "end"]
    done = run("natural-text", checkpoint, tmp_path / "out", *options, "--n-tokens", "4", "--n-tokens", "6")
    assert done.exit_code == 0, done.output
    parts = load_experiment(tmp_path / "out" / "result").parts
    assert list(parts) == ["toy/end-4", "toy/end-6", "toy/list"]


def test_texts_by_others_stand_beside(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("human", "other"):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    sources = importlib.import_module("tl_emergence.experiments.text_sources")
    monkeypatch.setattr(sources, "continuations", lambda *_, **__: TEXTS[:20])
    options = ["--texts", str(tmp_path / "human.txt"), "--n", "16"]
    options += ["--written", f"gpt-4={tmp_path / 'other.txt'}"]
    done = run("text-sources", checkpoint, tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    assert "gpt-4/matched" in load_experiment(tmp_path / "out" / "result").parts


def test_a_list_of_ones_own_comes_from_a_file(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Japan\n\nChina\nFrance\nItaly\nSpain\n")
    options = ["--n", "16", "--shots", "2", "--list", str(tmp_path / "mine.txt")]
    done = run("model-size", checkpoint, tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    found = load_experiment(tmp_path / "out" / "result")
    assert found.settings["prompts"] == ["Japan", "China", "France", "Italy", "Spain"]


def test_checkpoints_are_models_in_order(checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["experiment", "training", str(checkpoint), str(checkpoint), "--out", str(tmp_path / "out")]
    done = RUNNER.invoke(app, [*arguments, "--n", "16", "--step", "5", "--step", "9", "--space", "unit"])
    assert done.exit_code == 0, done.output
    assert load_experiment(tmp_path / "out" / "result").settings["steps"] == [5, 9]


def test_hub_names_are_loaded_at_the_step_they_are_labelled_with(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[str, int | None]] = []
    command = importlib.import_module("tl_emergence.cli_experiments")

    def from_disk(name: str, step: int | None) -> Any:
        loaded.append((name, step))
        return models.load(checkpoint)

    monkeypatch.setattr(command, "load_model", from_disk)
    arguments = ["experiment", "training", "one/name", "other/name", "--out", str(tmp_path / "out")]
    done = RUNNER.invoke(app, [*arguments, "--n", "16", "--step", "5", "--step", "9", "--space", "unit"])
    assert done.exit_code == 0, done.output
    assert loaded == [("one/name", 5), ("other/name", 9)]


def test_a_trained_model_without_a_step_is_not_called_step_0(checkpoint: Path, tmp_path: Path) -> None:
    done = run("training", checkpoint, tmp_path / "out", "--n", "16")
    assert done.exit_code == 0, done.output
    found = load_experiment(tmp_path / "out" / "result")
    assert found.settings["steps"] is None and list(found.parts) == ["toy"]
    assert "step 0" not in done.output and "step-0" not in done.output
    twice = RUNNER.invoke(
        app, ["experiment", "training", str(checkpoint), str(checkpoint), "--out", str(tmp_path / "two")]
    )
    assert twice.exit_code == 2 and "a model twice" in twice.output


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("shot", [], "Did you mean 'shots'"),
        ("shots", ["--texts", "persuasion"], "option without effect: saw --texts"),
        ("training", ["--reader", "x"], "option without effect"),
        ("shots", ["--n-texts", "3"], "option without effect: saw --n-texts"),
        ("shots", ["--shots", "2"], "most (shots a prompt) out of range"),
        ("model-size", ["--n", "8", "--n", "16"], "several --n"),
        ("text-sources", ["--n-tokens", "8", "--n-tokens", "16"], "several --n-tokens"),
        ("shots", ["--list", "countri"], "Did you mean 'country'"),
        ("shots", ["--space", "reed"], "Did you mean 'read'"),
        ("natural-text", ["--texts", "no such file"], "no such text source"),
        ("training", ["--step", "1"], "no training steps there"),
        ("training", ["--step", "1", "--step", "1"], "a training step twice"),
        ("text-sources", ["--written", "gpt-4"], "a source without name or file"),
        ("text-sources", ["--written", "gpt-4=nowhere.txt"], "no such text source"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    name: str, options: list[str], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    done = run(name, checkpoint, tmp_path / "out", *options)
    assert done.exit_code == 2 and message in done.output.replace("\n", " "), done.output
    assert not (tmp_path / "out").exists()


def test_texts_that_are_none_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes("Är det här text. Nej.".encode("latin-1"))
    for name, message in (("empty.txt", "too few windows"), ("latin.txt", "not UTF-8")):
        done = run("natural-text", checkpoint, tmp_path / "out", "--texts", str(tmp_path / name))
        assert done.exit_code == 2 and message in done.output, done.output
        assert not (tmp_path / "out").exists()
