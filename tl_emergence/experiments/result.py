"""The result of an experiment: scores, tables, findings with intervals, and a verdict on each claim."""

from __future__ import annotations

import hashlib
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_emergence.errors import ResultFileError, SettingError, unknown_name
from tl_emergence.experiments.claims import CLAIMS, VERDICTS
from tl_emergence.experiments.findings import Finding, from_plain, table, to_plain
from tl_emergence.files import as_path, below, exists, read_bytes, read_json, to_json, write_atomically
from tl_emergence.folders import read_folder, write_folder
from tl_emergence.results import AnyResult
from tl_emergence.saving import load_result
from tl_emergence.torch_state import with_torch_defaults

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_HEAD = {"format": "tl_emergence experiment", "version": 3}


@dataclass(frozen=True)
class Conclusion:
    """What an experiment says of a claim, and why.

    Attributes:
        claim: Short name of the claim (a key of `CLAIMS`).
        verdict: One of `VERDICTS`.
        because: Why, in a few sentences.
        estimator: Estimator that the numbers come from.
        sigma: Its noise level.
        by_rule: What the same rule says of each curve: "model", "exact", controls by name. Empty where the
            claim is not one about curves, or could not be tested for another reason than N.
    """

    claim: str
    verdict: str
    because: str
    estimator: str
    sigma: float
    by_rule: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = [("claim", self.claim, CLAIMS)]
        given += [("verdict", one, VERDICTS) for one in (self.verdict, *self.by_rule.values())]
        for what, one, known in given:
            if one not in known:
                raise unknown_name(what, one, list(known))

    def text(self) -> str:
        """Return the verdict with the estimator that it is by.

        Example:
            >>> Conclusion("every token", "does not hold", "it falls.", "noise", 0.5).text()
            'does not hold (estimator noise, sigma 0.5)'
        """
        return f"{self.verdict} (estimator {self.estimator}, sigma {self.sigma:g})"


@dataclass(frozen=True, eq=False)
class ExperimentResult:
    """Everything an experiment measured and concluded; it needs no model to be read, drawn or judged.

    Attributes:
        name: The experiment's name, as on the command line.
        question: What it asks, in a sentence.
        parts: Emergence by what it was measured on; prompt-by-prompt values are left out.
        tables: Tidy data frames by name; findings and conclusions follow from these and the settings.
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
        """Return one row per finding: the fields of `Finding`, its unit, and `where` and `what` in words."""
        return table(self.findings)

    def summary(self) -> str:
        """Return the question, the verdicts and the findings, in words."""
        lines = [f"{self.name}: {self.question}", ""]
        for one in self.conclusions:
            lines += [f"Claim: {CLAIMS[one.claim]}", f"  {one.text()}: {one.because}", ""]
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
        folder = as_path("folder", folder)
        plain = {
            "name": self.name,
            "question": self.question,
            "parts": list(self.parts),
            "tables": {name: _plain(rows) for name, rows in self.tables.items()},
            "findings": [to_plain(one) for one in self.findings],
            "conclusions": [asdict(one) for one in self.conclusions],
            "settings": dict(self.settings),
        }
        plain["parts in"] = f"parts-{hashlib.sha256(to_json(plain)).hexdigest()[:16]}"
        before = _named_parts(folder)
        for key, found in self.parts.items():
            found.save(below(folder / plain["parts in"], key))
        plain["part checksums"] = {key: _checksum(folder / plain["parts in"], key) for key in self.parts}
        write_folder(folder, "experiment", _HEAD, plain, {})
        for name, rows in {**self.tables, "findings": self.findings_table()}.items():
            write_atomically(below(folder, f"{name}.csv"), rows.to_csv(index=False).encode())
        if before not in (None, plain["parts in"]):
            shutil.rmtree(folder / before, ignore_errors=True)

    def __repr__(self) -> str:
        return f"ExperimentResult({self.name}: {', '.join(self.parts)})"


@with_torch_defaults
def load_experiment(folder: str | PathLike[str]) -> ExperimentResult:
    """Read what `save` or `tl-emergence experiment` wrote. Needs neither models nor TransformerLens.

    Raises:
        ResultFileError: No experiment there, of another version, or damaged or cut off.
    """
    found = as_path("folder", folder)
    if not exists(found / "experiment.json"):
        raise ResultFileError(
            "no experiment there",
            seen=str(found),
            expected="a folder with experiment.json",
            fix="Name the --out of `tl-emergence experiment`; it is there once the experiment is finished.",
        )

    def restore(plain: Mapping[str, Any], tensors: Mapping[str, Any]) -> ExperimentResult:
        where = below(found, plain["parts in"])
        for key, recorded in plain.get("part checksums", {}).items():  # results saved earlier have none
            if _checksum(where, key) != recorded:
                raise ValueError(f"part {key!r} is not the one that was saved")
        return ExperimentResult(
            name=plain["name"],
            question=plain["question"],
            parts={key: load_result(below(where, key)) for key in plain["parts"]},
            tables={name: _frame(columns) for name, columns in plain["tables"].items()},
            findings=tuple(from_plain(row) for row in plain["findings"]),
            conclusions=tuple(Conclusion(**one) for one in plain["conclusions"]),
            settings=plain["settings"],
        )

    return read_folder(found, "experiment", _HEAD, restore)


def _named_parts(folder: Path) -> str | None:
    """Return the folder of parts that the present description names, where it is one that `save` made."""
    try:
        name = read_json(folder / "experiment.json").get("experiment", {}).get("parts in")
    except (ResultFileError, AttributeError):  # none there, or a damaged one: it vouches for nothing
        return None
    return name if isinstance(name, str) and re.fullmatch("parts-[0-9a-f]{16}", name) else None


def _checksum(where: Path, key: str) -> str:
    """Return the SHA-256 of the description of a saved part, which holds that of its tensors."""
    return hashlib.sha256(read_bytes(below(where, key) / "result.json")).hexdigest()


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
