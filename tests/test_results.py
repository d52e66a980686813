"""Results: tables, text, saving and loading, and what damaged files get."""

from __future__ import annotations

import gc
import io
import json
import os
import subprocess
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import tl_emergence as tle
from tests import toys
from tl_emergence import files
from tl_emergence.errors import ResultFileError, SettingError
from tl_emergence.prompts import from_tokens
from tl_emergence.results import AnyResult
from tl_emergence.tables import with_error

pytestmark = pytest.mark.matrix
PROMPTS = from_tokens(toys.TOKENS, labels=["first", "comma", "last"], name="toy list")


@pytest.fixture(scope="module")
def comparison(toy: Any) -> tle.SpaceComparison:
    found = tle.information_emergence(
        toy,
        PROMPTS,
        sigma=(0.25, 1.0),
        space=("unit", "resid"),
        controls=("shuffled_weights", "shuffled_tokens"),
    )
    assert isinstance(found, tle.SpaceComparison)
    return found


@pytest.fixture(scope="module")
def result(comparison: tle.SpaceComparison) -> tle.EmergenceResult:
    sweep = comparison["unit"]
    assert isinstance(sweep, tle.SigmaSweep)
    return sweep[0.25]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        shape = a.dtype == b.dtype and a.shape == b.shape
        return shape and torch.allclose(a.double(), b.double(), rtol=0.0, atol=0.0, equal_nan=True)
    if isinstance(a, tle.SigmaSweep | tle.SpaceComparison | tle.EstimatorComparison):
        return type(a) is type(b) and list(a) == list(b) and all(map(same, a.values(), b.values()))
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(same(getattr(a, f), getattr(b, f)) for f in a.__dataclass_fields__)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def test_every_kind_of_result_survives_saving_and_loading(
    comparison: tle.SpaceComparison, result: tle.EmergenceResult, tmp_path: Path
) -> None:
    found: AnyResult
    for name, found in {"one": result, "sweep": comparison["unit"], "both": comparison}.items():
        found.save(tmp_path / name)
        assert same(tle.load_result(tmp_path / name), found)


def test_a_saved_folder_holds_json_and_safetensors_and_no_trace_of_the_one_before(
    comparison: tle.SpaceComparison, result: tle.EmergenceResult, tmp_path: Path
) -> None:
    comparison.save(tmp_path)
    result.save(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir() if path.name != ".lock")
    assert len(names) == 2 and names[1] == "result.json" and names[0].endswith(".safetensors")
    assert same(tle.load_result(tmp_path), result)


def test_a_result_keeps_no_model_and_plain_settings() -> None:
    model = toys.make_model(toys.MODEL_KINDS[0])
    gone = weakref.ref(model)
    found = tle.information_emergence(model, PROMPTS, space="unit", controls=("shuffled_weights",))
    json.dumps(dict(found.settings))
    del model
    gc.collect()
    assert gone() is None and found.n_prompts == 8


def test_sweeps_and_comparisons_have_summaries_and_notebook_tables(comparison: tle.SpaceComparison) -> None:
    text = comparison.summary()
    assert text.count("on toy list: 8 prompts x 3 tokens") == 4
    assert all(title in text for title in ("== space 'unit' ==", "== space 'resid' ==", "== sigma 0.25 =="))
    page = comparison._repr_html_()
    assert page.count("<table>") == 4 and "<h4>space &#x27;unit&#x27;</h4>" in page


def test_a_key_that_was_not_measured_is_named(comparison: tle.SpaceComparison) -> None:
    with pytest.raises(SettingError, match=r"space not measured: saw 'read'; expected one of \['unit', 'res"):
        comparison["read"]
    with pytest.raises(KeyError, match=r"sigma not measured: saw 0.7; expected one of \[0.25, 1.0\]"):
        comparison["unit"][0.7]  # type: ignore[index]
    assert comparison.get("read") is None and "read" not in comparison


def test_results_are_compared_by_identity(result: tle.EmergenceResult) -> None:
    assert result == result and result != replace(result)


