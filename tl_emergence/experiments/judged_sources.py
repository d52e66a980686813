"""Findings and verdict of `text_sources`, from its tables alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tl_emergence.experiments import because
from tl_emergence.experiments.claims import LEAST_WRITER, Verdict
from tl_emergence.experiments.findings import Finding, interval
from tl_emergence.experiments.result import Conclusion

if TYPE_CHECKING:
    import pandas as pd

HUMAN = "human"
"""The source that the others are compared with."""

Row = Mapping[str, Any]


def findings(tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield emergence of every source, and its difference from that of the human text."""
    by = {"sigma": settings["sigma"], "estimator": settings["estimator"], "n": settings["n"]}
    rows = _rows(tables)

    def about(row: Row) -> dict[str, Any]:
        return {
            "claim": "text sources", "model": settings["reader"], "run": row["run"], "space": row["space"],
            "source": row["source"], "matched": row["how"] == "matched", "place": "token",
            "first": settings["n_tokens"], "last": settings["n_tokens"], **by,
        }  # fmt: skip

    for row in rows:
        if row["run"] == "model":
            error = float(np.hypot(row["stderr"], row["sampling error"]))
            yield Finding(
                quantity="emergence", **interval(row["value"], error), exact=row["exact"],
                beside={"token entropy": row["token entropy"]}, **about(row),
            )  # fmt: skip
    for row in _differences(rows):
        yield Finding(
            quantity="emergence_difference", **interval(row["difference"], row["error"]),
            exact=row["exact difference"], against=HUMAN, **about(row),
        )  # fmt: skip
        yield Finding(
            quantity="emergence_difference_beyond_exact",
            **interval(row["beyond exact"], row["error beyond exact"]), against=HUMAN, **about(row),
        )  # fmt: skip


def _rows(tables: Mapping[str, pd.DataFrame]) -> list[Row]:
    return [{str(name): value for name, value in row.items()} for row in tables["sources"].to_dict("records")]


def _differences(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield source - human, for each source, matching, space and run."""
    human = {(row["how"], row["space"], row["run"]): row for row in rows if row["source"] == HUMAN}
    for row in rows:
        if row["source"] != HUMAN:
            base = human[row["how"], row["space"], row["run"]]
            whole, beyond = (
                float(np.linalg.norm([one[name] for one in (row, base) for name in ("stderr", sampling)]))
                for sampling in ("sampling error", "sampling error beyond exact")
            )
            exact = row["exact"] - base["exact"]
            difference = row["value"] - base["value"]
            yield {
                **row, "difference": difference, "error": whole, "exact difference": exact,
                "beyond exact": difference - exact, "error beyond exact": beyond,
            }  # fmt: skip


def _sign(value: float, error: float) -> int:
    """Return 1 or -1 for a difference whose interval excludes 0, else 0."""
    return int(np.sign(value)) if abs(value) > 1.96 * error else 0


def conclusions(tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> Iterator[Conclusion]:
    """Yield the verdict on "text sources", over the sources that the claim is about."""
    rows = _rows(tables)
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for row in _differences(rows):
        if row["run"] == "model":
            cell = cells.setdefault(
                (row["source"], row["space"]), {"source": row["source"], "space": row["space"]}
            )
            if row["how"] == "matched":  # there the exact values agree, but for what is left of them
                cell["beyond exact"] = row["beyond exact"]
                cell["matched"] = _sign(row["beyond exact"], row["error beyond exact"])
            else:
                cell["unmatched"] = _sign(row["difference"], row["error"])
    writers = {
        row["source"]: None if math.isnan(row["parameters"]) else float(row["parameters"])
        for row in rows
        if row["source"] != HUMAN
    }
    # Of texts that were given, only the caller knows who wrote them.
    large = [name for name, size in writers.items() if size is None or size >= LEAST_WRITER]
    verdict = sources_rule([cell for cell in cells.values() if cell["source"] in large])
    said = because.sources(list(cells.values()), writers, large)
    yield Conclusion("text sources", verdict, said, settings["estimator"], settings["sigma"])


def sources_rule(of: Sequence[Row]) -> Verdict:
    """Judge "higher than human text" by the signs of differences, unmatched and matched."""
    up = sum(row["matched"] > 0 for row in of)
    if not up and not any(row["unmatched"] for row in of):
        return "cannot be tested here"  # no source that the claim is about, or nothing resolved
    return "holds" if up == len(of) else "holds partly" if up else "does not hold"
