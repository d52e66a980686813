"""What has to be true of the estimates: counts, and PASS, FAIL or INCOMPLETE."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.accuracy.rows import ROUNDING_BITS, Row

Status = Literal["PASS", "FAIL", "INCOMPLETE"]

N = 10_000
"""Rows at which the gates on drawn samples hold."""

TASKS, TASKS_WANTED = 40, 28
LABEL_CASES, LABEL_CASES_CERTIFIED = 24, 16
DRAWS = 50
"""Draws that coverage is counted over, at least."""

_COVERAGE = 0.9
_NATS = 1 / math.log(2)


@dataclass(frozen=True)
class Gate:
    """A claim with its count.

    Attributes:
        claim: What is claimed, of each of the things counted.
        passed: Names of those of which it is true.
        failed: Names, with numbers, of those of which it is not.
        wanted: How many have to pass.
        needed: How many there are, measured or not.
    """

    claim: str
    passed: tuple[str, ...]
    failed: tuple[str, ...]
    wanted: int
    needed: int

    @property
    def status(self) -> Status:
        """FAIL as soon as too many failed, PASS as soon as enough passed, else INCOMPLETE."""
        if self.needed - len(self.failed) < self.wanted:
            return "FAIL"
        return "PASS" if len(self.passed) >= self.wanted else "INCOMPLETE"

    @property
    def measured(self) -> int:
        """How many were measured."""
        return len(self.passed) + len(self.failed)

    def __str__(self) -> str:
        missing = self.needed - self.measured
        unmeasured = f", {missing} of {self.needed} not measured" if missing else ""
        counts = f"{len(self.passed)} of {self.measured}, wanted {self.wanted} of {self.needed}{unmeasured}"
        return f"{self.status:10} {self.claim}: {counts}"


Judge = Callable[[Sequence[Row]], bool]


def gates(rows: Iterable[Row], needed_gaussian: int, needed_noise: int) -> list[Gate]:
    """Return every gate, for the rows of one seed.

    Args:
        rows: The measurements.
        needed_gaussian: How many multinormal cases there are.
        needed_noise: How many finite cases there are that `noise` is given.
    """
    rows = [row for row in rows if not row.message.startswith("not run")]
    tasks = [
        row for row in rows if row.estimator == "nce" and row.family == "benchmark_mi" and row.asked == N
    ]
    labels = [row for row in rows if row.estimator == "nce" and row.asked == N and is_label_16(row)]
    normal = [row for row in rows if row.estimator == "gaussian" and row.asked == N and is_multinormal(row)]
    points = [row for row in rows if row.estimator == "noise" and row.given.startswith("points")]
    informed = [row for row in labels if row.truth_bits > 2]
    return [
        _of_cases(
            f"gaussian: mean over {_draws(normal)} within 3 standard errors, multinormal, N = {N:,}",
            normal,
            mean_is_near,
            needed_gaussian,
        ),
        _of_cases(
            "noise: within 3 standard errors, finite sets",
            points,
            mean_is_near,
            needed_noise,
        ),
        _of_draws("gaussian: the 95 % interval covers, multinormal, draw by draw", normal),
        _of_draws("noise: the 95 % interval covers, finite sets, draw by draw", points),
        _of_cases(
            f"nce: within max(0.05 nats, 10 %), benchmark-mi, N = {N:,}",
            tasks,
            _each(lambda bits, row: abs(bits - row.truth_bits) <= max(0.05 * _NATS, 0.1 * row.truth_bits)),
            TASKS,
            TASKS_WANTED,
        ),
        _of_cases("nce: within 10 %, label-16 states", labels, _each(_within_a_tenth), LABEL_CASES),
        _of_cases(
            "nce: above the truth by 2 standard errors at most, label-16 states",
            labels,
            _each(lambda bits, row: bits <= row.truth_bits + 2 * (row.stderr or 0.0)),
            LABEL_CASES,
        ),
        _of_cases(
            "nce: under 30 seconds, label-16 states",
            labels,
            _each(lambda _, row: row.seconds is not None and row.seconds < 30),
            LABEL_CASES,
        ),
        _of_cases(
            "nce: certified at least half of the truth, label-16 states of 2.5 and 4 bits",
            informed,
            _each(lambda _, row: (row.certified_bits or 0.0) >= 0.5 * row.truth_bits),
            LABEL_CASES_CERTIFIED,
        ),
        _of_cases(
            "nce: the certified limit is not above the truth, label-16 states",
            labels,
            _each(lambda _, row: bool(row.certificate_holds)),
            LABEL_CASES,
            math.ceil(_COVERAGE * LABEL_CASES),
        ),
    ]


def is_label_16(row: Row) -> bool:
    """Whether the case is states of a model that share one of 16 labels."""
    return row.family == "model_states" and row.case.startswith("label-16")


def is_multinormal(row: Row) -> bool:
    """Whether x and y of the case are jointly Gaussian and vary."""
    of_controls = row.case.startswith(
        ("independent Gaussians", "an empty dim", "the shared dim", "a shared dim")
    )
    of_tasks = row.case.startswith(("multinormal", "1v1-normal"))
    return {"gaussian": True, "negative_control": of_controls, "benchmark_mi": of_tasks}.get(
        row.family, False
    )


def mean_is_near(rows: Sequence[Row]) -> bool:
    """Whether the mean over draws is within three of its standard errors of the truth.

    The standard error is that of the spread over draws; of a single draw, its own. A refusal is not near.
    """
    mean, stderr = mean_of(rows)
    return mean is not None and abs(mean - rows[0].truth_bits) <= 3 * stderr + ROUNDING_BITS


def mean_of(rows: Sequence[Row]) -> tuple[float | None, float]:
    """Return the mean over draws and its standard error; None where one of them is a refusal."""
    values = [row.bits for row in rows if row.bits is not None]
    if len(values) < len(rows):
        return None, math.nan
    if len(values) == 1:
        return values[0], rows[0].stderr or 0.0
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def with_error(bits: float, stderr: float) -> str:
    """Return a value and its error with enough digits to see the error."""
    digits = 3 if stderr >= 1e-3 else 5
    return f"{bits:.{digits}f} ± {stderr:.{digits}f}"


def by_case(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Group by family and case."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.family, row.case), []).append(row)
    return found


def _draws(rows: Sequence[Row]) -> str:
    """Return how many draws the cases have: those with many first."""
    counts = Counter(len(group) for group in by_case(rows).values())
    said = [f"{draws} ({cases} cases)" for draws, cases in sorted(counts.items(), reverse=True)]
    return f"draws: {' or '.join(said)}" if said else "draws"


def _each(judge: Callable[[float, Row], bool]) -> Judge:
    """Return what is true where `judge` is of every row, and false of a refusal."""
    return lambda rows: all(row.bits is not None and judge(row.bits, row) for row in rows)


def _within_a_tenth(bits: float, row: Row) -> bool:
    return abs(bits - row.truth_bits) <= 0.1 * row.truth_bits


def _of_cases(claim: str, rows: Iterable[Row], judge: Judge, needed: int, wanted: int | None = None) -> Gate:
    passed, failed = [], []
    for (_, case), group in by_case(rows).items():
        (passed if judge(group) else failed).append(case if judge(group) else _told(case, group))
    needed = max(needed, len(passed) + len(failed))  # cases of arrays that are not on this machine
    return Gate(claim, tuple(passed), tuple(failed), needed if wanted is None else wanted, needed)


def _of_draws(claim: str, rows: Iterable[Row]) -> Gate:
    """Return the gate that nine in ten intervals, of all cases together and 50 or more, hold the truth."""
    passed, failed = [], []
    for row in rows:
        (passed if row.covers else failed).append(f"{row.case}, draw {row.repeat}")
    needed = max(DRAWS, len(passed) + len(failed))
    return Gate(claim, tuple(passed), tuple(failed), math.ceil(_COVERAGE * needed), needed)


def _told(case: str, rows: Sequence[Row]) -> str:
    mean, stderr = mean_of(rows)
    if mean is None:
        return f"{case}: {next(row.message for row in rows if row.bits is None)}"
    draws = f", {len(rows)} draws" if len(rows) > 1 else ""
    certified, seconds, cpu = rows[0].certified_bits, rows[0].seconds, rows[0].cpu_seconds
    limit = "" if certified is None else f", certified {certified:.3f}"
    wall = "" if seconds is None else f", {seconds:.1f} s"
    processor = "" if cpu is None else f" ({cpu:.1f} s of processor)"
    return (
        f"{case}: {with_error(mean, stderr)} of {rows[0].truth_bits:.4f} bits{draws}{limit}{wall}{processor}"
    )
