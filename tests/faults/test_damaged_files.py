"""Damaged files give a typed error, the value as it was, or a new measurement; never another number."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import jobs
from tests.faults.counts import count, report
from tests.faults.damage import damage, disguised, fresh_copy
from tl_emergence.errors import EmergenceError

N_SAVED = {"result": count(24, 400), "comparison": count(24, 400), "effects": count(24, 400),
           "report": count(24, 400), "experiment": count(24, 400)}  # fmt: skip
N_DISGUISED = count(24, 300)
N_KEPT = count(3, 300)

KEPT = {
    "emergence in a work folder": {
        "request": "run.json",
        "parts": "parts/*.safetensors",
        "journals": "states-*/journal.jsonl",
        "states": "states-*/*.states",
    },
    "ablation in a work folder": {"request": "run.json", "parts": "parts/*.safetensors"},
    "experiment in a work folder": {
        "request": "run.json",
        "records": "parts/*/kept.json",
        "descriptions": "parts/*/result.json",
        "parts": "parts/*/*.safetensors",
    },
}
"""The files of every kind of work folder."""


@pytest.fixture(scope="module")
def outcomes() -> Iterator[Counter[str]]:
    outcomes: Counter[str] = Counter()
    yield outcomes
    report("damaged files", outcomes)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("kind", list(jobs.MADE))
def test_a_damaged_result_is_an_error_or_the_result_that_was_saved(
    kind: str, outcomes: Counter[str], tmp_path: Path
) -> None:
    generator = random.Random(kind)
    for which in ("old", "new"):
        jobs.save(kind, which, tmp_path / which)
    whole = jobs.digest(jobs.load(kind, tmp_path / "new"))
    for k in range(N_SAVED[kind]):
        folder = fresh_copy(tmp_path / "new", tmp_path / "damaged")
        read_back = [p for p in sorted(folder.rglob("*")) if p.suffix in (".json", ".safetensors")]
        path = generator.choice(read_back)
        others = [*sorted((tmp_path / "old").rglob(f"*{path.suffix}")), *read_back]
        how = damage(path, others, generator)
        try:
            found = jobs.digest(jobs.load(kind, folder))
        except EmergenceError:
            outcomes["typed errors"] += 1
        else:
            # A whole description of the old result is the old result, where its tensors are there.
            assert found == whole, f"mutation {k}: {path.name}: {how}"
            outcomes["values as they were"] += 1


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("kind", list(jobs.MADE))
def test_values_that_do_not_fit_are_refused_on_load_also_where_checksums_do(
    kind: str, outcomes: Counter[str], tmp_path: Path
) -> None:
    generator = random.Random(kind)
    stem = {"comparison": "result"}.get(kind, kind)
    jobs.save(kind, "new", tmp_path / "new")
    for k in range(N_DISGUISED):
        folder = fresh_copy(tmp_path / "new", tmp_path / "damaged")
        how = disguised(folder, stem, generator)
        try:
            found = jobs.load(kind, folder)
            found.summary()
            found.to_dataframe()
            repr(found)
        except EmergenceError:
            outcomes["typed errors"] += 1
        except Exception as error:
            raise AssertionError(f"mutation {k}: {how}") from error
        else:
            outcomes["other words or numbers, with a checksum that says so"] += 1


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("kind", "files"), [(kind, files) for kind, of_kind in KEPT.items() for files in of_kind]
)
def test_a_damaged_work_folder_is_an_error_or_measured_again(
    kind: str, files: str, outcomes: Counter[str], tmp_path: Path
) -> None:
    generator = random.Random(f"{kind}, {files}")
    whole = jobs.digest(jobs.RUNS[kind](tmp_path / "whole"))
    for k in range(N_KEPT):
        folder = fresh_copy(tmp_path / "whole", tmp_path / "damaged")
        paths = sorted(folder.glob(KEPT[kind][files]))
        path = generator.choice(paths)
        how = damage(path, [p for p in paths if p != path], generator)
        try:
            found = jobs.digest(jobs.RUNS[kind](folder))
        except EmergenceError:
            outcomes["typed errors"] += 1
        else:
            assert found == whole, f"mutation {k}: {path.relative_to(folder)}: {how}"
            outcomes["same numbers, kept or measured again"] += 1
