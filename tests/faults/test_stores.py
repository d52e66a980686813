"""What is kept on disk: whose it is, what it is named, what is left behind, and paths that cannot be.

The strict expected failure waits for a store of work folders with a lock of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

import tl_emergence as tle
from tests import toys
from tests.faults import jobs
from tl_emergence import experiments
from tl_emergence.capture.fingerprint import model_fingerprint
from tl_emergence.errors import EmergenceError, ResultFileError, SettingError
from tl_emergence.files import as_path, below, read_json, with_checksum
from tl_emergence.results import EmergenceResult

# item 9: a work folder answers for one computation


def _soft_cap(model: Any) -> None:
    model.cfg.output_logits_soft_cap = 5.0


def _buffer(model: Any) -> None:
    model.blocks[0].register_buffer("a_table_of_positions", torch.ones(3), persistent=False)


def _weight(model: Any) -> None:
    with torch.no_grad():
        next(p for p in model.parameters() if p.ndim == 2)[-1, -1] += 1


@pytest.mark.parametrize("change", [_soft_cap, _buffer, _weight], ids=lambda change: change.__name__)
def test_a_model_that_was_changed_has_another_fingerprint_and_its_work_folder_is_refused(
    change: Any, tmp_path: Path
) -> None:
    model = toys.make_model(toys.MODEL_KINDS[0])
    settings: dict[str, Any] = {"space": "unit", "workdir": tmp_path}
    first = tle.information_emergence(model, jobs.prompts(), **settings)
    again = tle.information_emergence(toys.make_model(toys.MODEL_KINDS[0]), jobs.prompts(), **settings)
    assert jobs.digest(first) == jobs.digest(again)  # the same model, made anew
    change(model)
    with pytest.raises(SettingError, match="differs in model_fingerprint"):
        tle.information_emergence(model, jobs.prompts(), **settings)


@pytest.mark.skipif(toys.LENS_MAJOR < 3, reason="a local checkpoint needs a TransformerBridge")
def test_epsilons_of_norms_and_scales_of_attention_are_in_the_fingerprint(tmp_path: Path) -> None:
    model = tle.models.load(toys.save_checkpoint(tmp_path / "checkpoint"))
    before = model_fingerprint(model)
    assert model_fingerprint(tle.models.load(tmp_path / "checkpoint")) == before
    with torch.no_grad():
        model(torch.tensor([[1, 2, 3]]))
    assert model_fingerprint(model) == before  # a pass changes nothing
    for name in ("variance_epsilon", "scaling"):
        module = next(m for m in model.modules() if isinstance(getattr(m, name, None), float))
        value = getattr(module, name)
        setattr(module, name, value * 2)
        assert model_fingerprint(model) != before, name
        setattr(module, name, value)
    assert model_fingerprint(model) == before


@pytest.mark.parametrize("kind", list(jobs.RUNS))
def test_a_work_folder_of_another_version_of_the_package_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.RUNS[kind](tmp_path)
    monkeypatch.setattr("tl_emergence.capture.compat.version", lambda name: "99.0")
    with pytest.raises(SettingError, match="tl_emergence"):
        jobs.RUNS[kind](tmp_path)


# item 10: processes that share a folder


def _save(kind: str, which: str, folder: Path, start: Any) -> None:
    jobs.save(kind, which, folder.parent / which)
    start.wait()
    for _ in range(10):
        jobs.save(kind, which, folder)
        jobs.load(kind, folder)  # while the other one saves


def test_two_processes_that_save_in_one_folder_leave_one_of_their_results_whole(tmp_path: Path) -> None:
    context, shared = multiprocessing.get_context("spawn"), tmp_path / "shared"
    start = context.Barrier(2)
    both = [context.Process(target=_save, args=("effects", which, shared, start)) for which in jobs.SEEDS]
    for process in both:
        process.start()
    for process in both:
        process.join(100)
    assert [process.exitcode for process in both] == [0, 0]
    saved = [jobs.digest(jobs.load("effects", tmp_path / which)) for which in jobs.SEEDS]
    assert saved[0] != saved[1] and jobs.digest(jobs.load("effects", shared)) in saved
    assert len(list(shared.glob("*.safetensors"))) == 1


@pytest.mark.xfail(strict=True, reason="item 10: a work folder has no lock, and no wait=")
def test_a_second_process_on_a_running_work_folder_is_told_who_holds_it(tmp_path: Path) -> None:
    def measures_in_the_same_folder(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        tle.information_emergence(jobs.model(), jobs.prompts(), space="unit", workdir=tmp_path)
        return logits[:, 0, 0]

    with pytest.raises(EmergenceError, match=str(os.getpid())):
        tle.ablate_heads(
            jobs.model(), jobs.prompts(), measures_in_the_same_folder, kind="zero", workdir=tmp_path
        )


# item 24: what is removed


def test_saving_removes_what_the_result_before_named_and_nothing_else(tmp_path: Path) -> None:
    mine = {
        "result-of-mine.safetensors": "kept",
        "result-0123456789abcdef.safetensors": "kept",
        "parts-list.txt": "kept",
        "parts-0123456789abcdef": None,
    }
    for kind in ("result", "experiment"):
        for name, content in mine.items():
            if content is None:
                (tmp_path / name).mkdir(exist_ok=True)
            else:
                (tmp_path / name).write_text(content)
        jobs.save(kind, "old", tmp_path)
        jobs.save(kind, "new", tmp_path)
        assert jobs.digest(jobs.load(kind, tmp_path)) == jobs.digest(jobs.MADE[kind](jobs.SEEDS["new"]))
        assert all((tmp_path / name).exists() for name in mine)
    assert len(list(tmp_path.glob("result-*.safetensors"))) == 3
    assert len(list(tmp_path.glob("parts-????????????????"))) == 2


# item 23: names, and files from before checksums


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "", ".", "a//b", "a\\b", None, 3])
def test_a_name_that_leads_out_of_its_folder_is_refused(name: Any, tmp_path: Path) -> None:
    with pytest.raises(ResultFileError, match="leads out of its folder"):
        below(tmp_path, name)


def test_a_description_that_names_parts_or_tensors_elsewhere_is_refused(tmp_path: Path) -> None:
    jobs.save("experiment", "new", tmp_path / "run")
    description = read_json(tmp_path / "run" / "experiment.json")
    (tmp_path / "run" / "parts-x").mkdir()
    key = description["experiment"]["parts"][0]
    for changes in ({"parts in": "../elsewhere"}, {"parts": [f"../../{key}"], "part checksums": {}}):
        changed = {**description, "experiment": {**description["experiment"], **changes}}
        (tmp_path / "run" / "experiment.json").write_text(json.dumps(with_checksum(changed)))
        with pytest.raises(ResultFileError, match="leads out of its folder"):
            experiments.load_experiment(tmp_path / "run")


def test_results_saved_before_descriptions_had_a_checksum_are_read() -> None:
    saved = Path(__file__).parents[2] / "tutorials" / "head_effects"
    folders = sorted(path.parent for path in saved.rglob("effects.json"))
    assert folders
    for folder in folders:
        assert tle.load_effects(folder).metrics


# item 25: leftovers


def test_states_that_do_not_fit_into_memory_leave_nothing_when_the_process_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, signal; from tests.faults import jobs; import tl_emergence.capture.storage as storage\n"
        "storage.IN_MEMORY_BYTES = 0\n"
        "import tl_emergence as tle\n"
        "states = tle.capture_states(jobs.model(), jobs.prompts())\n"
        "print(float(states.macro[0].sum()), flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ended.returncode == -9 and float(ended.stdout), ended.stderr
    assert list(tmp_path.glob("tl_emergence*")) == []


# item 28: paths, JSON, and a full standard output


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    "path", [None, 3, b"bytes", "", "a\0b", "\ud800", "~nobody-of-this-name/x", ["a"]], ids=repr
)
def test_what_is_no_path_is_refused_by_everything_that_takes_one(path: Any) -> None:
    model, prompts = jobs.model(), jobs.prompts()
    result, report = jobs.MADE["result"](2), jobs.MADE["report"](2)
    calls: list[Any] = [
        lambda: as_path("folder", path),
        lambda: result.save(path),
        lambda: report.save(path),
        lambda: jobs.MADE["effects"](2).save(path),
        lambda: tle.load_result(path),
        lambda: tle.load_effects(path),
        lambda: tle.load_report(path),
        lambda: experiments.load_experiment(path),
    ]
    if path is not None:
        calls += [
            lambda: tle.information_emergence(model, prompts, space="unit", workdir=path),
            lambda: tle.ablate_heads(model, prompts, "loss", kind="zero", workdir=path),
            lambda: tle.capture_states(model, prompts, folder=path),
        ]
    for call in calls:
        with pytest.raises(SettingError, match="is not a path"):
            call()


@pytest.mark.parametrize(
    "path", ["x" * 300, "y/" * 3000, "/dev/null/x", "/proc/nothing/x"], ids=lambda p: p[:12]
)
def test_a_path_that_cannot_be_written_or_read_is_a_typed_error(path: str) -> None:
    for kind in jobs.MADE:
        with pytest.raises(ResultFileError):
            jobs.MADE[kind](2).save(path)
        with pytest.raises(ResultFileError):
            jobs.load(kind, Path(path))
    with pytest.raises(ResultFileError):
        jobs.emergence(workdir=path)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tempfile.mkdtemp(dir=tmp_path))
    jobs.MADE["result"](2).save("~/runs/one")
    jobs.MADE["report"](2).save("~/runs/report.json")
    assert (tmp_path / "runs" / "one" / "result.json").exists()
    found = tle.load_result("~/runs/one")
    assert isinstance(found, EmergenceResult) and tle.load_report("~/runs/report.json").pairs
    jobs.emergence(workdir="~/runs/work")
    assert (tmp_path / "runs" / "work" / "run.json").exists()
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"a":' * 100_000, '{"format": "\\ud800"}', "\ufeff{}", "NaN"]
)
def test_json_that_is_nested_deep_or_not_text_is_a_typed_error(content: str, tmp_path: Path) -> None:
    for name, load in (("result", tle.load_result), ("effects", tle.load_effects),
                       ("experiment", experiments.load_experiment)):  # fmt: skip
        (tmp_path / f"{name}.json").write_text(content)
        with pytest.raises(ResultFileError):
            load(tmp_path)
        (tmp_path / f"{name}.json").unlink()
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(ResultFileError):
        tle.load_report(tmp_path / "report.json")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [["estimators"], ["--help"]], ids=str)
def test_a_full_standard_output_is_one_line_on_standard_error(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        ended = subprocess.run(
            [sys.executable, "-m", "tl_emergence.cli", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ended.returncode == 2
    assert ended.stderr.strip() == "error: cannot write to standard output: No space left on device"
