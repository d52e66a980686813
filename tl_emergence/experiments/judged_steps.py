"""Findings of `training`, from its tables alone. The paper makes no claim about training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tl_emergence.experiments.findings import Finding, interval
from tl_emergence.experiments.result import Conclusion

if TYPE_CHECKING:
    import pandas as pd


def findings(tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield emergence at the last position at every checkpoint."""
    for row in tables["checkpoints"].to_dict("records"):
        yield Finding(
            claim="positive", quantity="emergence", **interval(row["value"], row["stderr"]),
            exact=row["exact"], model=row["model"], run=row["run"], space=row["space"],
            checkpoint=row["checkpoint"], n=settings["n"], sigma=settings["sigma"],
            estimator=settings["estimator"], place="position",
        )  # fmt: skip


def conclusions(tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> Iterator[Conclusion]:
    """Yield nothing: a curve over training bears on no claim of the paper."""
    yield from ()
