"""One row a measurement, in a CSV file that grows by a line each time and can be gone on with."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

Key = tuple[str, str, str, int, int, int, str]

ROUNDING_BITS = 1e-4
"""Estimates are float32 sums, the same to this many bits on any number of threads: no error is smaller."""


@dataclass(frozen=True)
class Row:
    """What one estimator said about one draw of one case.

    Attributes:
        family: Family of the case.
        case: Its name.
        estimator: Name of the estimator.
        seed: The seed asked for.
        repeat: Which draw of that seed.
        asked: Rows asked for; 0 where it was given all points.
        given: What the estimator was given: draws or points, noise level, settings.
        n: Rows that it was given.
        truth_bits: The known answer.
        bits: The estimate; None where it refused or was not run.
        stderr: Its standard error.
        certified_bits: Its lower confidence limit, where it proves one.
        cap_bits: What it cannot exceed.
        seconds: Wall-clock time: what else runs on the machine adds to it.
        cpu_seconds: Processor time of this process, over all threads.
        threads: Threads that torch used.
        message: Why there is no estimate.
    """

    family: str
    case: str
    estimator: str
    seed: int
    repeat: int
    asked: int
    given: str
    n: int
    truth_bits: float
    bits: float | None = None
    stderr: float | None = None
    certified_bits: float | None = None
    cap_bits: float | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    threads: int = 1
    message: str = ""

    @property
    def key(self) -> Key:
        """What makes it the same measurement."""
        return self.family, self.case, self.estimator, self.seed, self.repeat, self.asked, self.given

    @property
    def error_bits(self) -> float | None:
        """Estimate minus truth."""
        return None if self.bits is None else self.bits - self.truth_bits

    @property
    def covers(self) -> bool | None:
        """Whether the 95 % interval holds the truth."""
        if self.bits is None or self.stderr is None:
            return None
        return abs(self.bits - self.truth_bits) <= 1.96 * self.stderr + ROUNDING_BITS

    @property
    def certificate_holds(self) -> bool | None:
        """Whether the truth is not below the certified limit."""
        return None if self.certified_bits is None else self.certified_bits <= self.truth_bits


_DERIVED = ("error_bits", "covers", "certificate_holds")
_STORED = [field.name for field in fields(Row)]
_WHOLE, _REAL = (
    {"seed", "repeat", "asked", "n", "threads"},
    {
        "truth_bits",
        "bits",
        "stderr",
        "certified_bits",
        "cap_bits",
        "seconds",
        "cpu_seconds",
    },
)


def append_row(file: Path, row: Row) -> None:
    """Add a row by a single write, with a header to a new file; a torn last line is cut off first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    _cut_torn_line(file)
    lines = [] if file.is_file() and file.stat().st_size else [[*_STORED, *_DERIVED]]
    lines.append([*_texts(astuple(row)), *_texts(getattr(row, name) for name in _DERIVED)])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    target = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(target, text.getvalue().encode())
        os.fsync(target)
    finally:
        os.close(target)


def read_rows(file: Path) -> list[Row]:
    """Return the rows of a file, the last of each key and no torn line; none where there is no file."""
    if not file.is_file():
        return []
    content = file.read_text(encoding="utf-8")
    whole = content[: content.rfind("\n") + 1]
    rows = (Row(**_values(line)) for line in csv.DictReader(io.StringIO(whole)))
    return list({row.key: row for row in rows}.values())


def _cut_torn_line(file: Path) -> None:
    if file.is_file() and not (content := file.read_bytes()).endswith(b"\n") and content:
        os.truncate(file, content.rfind(b"\n") + 1)


def _texts(values: Iterable[object]) -> list[str]:
    return ["" if value is None else " ".join(str(value).split()) for value in values]


def _values(line: dict[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in _STORED:
        text = line[name]
        if name in _WHOLE:
            values[name] = int(text)
        elif name in _REAL:
            values[name] = float(text) if text else None
        else:
            values[name] = text
    return values
