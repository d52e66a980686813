"""A process that is killed, or whose disk is full, at any file operation: nothing is lost or wrong."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import jobs
from tests.faults.counts import count, report
from tests.faults.forking import Forks

FAULTS = ("kill", "full")
N_SAVES, N_RUNS = count(16, 10**6), count(6, 280)  # long: every operation of a save


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as forks:
        yield forks


@pytest.fixture(scope="module")
def outcomes() -> Iterator[Counter[str]]:
    outcomes: Counter[str] = Counter()
    yield outcomes
    report("kills and full disks", outcomes)


def sampled(cases: list[Any], n: int) -> list[Any]:
    return cases if n >= len(cases) else random.Random(0).sample(cases, n)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def fails_as_it_should(found: dict[str, Any], fault: str) -> None:
    """A kill kills; a full disk is a typed error, or comes too late to matter."""
    if fault == "kill":
        assert found["outcome"] == "killed", found
    else:
        assert found["outcome"] == "done" or found.get("typed"), found.get("trace")


def test_a_save_that_is_stopped_anywhere_leaves_the_old_result_or_the_new_one(
    forks: Forks, outcomes: Counter[str], tmp_path: Path
) -> None:
    cases, whole, files = [], {}, {}
    for kind in jobs.MADE:
        for which in ("old", "new"):
            clean = tmp_path / f"{kind}-{which}"
            clean.mkdir()
            whole[kind, which] = forks.do(which, kind, clean)["digest"]
            assert forks.do("load", kind, clean)["digest"] == whole[kind, which], kind
        over = tmp_path / f"{kind}-over"
        shutil.copytree(tmp_path / f"{kind}-old", over)
        n_operations = forks.do("new", kind, over)["operations"]
        files[kind] = names(over)
        assert n_operations > 3
        cases += [(kind, at, fault, replaces) for at in range(n_operations) for fault in FAULTS
                  for replaces in (True, False)]  # fmt: skip
    for k, (kind, at, fault, replaces) in enumerate(sampled(cases, N_SAVES)):
        folder = tmp_path / f"case-{k}"
        if replaces:
            shutil.copytree(tmp_path / f"{kind}-old", folder)
        else:
            folder.mkdir()
        stopped = forks.do("new", kind, folder, at=at, fault=fault)
        if stopped["outcome"] == "done" and fault == "kill":
            continue  # a first save has fewer operations than one that replaces
        fails_as_it_should(stopped, fault)
        left = forks.do("load", kind, folder)
        held = [whole[kind, "new"], *([whole[kind, "old"]] if replaces else [])]
        if replaces or left["outcome"] == "done":
            assert left.get("digest") in held, (kind, at, fault, left)
            outcomes["new result" if left["digest"] == held[0] else "old result"] += 1
        else:
            assert left["error"] == "ResultFileError", left["trace"]
            outcomes["no result yet"] += 1
        assert forks.do("new", kind, folder)["digest"] == whole[kind, "new"]
        assert forks.do("load", kind, folder)["digest"] == whole[kind, "new"]
        # A kill between the new description and the removal of the old files leaves these, whole.
        left_behind = set(names(folder)) - set(files[kind]) - set(names(tmp_path / f"{kind}-old"))
        assert not left_behind, (kind, at, fault, left_behind)
        shutil.rmtree(folder)


def test_a_run_that_is_stopped_anywhere_goes_on_to_the_same_numbers(
    forks: Forks, outcomes: Counter[str], tmp_path: Path
) -> None:
    cases, whole, files = [], {}, {}
    for kind in jobs.RUNS:
        clean = tmp_path / kind
        done = forks.do("run", kind, clean)
        whole[kind], files[kind] = done["digest"], names(clean)
        assert forks.do("run", kind, clean)["digest"] == whole[kind]  # from what is kept
        cases += [(kind, at, fault) for at in range(done["operations"]) for fault in FAULTS]
    generator = random.Random(1)
    for k, (kind, at, fault) in enumerate(sampled(cases, N_RUNS)):
        folder = tmp_path / f"case-{k}"
        fails_as_it_should(forks.do("run", kind, folder, at=at, fault=fault), fault)
        # The run that goes on is killed too, where it gets that far.
        again = forks.do("run", kind, folder, at=generator.randrange(40), fault="kill")
        outcomes["went on to the same numbers"] += 1 + (again["outcome"] == "killed")
        finished = forks.do("run", kind, folder)
        assert finished.get("digest") == whole[kind], (kind, at, fault, finished)
        left_behind = set(names(folder)) - set(files[kind])
        assert not left_behind, (kind, at, fault, left_behind)
        shutil.rmtree(folder)
