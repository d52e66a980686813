"""The command line: what it prints, writes, refuses, and how it survives being killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import tl_emergence as tle
from tests import toys
from tl_emergence.cli import app
from tl_emergence.errors import ModelLoadError
from tl_emergence.geometry.companion import GEOMETRY_NAMES

pytestmark = pytest.mark.skipif(toys.LENS_MAJOR < 3, reason="a local checkpoint needs a TransformerBridge")
RUNNER = CliRunner()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.save_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def run(checkpoint: Path, out: Path, *options: str) -> Result:
    base = ["run", str(checkpoint), "--out", str(out), "--n", "48", "--shots", "2"]
    return RUNNER.invoke(app, [*base, *options])


def test_run_writes_result_table_and_figures(checkpoint: Path, tmp_path: Path) -> None:
    options = ["--space", "read", "--space", "unit", "--sigma", "0.5", "--sigma", "1"]
    done = run(checkpoint, tmp_path / "out", *options, "--control", "shuffled_weights")
    assert done.exit_code == 0, done.output
    assert "space 'read'" in done.output and "weight-shuffled" in done.output
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["overview.png", "result", "run.json", "sigma.png", "spaces.png", "table.csv"]
    loaded = tle.load_result(tmp_path / "out" / "result")
    assert isinstance(loaded, tle.SpaceComparison) and list(loaded) == ["read", "unit"]
    assert (tmp_path / "out" / "overview.png").read_bytes()[:4] == b"\x89PNG"


def test_run_takes_the_deranged_control(checkpoint: Path, tmp_path: Path) -> None:
    options = ["--estimator", "exact", "--space", "unit", "--control", "deranged"]
    done = run(checkpoint, tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    assert "deranged" in done.output and "a deranged finite set is still a bijection" in done.output
    loaded = tle.load_result(tmp_path / "out" / "result")
    assert isinstance(loaded, tle.SpaceComparison)
    found = loaded["unit"]
    assert isinstance(found, tle.EmergenceResult)
    control = found.controls["deranged"]
    assert torch.allclose(control.emergence, control.exact.emergence)


def test_run_writes_the_columns_of_the_geometry(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--estimator", "exact", "--space", "unit", "--no-figures"]
    done = run(checkpoint, out, *options, "--geometry")
    assert done.exit_code == 0, done.output
    titles = (out / "table.csv").read_text().splitlines()[0].split(",")
    assert set(GEOMETRY_NAMES) < set(titles)
    without = run(checkpoint, out, *options)
    assert without.exit_code == 2 and "belongs to another run: saw geometry=True" in without.output


def test_several_estimators_stand_beside_each_other_and_take_their_options(
    checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    names = ["--estimator", "exact", "--estimator", "noise", "--estimator", "gaussian"]
    options = [*names, "--option", "components=3", "--option", "draws=none", "--space", "read"]
    done = run(checkpoint, out, *options)
    assert done.exit_code == 0, done.output
    assert "each estimator answers a question of" in done.output
    assert "== estimator 'gaussian', space 'read' ==" in done.output
    pictures = {path.stem for path in out.glob("*.png")}
    assert pictures == {"estimators"} | {
        f"{kind}-{name}" for kind in ("overview", "spaces") for name in ("exact", "noise", "gaussian")
    }
    found = tle.load_result(out)
    assert isinstance(found, tle.EstimatorComparison)
    assert found["gaussian"]["read"].settings["components"] == 3  # type: ignore[index]
    again = run(checkpoint, out, *options, "--no-figures")
    assert again.exit_code == 0 and "holds the finished result" in again.output
    other = run(checkpoint, out, *names, "--option", "components=4", "--space", "read")
    assert other.exit_code == 2 and "options={'components': 3, 'draws': None}" in other.output


def test_plot_draws_a_saved_comparison_or_one_estimator_of_it(checkpoint: Path, tmp_path: Path) -> None:
    names = ["--estimator", "noise", "--estimator", "gaussian", "--option", "components=3"]
    assert run(checkpoint, tmp_path / "out", *names, "--no-figures").exit_code == 0
    for options, comment in (
        ([], "<!-- gaussian, sigma 0.5 -->"),
        (["--estimator", "gaussian"], " |  gaussian, sigma 0.5"),
        (["--kind", "heatmap"], " |  noise, sigma 0.5"),
    ):
        target = tmp_path / "figure.svg"
        done = RUNNER.invoke(app, ["plot", str(tmp_path / "out"), "--out", str(target), *options])
        assert done.exit_code == 0, done.output
        # Text is drawn as paths; matplotlib keeps it in comments.
        assert comment in target.read_text()


def test_the_same_command_again_shows_the_finished_result(checkpoint: Path, tmp_path: Path) -> None:
    first = run(checkpoint, tmp_path, "--no-figures")
    again = run(checkpoint, tmp_path, "--no-figures")
    assert again.exit_code == 0
    assert "holds the finished result of this very command" in again.output
    assert first.stdout == again.stdout


def test_a_folder_of_another_command_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    run(checkpoint, tmp_path, "--no-figures")
    other = run(checkpoint, tmp_path, "--no-figures", "--seed", "1")
    assert other.exit_code == 2
    assert "the output folder belongs to another run: saw seed=0; expected seed=1" in other.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompts", "countries"], "unknown prompts (and no such file): saw 'countries'"),
        (["--estimator", "kraskov"], "unknown estimator: saw 'kraskov'"),
        (["--estimator", "noise", "--estimator", "noise"], "estimators not usable"),
        (["--option", "components=4"], "options that noise does not have: saw components"),
        (["--option", "seed=4"], "options that noise does not have: saw seed"),
        (["--option", "draws"], "option is not NAME=VALUE: saw 'draws'"),
        (["--option", "draws=2", "--option", "draws=4"], "option given twice: saw 'draws=4'"),
        (["--option", "draws=many"], "draws is not a whole number: saw 'many' (str)"),
        (["--option", "draws=1"], "too few draws: saw 1"),
        (["--space", "raw"], "unknown space: saw 'raw'"),
        (["--sigma", "0"], "sigma out of range"),
        (["--layer", "9"], "layer out of range: saw [9]"),
        (["--control", "untrained"], "unknown control: saw 'untrained'"),
        (["--n", "1"], "n out of range: saw 1"),
        (["--n", "many"], "n is not a whole number: saw 'many'"),
        (["--threads", "0"], "threads out of range: saw 0"),
    ],
)
@pytest.mark.usefixtures("as_shipped")
def test_bad_options_get_one_line_status_two_and_leave_nothing(
    checkpoint: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    done = run(checkpoint, tmp_path / "out", *options)
    assert done.exit_code == 2 and f"error: {message}" in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run(tmp_path / "empty", tmp_path / "out")
    assert done.exit_code == 2 and "error: no checkpoint there" in done.output


def test_an_output_folder_that_cannot_be_made_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = run(checkpoint, tmp_path / "file" / "out")
    assert done.exit_code == 2 and "error: cannot write" in done.output


def test_plot_draws_from_a_saved_run(checkpoint: Path, tmp_path: Path) -> None:
    run(checkpoint, tmp_path / "out", "--sigma", "0.5", "--sigma", "1", "--no-figures")
    for kind in ("overview", "heatmap", "curves", "sigma"):
        target = tmp_path / f"{kind}.svg"
        done = RUNNER.invoke(app, ["plot", str(tmp_path / "out"), "--out", str(target), "--kind", kind])
        assert done.exit_code == 0, done.output
        assert "<svg" in target.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kind", "pie"], "unknown kind of figure: saw 'pie'"),
        (["--kind", "spaces"], "no spaces figure"),
        (["--kind", "estimators"], "no estimators figure"),
        (["--estimator", "exact"], "unknown estimator: saw 'exact'; expected one of ['noise']"),
        (["--out", "figure.jpg"], "unknown figure format: saw '.jpg'"),
        (["--metric", "bits"], "unknown metric: saw 'bits'"),
        (["--space", "unit"], "unknown space: saw 'unit'"),
        (["--sigma", "0.3"], "sigma not measured: saw 0.3"),
    ],
)
@pytest.mark.usefixtures("as_shipped")
def test_plot_refuses_what_it_cannot_draw(
    checkpoint: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    run(checkpoint, tmp_path / "out", "--no-figures")
    base = ["plot", str(tmp_path / "out"), "--out", str(tmp_path / "figure.png")]
    done = RUNNER.invoke(app, [*base, *options])
    assert done.exit_code == 2 and f"error: {message}" in done.output
    missing = RUNNER.invoke(app, ["plot", str(tmp_path / "nowhere"), "--out", str(tmp_path / "figure.png")])
    assert missing.exit_code == 2 and "error: cannot read" in missing.output


def test_models_and_estimators_are_listed() -> None:
    assert "gemma-3-270m" in RUNNER.invoke(app, ["models"]).output
    listed = RUNNER.invoke(app, ["estimators"]).output
    assert listed.splitlines()[0].startswith("exact") and "noise" in listed
    for name, estimator in tle.estimators.ESTIMATORS.items():
        lines = listed.splitlines()
        place = next(i for i, line in enumerate(lines) if line.split()[0] == name)
        assert estimator.measures in lines[place]
        assert all(f"--option {option}=" in lines[place + 1] for option in estimator.options)
    assert "--sigma 0.5, --option components=64" in listed and "no noise" in listed


def start(checkpoint: Path, out: Path) -> subprocess.Popen[bytes]:
    code = "from tl_emergence.cli import app; app()"
    options = [
        "--n",
        "400",
        "--sigma",
        "0.3",
        "--sigma",
        "1",
        "--control",
        "shuffled_weights",
        "--no-figures",
        "--batch-size",
        "16",
    ]
    command = [sys.executable, "-c", code, "run", str(checkpoint), "--out", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def progress(out: Path) -> dict[str, int]:
    """Return how far a run has come, by what it has left on disk."""

    def lines(path: Path) -> int:
        return path.read_text().count("crc32") if path.exists() else 0

    parts = out / ".work" / "parts"
    return {
        "asked": int((out / ".work" / "command.json").exists()),
        "captured": lines(parts / "states-model" / "journal.jsonl"),
        "scored": len(list(parts.glob("parts/model-*.safetensors"))),
        "control captured": lines(parts / "states-shuffled_weights" / "journal.jsonl"),
        "control scored": len(list(parts.glob("parts/shuffled_weights-*.safetensors"))),
        "written": len(list(out.glob("result/result-*.safetensors"))),
    }


def killed_when_it_has_more(process: subprocess.Popen[bytes], out: Path, moment: str, before: int) -> bool:
    """Kill a run as soon as it has made more of something than it found; return whether it got there."""
    deadline = time.monotonic() + 120
    while process.poll() is None:
        assert time.monotonic() < deadline, f"the run hangs before: {moment}"
        if progress(out)[moment] > before:
            process.send_signal(signal.SIGKILL)
            process.wait(60)
            return True
        time.sleep(0.001)
    return False


def all_final_files_are_whole(out: Path) -> bool:
    from safetensors.torch import load_file

    named = [path for path in out.rglob("*") if path.is_file() and not path.name.startswith(".")]
    for path in named:
        if path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
    return bool(named)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_to_the_same_result(checkpoint: Path, tmp_path: Path) -> None:
    undisturbed = start(checkpoint, tmp_path / "whole")
    assert undisturbed.wait(300) == 0
    whole = tle.load_result(tmp_path / "whole" / "result")
    out = tmp_path / "killed"
    # Each start goes on from where the last was killed; twice at every stage of the work.
    moments = ["asked", *("captured", "scored", "control captured", "control scored") * 2]
    order = ["asked", "captured", "scored", "control captured", "control scored"]
    for moment in sorted(moments, key=order.index):
        before = progress(out)[moment]
        assert killed_when_it_has_more(start(checkpoint, out), out, moment, before), moment
        assert all_final_files_are_whole(out)
    last = start(checkpoint, out)
    # Between the tensors and the description that names them: too short to hit each time.
    if not killed_when_it_has_more(last, out, "written", 0):
        assert last.returncode == 0
    assert start(checkpoint, out).wait(300) == 0
    assert all_final_files_are_whole(out)
    resumed = tle.load_result(out / "result")
    assert isinstance(whole, tle.SigmaSweep) and isinstance(resumed, tle.SigmaSweep)
    for sigma in whole:
        for a, b in (
            (whole[sigma], resumed[sigma]),
            (whole[sigma].controls["shuffled_weights"], resumed[sigma].controls["shuffled_weights"]),
        ):
            assert torch.equal(a.emergence, b.emergence) and torch.equal(a.stderr, b.stderr)
    assert not (out / ".work").exists()
    names = [sorted(path.name for path in (f / "result").iterdir()) for f in (out, tmp_path / "whole")]
    assert names[0] == names[1]


def test_what_an_earlier_call_finished_survives_a_later_error(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tl_emergence import models, scoring

    out, chain, calls = tmp_path / "out", scoring.StateChain, []

    def stopping(*args: object) -> object:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return chain(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(scoring, "StateChain", stopping)
    stopped = run(checkpoint, out, "--no-figures")
    assert stopped.exit_code == 130 and "the same command goes on from here" in stopped.output
    kept = progress(out)
    assert kept["scored"] == 2
    monkeypatch.setattr(models, "load", lambda name: (_ for _ in ()).throw(unreachable()))
    failed = run(checkpoint, out, "--no-figures")
    assert failed.exit_code == 2 and "error: model not found" in failed.output
    assert progress(out) == kept
    monkeypatch.undo()
    assert run(checkpoint, out, "--no-figures").exit_code == 0


def unreachable() -> ModelLoadError:
    return ModelLoadError("model not found", seen="nothing", expected="a model", fix="Wait.")


def test_a_whole_list_is_asked_for_by_all(checkpoint: Path, tmp_path: Path) -> None:
    base = ["run", str(checkpoint), "--out", str(tmp_path), "--no-figures", "--prompts", "color"]
    done = RUNNER.invoke(app, [*base, "--shots", "2", "--n", "all", "--layer", "1", "--position", "3"])
    assert done.exit_code == 0, done.output
    assert "210 prompts x 4 tokens" in done.output


def test_a_folder_that_may_not_be_searched_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may search every folder: the refusal has to be played.
    monkeypatch.setattr(Path, "exists", lambda path: (_ for _ in ()).throw(PermissionError(13, "not yours")))
    done = run(checkpoint, tmp_path / "out")
    assert done.exit_code == 2 and "error: cannot look there: saw" in done.output
