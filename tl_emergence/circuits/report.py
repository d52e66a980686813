"""The report of a correlation: numbers, table, figure, words, and its file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_emergence.errors import ResultFileError, unknown_key
from tl_emergence.files import read_json, to_json, write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_FORMAT = "tl_emergence correlation report"
_VERSION = 1


@dataclass(frozen=True)
class UnitMeans:
    """Means over all prompts of one score or effect, a unit each: what the figure shows.

    Attributes:
        name: What was measured.
        unit: Unit of the values.
        means: Mean over the prompts.
        stderrs: Its standard error over the prompts.
    """

    name: str
    unit: str
    means: tuple[float, ...]
    stderrs: tuple[float, ...]


@dataclass(frozen=True)
class Baseline:
    """How a trivial score does beside the score of a pair.

    A baseline is a constant of the unit: it has no noise over prompts, which the score has, so that the
    comparison leans towards the baseline.

    Attributes:
        name: Name of the baseline.
        spearman: Its correlation with the effect, on the same splits.
        difference: |rho of the score| - |rho of the baseline|.
        low: Lower end of the 95 % interval of the difference, over prompts.
        high: Upper end.
    """

    name: str
    spearman: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class PairCorrelation:
    """One score with one effect. NaN where a value is not defined: constant values, too few units.

    Attributes:
        score: Name of the score.
        effect: Name of the effect.
        spearman: Rank correlation over units, averaged over splits.
        low: Lower end of its 95 % interval over prompts, units fixed.
        high: Upper end.
        p: By permutation: of units within layers, or of all.
        q: The same after control of false discoveries among all pairs of the report.
        kendall: Kendall's tau-b, averaged over the same splits.
        pearson: Pearson's correlation, averaged over the same splits.
        partial: Rank correlation given depth.
        partial_low: Lower end of its interval.
        partial_high: Upper end.
        partial_p: Its p-value by permutation; that of `p` where that is within layers already.
        score_reliability: Split-half reliability of the score, for as many prompts as `spearman` used.
        effect_reliability: The same of the effect.
        ceiling: sqrt of the product of both: what perfect agreement would show.
        baselines: Trivial scores beside this one.
        n_units: Number of units.
        n_score_prompts: Prompts behind each mean of the score.
        n_effect_prompts: Prompts behind each mean of the effect.
        disjoint: How score and effect came from different prompts.
    """

    score: str
    effect: str
    spearman: float
    low: float
    high: float
    p: float
    q: float
    kendall: float
    pearson: float
    partial: float
    partial_low: float
    partial_high: float
    partial_p: float
    score_reliability: float
    effect_reliability: float
    ceiling: float
    baselines: tuple[Baseline, ...]
    n_units: int
    n_score_prompts: int
    n_effect_prompts: int
    disjoint: str


@dataclass(frozen=True, eq=False)
class CorrelationReport:
    """Correlations of every score with every effect: one stated family of tests.

    Attributes:
        pairs: One entry a pair, scores outer.
        scores: Means of the scores over prompts.
        effects: Means of the effects.
        labels: Labels of the units.
        layers: Block number of every unit.
        settings: within_layers, permutations, resamples, splits, confidence, seed: JSON values only.
    """

    pairs: tuple[PairCorrelation, ...]
    scores: tuple[UnitMeans, ...]
    effects: tuple[UnitMeans, ...]
    labels: tuple[str, ...]
    layers: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """The tests among which q controls false discoveries, in words."""
        scores, effects = (", ".join(one.name for one in side) for side in (self.scores, self.effects))
        tests = sum(not math.isnan(pair.p) for pair in self.pairs)
        return f"{tests} test{'s' * (tests != 1)}: {scores} x {effects}"

    def __getitem__(self, key: tuple[str, str]) -> PairCorrelation:
        """Return the pair of a score and an effect, by their names."""
        found = {(pair.score, pair.effect): pair for pair in self.pairs}
        if key not in found:
            raise unknown_key("pair", key, found)
        return found[key]

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row a pair, with the columns of `PairCorrelation`, the family and the settings.

        Of each baseline: `<name> spearman`, `<name> difference`, `<name> difference low`, `... high`.
        """
        import pandas as pd

        rows = []
        for pair in self.pairs:
            row = asdict(pair)
            del row["baselines"]
            for baseline in pair.baselines:
                row[f"{baseline.name} spearman"] = baseline.spearman
                row[f"{baseline.name} difference"] = baseline.difference
                row[f"{baseline.name} difference low"] = baseline.low
                row[f"{baseline.name} difference high"] = baseline.high
            rows.append({**row, "family": self.family, **self.settings})
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """Return one paragraph that says what was established and what was not."""
        from tl_emergence.circuits.prose import paragraph

        return paragraph(self)

    def plot(self, **options: Any) -> Figure:
        """Return one scatter a pair; see `tl_emergence.plots.scatter`. Shows nothing by itself."""
        from tl_emergence import plots

        return plots.scatter(self, **options)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the report to a JSON file, by atomic rename; see `load_report`.

        Raises:
            ResultFileError: The file cannot be written.
        """
        described = {name: value for name, value in asdict(self).items() if name != "settings"}
        content = {"format": _FORMAT, "version": _VERSION, **described, "settings": dict(self.settings)}
        write_atomically(Path(path), to_json(_without_nan(content)))

    def __repr__(self) -> str:
        shown = [f"{pair.score} ~ {pair.effect} {pair.spearman:.2f}" for pair in self.pairs[:3]]
        more = ", ..." if len(self.pairs) > 3 else ""
        count = f"{len(self.pairs)} pair{'s' * (len(self.pairs) != 1)}"
        return f"CorrelationReport({count} over {len(self.labels)} units: {', '.join(shown)}{more})"


def load_report(path: str | PathLike[str]) -> CorrelationReport:
    """Read what `CorrelationReport.save` wrote.

    Raises:
        ResultFileError: Not there, not a report of this version, damaged.

    Example:
        >>> CorrelationReport((), (), (), ("L0", "L1"), (0, 1)).save(tmp_path / "report.json")
        >>> load_report(tmp_path / "report.json").labels
        ('L0', 'L1')
    """
    path = Path(path)
    found = read_json(path)
    if found.get("format") != _FORMAT or found.get("version") != _VERSION:
        raise ResultFileError(
            "not a report of this version",
            seen=f"{path}: format {found.get('format')!r}, version {found.get('version')!r}",
            expected=f"format {_FORMAT!r}, version {_VERSION}",
            fix="Name the file that report.save made, or correlate again with this version.",
        )
    try:
        return CorrelationReport(
            pairs=tuple(_restore_pair(pair) for pair in found["pairs"]),
            scores=tuple(_restore_means(values) for values in found["scores"]),
            effects=tuple(_restore_means(values) for values in found["effects"]),
            labels=tuple(found["labels"]),
            layers=tuple(found["layers"]),
            settings=found["settings"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ResultFileError(
            "damaged report",
            seen=f"{path}: {type(error).__name__}: {error}",
            expected="the report that was saved",
            fix="Correlate again; the file was changed.",
        ) from error


def _restore_pair(described: Mapping[str, Any]) -> PairCorrelation:
    baselines = tuple(Baseline(**_with_nan(baseline)) for baseline in described["baselines"])
    return PairCorrelation(**{**_with_nan(described), "baselines": baselines})


def _restore_means(described: Mapping[str, Any]) -> UnitMeans:
    means, stderrs = tuple(described["means"]), tuple(described["stderrs"])
    return UnitMeans(described["name"], described["unit"], means, stderrs)


def _with_nan(described: Mapping[str, Any]) -> dict[str, Any]:
    return {name: float("nan") if value is None else value for name, value in described.items()}


def _without_nan(value: Any) -> Any:
    """Return JSON values with null for NaN, which JSON does not know."""
    if isinstance(value, Mapping):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