def damage(kind: str, folder: Path) -> None:
    tensors = next(folder.glob("*.safetensors"))
    description = folder / "result.json"
    head = json.loads(description.read_text())
    del head["checksum"]  # as in files of before there was one: what is wrong is found out all the same
    if kind == "truncated tensors":
        tensors.write_bytes(tensors.read_bytes()[:-7])
    elif kind == "flipped bit":
        content = bytearray(tensors.read_bytes())
        content[len(content) // 2] ^= 1
        tensors.write_bytes(bytes(content))
    elif kind == "missing tensors":
        tensors.unlink()
    elif kind == "truncated description":
        description.write_text(description.read_text()[:50])
    elif kind == "another format":
        description.write_text(json.dumps({**head, "version": 99}))
    elif kind == "a list":
        description.write_text("[1, 2]")
    elif kind == "not text":
        description.write_bytes(b"\xff\xfe\x00")
    elif kind == "a missing field":
        del head["result"]["layers"]
        description.write_text(json.dumps(head))
    elif kind == "no folder":
        description.unlink()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated tensors", "damaged tensor file: saw .* whose checksum is not the one recorded"),
        ("flipped bit", "damaged tensor file"),
        ("missing tensors", "cannot read: saw .*No such file"),
        ("truncated description", "damaged description: saw .*result.json"),
        ("another format", "not a result of this version: saw .* version 99"),
        ("a list", "damaged description: saw .*: list"),
        ("not text", "damaged description"),
        ("a missing field", "damaged description: saw .* KeyError: 'layers'"),
        ("no folder", "cannot read"),
    ],
)
def test_a_damaged_result_gets_a_typed_error(
    kind: str, message: str, result: tle.EmergenceResult, tmp_path: Path
) -> None:
    result.save(tmp_path)
    damage(kind, tmp_path)
    with pytest.raises(ResultFileError, match=message):
        tle.load_result(tmp_path)


