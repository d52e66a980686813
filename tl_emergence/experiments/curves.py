"""Curves over positions: the mean over blocks of emergence or macro, with its exact value and its error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tl_emergence.results import AnyResult, EmergenceResult
from tl_emergence.selection import singles

if TYPE_CHECKING:
    import pandas as pd

QUANTITIES = ("emergence", "macro")
EXACT = "exact"
"""The name under which exact curves stand among the runs: those of a network read without noise."""
ROUNDING = 1e-9
"""Bits: exact values that lie nearer to each other are the same number."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A quantity over positions, in bits, the mean over blocks 1 and up.

    Block 0 reads the bare embedding: there macro is micro, for any model. The error is the mean of the
    blocks' errors: what it would be if they all erred together, and so never too small.
    """

    values: np.ndarray
    stderr: np.ndarray
    exact: np.ndarray

    def rise(self, t: int) -> tuple[float, float]:
        """Return value(t) - value(t - 1) and its standard error, the two errors taken for independent."""
        change = float(self.values[t] - self.values[t - 1])
        return change, float(np.hypot(self.stderr[t], self.stderr[t - 1]))

    def change(self, first: int, last: int) -> tuple[float, float]:
        """Return value(last) - value(first) and its standard error, the two errors taken for independent."""
        change = float(self.values[last] - self.values[first])
        return change, float(np.hypot(self.stderr[last], self.stderr[first]))

    def surely_rises(self, t: int) -> bool:
        """Return whether the rise at t exceeds 1.96 of its standard errors (and rounding)."""
        change, error = self.rise(t)
        return change - 1.96 * error > ROUNDING

    def surely_falls(self, t: int) -> bool:
        """Return whether the fall at t exceeds 1.96 of its standard errors (and rounding)."""
        change, error = self.rise(t)
        return change + 1.96 * error < -ROUNDING

    def as_exact(self) -> Curve:
        """Return the exact curve as if it had been measured, without error."""
        return replace(self, values=self.exact, stderr=np.zeros_like(self.exact))


def curve(result: EmergenceResult, quantity: str = "emergence") -> Curve:
    """Return the curve of a result over its positions."""
    rows = [i for i, layer in enumerate(result.layers) if layer > 0] or list(range(len(result.layers)))
    errors = result.stderr if quantity == "emergence" else result.macro_stderr
    value, exact = getattr(result, quantity), getattr(result.exact, quantity)
    return Curve(*(x[rows].mean(dim=0).numpy() for x in (value, errors, exact)))


def runs(result: AnyResult) -> Iterator[tuple[str, str, EmergenceResult]]:
    """Yield (space, run, result) of every space, for the model and for each control."""
    for one in singles(result):
        yield one.space, "model", one
        for name, control in one.controls.items():
            yield one.space, name, control


def curve_rows(result: AnyResult, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return tidy rows: what `about` says, space, run, pos, label, quantity, value, stderr, exact, cap."""
    rows = []
    for space, run, one in runs(result):
        for quantity in QUANTITIES:
            found = curve(one, quantity)
            for k, (pos, label) in enumerate(zip(one.positions, one.labels, strict=True)):
                numbers = {
                    "value": float(found.values[k]),
                    "stderr": float(found.stderr[k]),
                    "exact": float(found.exact[k]),
                    "cap": float("nan") if one.cap_bits is None else one.cap_bits,
                }
                place = {"space": space, "run": run, "pos": pos, "label": label, "quantity": quantity}
                rows.append({**about, **place, **numbers})
    return rows


def curves_by(
    table: pd.DataFrame, names: Sequence[str]
) -> dict[tuple[Any, ...], dict[str, dict[str, Curve]]]:
    """Return the curves of a table of `curve_rows`: by the values of some columns, by run, by quantity.

    Beside "model" and the controls stands the run "exact": the exact curve as if it had been measured.
    """
    found: dict[tuple[Any, ...], dict[str, dict[str, Curve]]] = {}
    columns = [*names, "run", "quantity"]
    for key, rows in table.groupby(columns, sort=False):
        *cell, run, quantity = cast("tuple[Any, ...]", key)
        values = Curve(*(rows[name].to_numpy(dtype=float) for name in ("value", "stderr", "exact")))
        runs = found.setdefault(tuple(cell), {})
        runs.setdefault(run, {})[quantity] = values
        if run == "model":
            runs.setdefault(EXACT, {})[quantity] = values.as_exact()
    return found


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return rows as a data frame."""
    import pandas as pd

    return pd.DataFrame(rows)


def chosen(table: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """Return the rows in which every column named has the value given."""
    for column, value in wanted.items():
        table = cast("pd.DataFrame", table[table[column] == value])
    return table
