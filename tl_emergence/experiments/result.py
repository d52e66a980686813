"""The result of an experiment: scores, tables, findings with intervals, and a verdict on each claim."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_emergence.errors import ResultFileError, SettingError, unknown_name
from tl_emergence.experiments.claims import CLAIMS, VERDICTS
from tl_emergence.files import exists, to_json, write_atomically
from tl_emergence.folders import read_folder, write_folder
from tl_emergence.results import AnyResult
from tl_emergence.saving import load_result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_HEAD = {"format": "tl_emergence experiment", "version": 2}
_NORMAL_95 = 1.959964
_COUNTED = ("shots", "tokens")


@dataclass(frozen=True)
class Finding:
    """One number that bears on a claim, with its interval of 95 %.

    Attributes:
        claim: Short name of the claim (a key of `CLAIMS`).
        where: Model, prompts, space, whatever tells it from its neighbours.
        what: What was measured, in words.
        value: The number.
        low: Lower end of its interval; NaN where there is none.
        high: Upper end.
        unit: What it is measured in.
    """

    claim: str
    where: str
    what: str
    value: float
    low: float = math.nan
    high: float = math.nan
    unit: str = "bits"

    def text(self) -> str:
        """Return the number with its interval and unit.

        Example:
            >>> Finding("positive", "toy", "emergence", 1.25, 1.0, 1.5).text()
            '1.25 [1.00, 1.50] bits'
        """
        if math.isnan(self.value):
            return "not defined"
        interval = "" if math.isnan(self.low) else f" [{self.low:.2f}, {self.high:.2f}]"
        value = f"{self.value:g}" if self.unit in _COUNTED else f"{self.value:.2f}"
        return f"{value}{interval} {self.unit}".rstrip()


def with_error(claim: str, where: str, what: str, value: float, stderr: float, unit: str = "bits") -> Finding:
    """Return a finding whose interval is normal, of 95 %."""
    return Finding(claim, where, what, value, value - _NORMAL_95 * stderr, value + _NORMAL_95 * stderr, unit)


@dataclass(frozen=True)
class Conclusion:
    """What an experiment says of a claim: one of `VERDICTS`, and why, in a sentence or two."""

    claim: str
    verdict: str
    because: str

    def __post_init__(self) -> None:
        for what, given, known in (("claim", self.claim, CLAIMS), ("verdict", self.verdict, VERDICTS)):
            if given not in known:
                raise unknown_name(what, given, list(known))


@dataclass(frozen=True, eq=False)
class ExperimentResult:
    """Everything an experiment measured and concluded; it needs no model to be read, drawn or judged.

    Attributes:
        name: The experiment's name, as on the command line.
        question: What it asks, in a sentence.
        parts: Emergence by what it was measured on; prompt-by-prompt values are left out.
        tables: Tidy data frames by name.
        findings: Numbers with intervals.
        conclusions: Verdicts on claims of the paper.
        settings: Everything else needed to repeat it: JSON values only.
    """

    name: str
    question: str
    parts: Mapping[str, AnyResult]
    tables: Mapping[str, pd.DataFrame]
    findings: tuple[Finding, ...]
    conclusions: tuple[Conclusion, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_dataframe(self) -> pd.DataFrame:
        """Return the rows of every part, as `EmergenceResult.to_dataframe`, its key in the column `part`.

        Raises:
            SettingError: A result that was saved without its parts.
        """
        from tl_emergence.tables import joined_rows

        if not self.parts:
            raise SettingError(
                "no part to tell rows of", seen="a result without parts", expected="one or more",
                fix="Read .tables and .findings_table(), which hold the numbers, or run it again.",
            )  # fmt: skip
        return joined_rows([found.to_dataframe().assign(part=key) for key, found in self.parts.items()])

    def findings_table(self) -> pd.DataFrame:
        """Return one row a finding: claim, where, what, value, low, high, unit."""
        import pandas as pd

        return pd.DataFrame([asdict(finding) for finding in self.findings])

    def summary(self) -> str:
        """Return the question, the verdicts and the findings, in words."""
        lines = [f"{self.name}: {self.question}", ""]
        for one in self.conclusions:
            lines += [f"Claim: {CLAIMS[one.claim]}", f"  {one.verdict}: {one.because}", ""]
        lines += [f"{one.where}: {one.what}: {one.text()}" for one in self.findings]
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Return the experiment's figure; see `tl_emergence.plots.experiment`."""
        from tl_emergence import plots

        return plots.experiment(self)

    def save(self, folder: str | PathLike[str]) -> None:
        """Write JSON, safetensors and, for people, CSV to a folder; see `load_experiment`.

        Parts are written first, to a folder named after everything else; the description that names it
        replaces the one before, in one step; tables, and what nothing names any more, come last.

        Raises:
            ResultFileError: The folder cannot be written. The result that it held before stays whole.
        """
        folder = Path(folder)
        plain = {
            "name": self.name,
            "question": self.question,
            "parts": list(self.parts),
            "tables": {name: _plain(table) for name, table in self.tables.items()},
            "findings": _plain(self.findings_table()),
            "conclusions": [asdict(one) for one in self.conclusions],
            "settings": dict(self.settings),
        }
        plain["parts in"] = f"parts-{hashlib.sha256(to_json(plain)).hexdigest()[:16]}"
        for key, found in self.parts.items():
            found.save(folder / plain["parts in"] / key)
        write_folder(folder, "experiment", _HEAD, plain, {})
        for name, table in {**self.tables, "findings": self.findings_table()}.items():
            write_atomically(folder / f"{name}.csv", table.to_csv(index=False).encode())
        for stale in folder.glob("parts-*"):
            if stale.name != plain["parts in"]:
                shutil.rmtree(stale, ignore_errors=True)

    def __repr__(self) -> str:
        return f"ExperimentResult({self.name}: {', '.join(self.parts)})"


def load_experiment(folder: str | PathLike[str]) -> ExperimentResult:
    """Read what `save` or `tl-emergence experiment` wrote. Needs neither models nor TransformerLens.

    Raises:
        ResultFileError: No experiment there, of another version, or damaged or cut off.
    """
    found = Path(folder)
    if not exists(found / "experiment.json"):
        raise ResultFileError(
            "no experiment there",
            seen=str(found),
            expected="a folder with experiment.json",
            fix="Name the --out of `tl-emergence experiment`; it is there once the experiment is finished.",
        )

    def restore(plain: Mapping[str, Any], tensors: Mapping[str, Any]) -> ExperimentResult:
        where = found / Path(str(plain["parts in"])).name
        return ExperimentResult(
            name=plain["name"],
            question=plain["question"],
            parts={key: load_result(where / key) for key in plain["parts"]},
            tables={name: _frame(columns) for name, columns in plain["tables"].items()},
            findings=tuple(Finding(**row) for row in _frame(plain["findings"]).to_dict("records")),
            conclusions=tuple(Conclusion(**one) for one in plain["conclusions"]),
            settings=plain["settings"],
        )

    return read_folder(found, "experiment", _HEAD, restore)


def _plain(table: pd.DataFrame) -> dict[str, Sequence[Any]]:
    """Return a table as columns of JSON values; NaN becomes null."""
    columns = {str(name): table[name].tolist() for name in table.columns}
    return {
        name: [None if isinstance(v, float) and math.isnan(v) else v for v in values]
        for name, values in columns.items()
    }


def _frame(columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(dict(columns))
    for name, values in columns.items():
        if any(value is None for value in values):
            frame[name] = [math.nan if value is None else value for value in values]
    return frame