def test_an_unwritable_folder_gets_a_typed_error_and_nothing_is_left(
    result: tle.EmergenceResult, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        ResultFileError, match=r"cannot write: saw .*file.* expected a folder that can be written"
    ):
        result.save(tmp_path / "file" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_save_that_fails_half_way_leaves_the_old_result(
    comparison: tle.SpaceComparison,
    result: tle.EmergenceResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result.save(tmp_path)
    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(ResultFileError, match="cannot write: saw .*disk full"):
        comparison.save(tmp_path)
    monkeypatch.undo()
    assert same(tle.load_result(tmp_path), result)
    assert [path.name for path in tmp_path.glob(".*")] == [".lock"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_gets_a_typed_error(result: tle.EmergenceResult, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ResultFileError, match="cannot write"):
        result.save(tmp_path)


def test_the_data_frame_has_a_row_for_every_run_cell_and_metric(comparison: tle.SpaceComparison) -> None:
    frame = comparison.to_dataframe()
    # spaces x sigmas x (model and two controls) x layers x positions x metrics
    assert len(frame) == 2 * 2 * 3 * toys.N_LAYERS * 3 * 3
    assert list(frame.columns[:19]) == [
        "model", "model_note", "prompts", "prompts_hash", "n_prompts", "shots", "bos", "seed", "micro",
        "estimator", "options", "space", "sigma", "control", "layer", "pos", "label", "metric", "value",
    ]  # fmt: skip
    row = frame[
        (frame.space == "unit") & (frame.sigma == 0.25) & (frame.control == "model") & (frame.layer == 1)
        & (frame.pos == 2) & (frame.metric == "emergence")
    ]  # fmt: skip
    found = comparison["unit"][0.25]  # type: ignore[index]
    assert row.value.item() == float(found.emergence[1, 2])
    assert row.label.item() == "last" and row.exact.item() == float(found.exact.emergence[1, 2])


KEY = [
    "model", "model_note", "prompts", "prompts_hash", "n_prompts", "shots", "bos", "seed", "micro",
    "estimator", "options", "space", "sigma", "control", "layer", "pos", "metric",
]  # fmt: skip


def test_a_csv_file_gives_back_every_row_of_the_model_and_of_its_controls(
    comparison: tle.SpaceComparison,
) -> None:
    frame = comparison.to_dataframe()
    back = pd.read_csv(io.StringIO(frame.to_csv(index=False)))
    assert back.groupby("control").size().to_dict() == frame.groupby("control").size().to_dict()
    assert set(back["control"]) == {"model", "shuffled_weights", "shuffled_tokens"}
    assert len(back.groupby(KEY)) == len(frame)  # no key is lost, and none occurs twice
    assert set(back["model_note"]) == {"none"} and set(back["shots"]) == {0}


def test_rows_of_different_calls_have_different_keys(toy: Any) -> None:
    def rows(prompts: Any, **settings: Any) -> pd.DataFrame:
        settings = {"space": "unit", "positions": [2], "layers": [1], "prepend_bos": False, **settings}
        return tle.information_emergence(toy, prompts, **settings).to_dataframe()

    calls = [
        rows(toys.TOKENS),
        rows(toys.TOKENS, seed=1),
        rows(toys.TOKENS, micro="first"),
        rows(toys.TOKENS, draws=5),
        rows(toys.TOKENS, prepend_bos=True, bos_token_id=1),
        rows(toys.TOKENS, estimator="exact"),
        rows(toys.TOKENS.flip(0)),
        rows(toys.TOKENS[:6]),
    ]
    assert not pd.concat(calls).duplicated(KEY).any()
    assert [bool(call["bos"].all()) for call in calls] == [False] * 4 + [True] + [False] * 3
    assert calls[-1]["n_prompts"].tolist() == [6] * 3
    assert calls[3]["options"].tolist() == ["draws=5"] * 3


def test_demonstrations_tell_their_shots(toy: Any, tokenizer: Any) -> None:
    prompts = tle.prompts.demonstrations("color", tokenizer, shots=2, n=8)
    found = tle.information_emergence(toy, prompts, space="unit", layers=[1], prepend_bos=False)
    assert set(found.to_dataframe()["shots"]) == {2}


def test_the_summary_says_what_was_measured_and_what_limits_it(result: tle.EmergenceResult) -> None:
    text = result.summary()
    for part in (
        "on toy list: 8 prompts x 3 tokens",
        "noise information at sigma 0.25 in space 'unit'",
        "cap 3.00 bits",
        "at N = 4",
        "weight-shuffled",
        "is not expected to be 0: its own exact value",
        "compare at equal N only",
        "bounds nothing",
    ):
        assert part in text
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.lstrip().startswith("block"))
    assert [line.split()[0] for line in lines[start + 1 : start + 1 + toys.N_LAYERS]] == ["0", "1"]


def test_the_notebook_view_is_a_table_and_escapes_its_text(toy: Any) -> None:
    named = from_tokens(toys.TOKENS, labels=["a", "b", "<script>"])
    page = tle.information_emergence(toy, named, space="unit")._repr_html_()
    assert page.count("<tr>") == 1 + toys.N_LAYERS
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "No control was run" in page


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (5.31234, 0.0213, "5.312 ± 0.021"),
        (5.3, 0.0, "5.300"),
        (5.3, 1e-9, "5.300 ± 0.000"),
        (12.3, 2.5, "12.3 ± 2.5"),
    ],
)
def test_values_are_rounded_by_their_error(value: float, error: float, shown: str) -> None:
    assert with_error(value, error) == shown


def test_files_have_the_permissions_that_the_umask_gives_and_leftovers_are_swept(
    result: tle.EmergenceResult, tmp_path: Path
) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    for name in ("result.json", "result-0123456789abcdef.safetensors"):
        for process in (dead.pid, os.getpid()):
            (tmp_path / f".{name}.{files._host()}-{process}.01234567").write_text("not finished")
        (tmp_path / f".{name}.89abcdef-{dead.pid}.01234567").write_text("of another machine")
    (tmp_path / ".results-notes").write_text("the user's own")
    (tmp_path / "plain").write_text("")
    result.save(tmp_path)
    left = {path.name for path in tmp_path.glob(".*")}
    assert len(left) == 6 and {".results-notes", ".lock"} < left
    assert not [name for name in left if f"-{dead.pid}." in name and files._host() in name]
    wanted = (tmp_path / "plain").stat().st_mode
    assert all(path.stat().st_mode == wanted for path in tmp_path.iterdir() if path.name != ".lock")
