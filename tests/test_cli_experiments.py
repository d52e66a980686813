"""`tl-emergence experiment`: what it prints, writes, refuses, and how it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests import toys
from tl_emergence.cli import app
from tl_emergence.experiments import load_experiment

pytestmark = pytest.mark.skipif(toys.LENS_MAJOR < 3, reason="a local checkpoint needs a TransformerBridge")
RUNNER = CliRunner()


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


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("shot", [], "Did you mean 'shots'"),
        ("shots", ["--texts", "persuasion"], "option without effect: saw --texts"),
        ("training", ["--reader", "x"], "option without effect"),
        ("model-size", ["--n", "8", "--n", "16"], "several --n"),
        ("shots", ["--list", "countri"], "Did you mean 'country'"),
        ("shots", ["--space", "reed"], "Did you mean 'read'"),
        ("natural-text", ["--texts", "no such file"], "no such text source"),
        ("training", ["--step", "1"], "no training steps there"),
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
