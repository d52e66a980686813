"""The command line: what it prints, writes, refuses, and how it survives being killed."""

from __future__ import annotations

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
        (["--prompts", "countries"], "no such text source: saw 'countries'"),
        (["--estimator", "kraskov"], "unknown estimator: saw 'kraskov'"),
        (["--space", "raw"], "unknown space: saw 'raw'"),
        (["--sigma", "0"], "sigma out of range"),
        (["--layer", "9"], "layer out of range: saw [9]"),
        (["--control", "untrained"], "unknown control: saw 'untrained'"),
        (["--n", "1"], "n out of range: saw 1"),
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
        (["--out", "figure.jpg"], "unknown figure format: saw '.jpg'"),
        (["--metric", "bits"], "unknown metric: saw 'bits'"),
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
    ]
    command = [sys.executable, "-c", code, "run", str(checkpoint), "--out", str(out), "--batch-size", "16"]
    return subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(process: subprocess.Popen[bytes], out: Path, pattern: str, count: int) -> None:
    """Return as soon as the run has left `count` files of a pattern, or is over."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if sum(1 for _ in out.glob(pattern)) >= count:
            return
        time.sleep(0.002)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_to_the_same_result(checkpoint: Path, tmp_path: Path) -> None:
    undisturbed = start(checkpoint, tmp_path / "whole")
    assert undisturbed.wait(300) == 0
    whole = tle.load_result(tmp_path / "whole" / "result")
    moments = [
        (".work/command.json", 1),  # before the model is loaded
        (".work/parts/states-model/*.states", 2),  # while files for states are made
        (".work/parts/states-model/journal.jsonl", 1),  # in the middle of the capture
        (".work/parts/parts/model-*", 1),  # between two positions
        (".work/parts/states-shuffled_weights/journal.jsonl", 1),  # while the weights are shuffled
        (".work/parts/parts/shuffled_weights-*", 2),
        ("result/result-*.safetensors", 1),  # between tensors and description
    ]
    out = tmp_path / "killed"
    killed = 0
    for pattern, count in moments:  # each start goes on from where the last was killed
        process = start(checkpoint, out)
        wait_for(process, out, pattern, count)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait(60)
        for path in out.rglob("*.safetensors"):  # whatever stands under a final name is whole
            assert not path.name.startswith("."), path
    assert killed >= 4
    last = start(checkpoint, out)
    assert last.wait(300) == 0
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
