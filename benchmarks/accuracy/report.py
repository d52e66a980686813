"""The table, the summary in the README, and the gates as they are printed."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from benchmarks.accuracy.figure import draw
from benchmarks.accuracy.gates import Gate, by_case, gates, is_multinormal, mean_of, with_error
from benchmarks.accuracy.measure import MOST_POINTS
from benchmarks.accuracy.rows import Row
from benchmarks.known_answers import FAMILIES, Case, cases

README = Path(__file__).parents[1] / "README.md"
_BEGIN, _END = "<!-- accuracy: begin -->", "<!-- accuracy: end -->"


def report(rows: Sequence[Row], folder: Path) -> int:
    """Write accuracy.md and accuracy.png for some rows, print the gates, return 1 if one failed."""
    if not rows:
        print("no rows of that seed and size")
        return 0
    found = gates(rows, *_how_many_cases())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "accuracy.md").write_text(page(rows, found), encoding="utf-8")
    draw(rows).savefig(folder / "accuracy.png", dpi=110)
    for gate in found:
        print(gate)
        for name in gate.failed:
            print(f"             {name}")
    return int(any(gate.status == "FAIL" for gate in found))


def _how_many_cases() -> tuple[int, int]:
    """Return how many multinormal cases there are, and how many finite ones that `noise` is given."""
    every = [case for family in FAMILIES for case in _made(family)]
    normal = sum(is_multinormal(Row(c.family, c.name, "gaussian", 0, 0, 0, "", 0, 0.0)) for c in every)
    return normal, sum(_points(case) <= MOST_POINTS for case in every if case.finite)


def _points(case: Case) -> int:
    """Return how many points a finite case has: without noise, as many as its bits say."""
    if case.sigma == 0:
        return round(2**case.truth_bits)
    assert case.points is not None
    return len(case.points()[0])


def _made(family: str) -> list[Case]:
    try:
        return cases(family)
    except FileNotFoundError:
        return []


def page(rows: Sequence[Row], found: Sequence[Gate]) -> str:
    """Return the whole page: gates, summary, and every case."""
    return "\n".join(
        [
            "# Estimates against known answers",
            "",
            f"Seed {_joined(row.seed for row in rows)}. Written by `python -m benchmarks.accuracy`; "
            "single draws are in `accuracy.csv`.",
            f"Seconds on {platform.machine()}, torch {torch.__version__}, "
            f"{_joined(row.threads for row in rows)} thread(s).",
            "",
            "## Gates",
            "",
            gate_table(found),
            "",
            "## Summary",
            "",
            summary_table(rows),
            "",
            "## Every case",
            "",
            "Bits: the mean over draws, and its standard error. Covers: the draws whose 95 % interval holds",
            "the truth. Certified: the lower confidence limit of nce.",
            "",
            case_table(rows),
            "",
        ]
    )


def gate_table(found: Iterable[Gate]) -> str:
    """Return the gates with their counts."""
    lines = ["| gate | passed | wanted | of | |", "|---|---|---|---|---|"]
    for gate in found:
        passed = f"{len(gate.passed)} of {gate.measured}"
        lines.append(f"| {gate.claim} | {passed} | {gate.wanted} | {gate.needed} | {gate.status} |")
    return "\n".join(lines)


def summary_table(rows: Iterable[Row]) -> str:
    """Return a line for each family, estimator and what it was given."""
    lines = [
        "| family | estimator, given | cases | no answer | median error, bits | worst | covers "
        "| certificate holds | median s | of processor |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (family, estimator, given), group in _grouped(
        rows, lambda row: (row.family, row.estimator, _short(row.given))
    ).items():
        answered = [row for row in group if row.bits is not None]
        errors = [abs(row.error_bits) for row in answered if row.error_bits is not None]
        worst = max(answered, key=lambda row: abs(row.error_bits or 0.0), default=None)
        cells = [
            family,
            f"{estimator}, {given}",
            str(len(by_case(group))),
            str(len(by_case(row for row in group if row.bits is None)) or ""),
            f"{statistics.median(errors):.3f}" if errors else "",
            f"{worst.error_bits:+.3f} ({worst.case})" if worst else "",
            _share(row.covers for row in answered),
            _share(row.certificate_holds for row in answered),
            _median(row.seconds for row in answered),
            _median(row.cpu_seconds for row in answered),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def case_table(rows: Iterable[Row]) -> str:
    """Return a line for each case, estimator and number of rows."""
    lines = [
        "| case | estimator, given | rows | truth | bits | error | covers | certified | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (family, case, estimator, given, n), group in _grouped(
        rows, lambda row: (row.family, row.case, row.estimator, row.given, f"{row.n:,}")
    ).items():
        mean, stderr = mean_of(group)
        truth = group[0].truth_bits
        start = f"| {family}: {case} | {estimator}, {given} | {n} | {truth:.3f} "
        if mean is None:
            lines.append(f"{start}| {next(row.message for row in group if row.bits is None)} | | | | |")
            continue
        certified = [row.certified_bits for row in group if row.certified_bits is not None]
        limit = f"{statistics.fmean(certified):.3f}" if certified else ""
        seconds = statistics.fmean(row.seconds or 0.0 for row in group)
        lines.append(
            f"{start}| {with_error(mean, stderr)} | {mean - truth:+.3f} "
            f"| {_share(row.covers for row in group)} | {limit} | {seconds:.2g} |"
        )
    return "\n".join(lines)


def chosen(rows: Iterable[Row], seed: int, n: int) -> list[Row]:
    """Return the rows of a seed and of a number of rows asked for; all points count as any number."""
    return [row for row in rows if row.seed == seed and row.asked in (n, 0)]


def insert_in_readme(rows: Sequence[Row], readme: Path = README) -> None:
    """Put gates and summary between the two marks of the README."""
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(_BEGIN)
    after = rest.split(_END)[1]
    tables = f"{gate_table(gates(rows, *_how_many_cases()))}\n\n{summary_table(rows)}"
    readme.write_text(f"{before}{_BEGIN}\n{tables}\n{_END}{after}", encoding="utf-8")


def _grouped(rows: Iterable[Row], by: Callable[[Row], tuple[str, ...]]) -> dict[tuple[str, ...], list[Row]]:
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(by(row), []).append(row)
    order = list(FAMILIES)
    return dict(sorted(found.items(), key=lambda item: order.index(item[0][0])))


def _short(given: str) -> str:
    return given.split(",")[0] if given.startswith("points") else given


def _median(values: Iterable[float | None]) -> str:
    said = [value for value in values if value is not None]
    return f"{statistics.median(said):.2g}" if said else ""


def _share(values: Iterable[bool | None]) -> str:
    said = [value for value in values if value is not None]
    return f"{sum(said)}/{len(said)}" if said else ""


def _joined(values: Iterable[object]) -> str:
    return ", ".join(map(str, sorted(set(values), key=str)))
