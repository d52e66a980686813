"""REPRODUCTION.md is what the saved experiments say, row for row."""

from __future__ import annotations

import pytest

from benchmarks.reproduction import FIGURES, KEPT, PAGE, load_all, page
from tl_emergence.experiments import CLAIMS


def test_the_page_is_written_from_the_saved_results_and_holds_every_claim() -> None:
    results = load_all()
    assert PAGE.read_text(encoding="utf-8") == page(results)
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert all(any(line.startswith(f"| {said} |") for line in rows) for said in CLAIMS.values())
    assert all((FIGURES / f"{name}.png").stat().st_size < 300_000 for name in results)


def test_a_changed_finding_changes_the_page() -> None:
    from dataclasses import replace

    results = load_all()
    shots = results["shots"]
    other = replace(shots.findings[0], value=shots.findings[0].value + 1)
    assert page({**results, "shots": replace(shots, findings=(other, *shots.findings[1:]))}) != page(results)


def test_saved_results_are_small() -> None:
    files = [path for path in KEPT.rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) < 1_000_000
    assert sum(path.stat().st_size for path in files) < 8_000_000
    if not files:
        pytest.fail("no saved results")
