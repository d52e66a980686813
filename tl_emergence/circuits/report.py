"""The report of a correlation: numbers, table, figure, words, and its file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

from tl_emergence import loaded
from tl_emergence.checks import is_key
from tl_emergence.errors import ResultFileError, unknown_key
from tl_emergence.files import as_path, read_json, to_json, with_checksum, write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_FORMAT = "tl_emergence correlation report"
_VERSION = 2
LEVEL = 0.05
"""The largest p or q that counts."""


@dataclass(frozen=True)
class UnitMeans:
    """Means over all prompts of one score or effect, one per unit: what the figure shows.

    Attributes:
        name: What was measured.
        unit: Unit of the values.
        means: Mean over the prompts.
        stderrs: Its standard error over the prompts.
        change: Whether the values are changes after an ablation: edited minus clean.
    """

    name: str
    unit: str
    means: tuple[float, ...]
    stderrs: tuple[float, ...]
    change: bool = False

    @property
    def title(self) -> str:
        """What the values are: `loss`, or `change of loss`."""
        return f"change of {self.name}" if self.change else self.name


@dataclass(frozen=True)
class Baseline:
    """How a trivial score does beside the score of a pair.

    A baseline is a constant of the unit: it has no noise over prompts, which the score has, so that the
    comparison leans towards the baseline.

    Attributes:
        name: Name of the baseline.
        spearman: Its correlation with the effect, on the same splits.
        difference: |rho of the score| - |rho of the baseline|.
        low: Lower end of the 95 % interval of the difference over units; NaN for blocks, of which there are
            too few and which depend on each other.
        high: Upper end.
        prompts_low: Lower end of its 95 % interval over prompts, units fixed.
        prompts_high: Upper end.
    """

    name: str
    spearman: float
    difference: float
    low: float
    high: float
    prompts_low: float
    prompts_high: float


@dataclass(frozen=True)
class PairCorrelation:
    """One score with one effect. NaN where a value is not defined: constant values, too few units.

    Attributes:
        score: Name of the score.
        effect: Name of the effect.
        spearman: Rank correlation over units, averaged over splits.
        low: Lower end of its 95 % interval over units: what other heads or blocks would change.
        high: Upper end.
        prompts_low: Lower end of its 95 % interval over prompts, units fixed.
        prompts_high: Upper end.
        p: Of heads by permutation, within layers or of all; of blocks by a t test with `n_effective`.
        q: The same after control of false discoveries among all pairs of the report.
        kendall: Kendall's tau-b, averaged over the same splits.
        pearson: Pearson's correlation, averaged over the same splits.
        partial: Rank correlation given depth.
        partial_low: Lower end of its interval over units.
        partial_high: Upper end.
        partial_prompts_low: Lower end of its interval over prompts.
        partial_prompts_high: Upper end.
        partial_p: Its p-value; that of `p` where that is by permutation within layers already.
        n_effective: Effective number of blocks, which resemble their neighbours; NaN for heads.
        partial_n_effective: The same given depth.
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
    prompts_low: float
    prompts_high: float
    p: float
    q: float
    kendall: float
    pearson: float
    partial: float
    partial_low: float
    partial_high: float
    partial_prompts_low: float
    partial_prompts_high: float
    partial_p: float
    n_effective: float
    partial_n_effective: float
    score_reliability: float
    effect_reliability: float
    ceiling: float
    baselines: tuple[Baseline, ...]
    n_units: int
    n_score_prompts: int
    n_effect_prompts: int
    disjoint: str


Conclusion = Literal["established", "undefined", "units", "prompts", "not testable", "chance", "depth"]
"""What follows from a pair: "established", or the first thing that stands against it: no correlation is
defined ("undefined"), the interval over units or over prompts includes 0 ("units", "prompts"), there is no
test ("not testable"), q is above 0.05 ("chance"), or depth held fixed leaves no correlation of that sign
("depth")."""


def conclusion(pair: PairCorrelation, within: bool) -> Conclusion:
    """Return what follows from a pair.

    Established needs all of these: both intervals of the correlation exclude 0, q is at most 0.05, and where
    units are compared within layers (whose q is of the correlation within layers) the partial correlation is
    one of the same sign, with both its intervals.
    """
    given_depth = (
        excludes_0(pair.partial_low, pair.partial_high)
        and excludes_0(pair.partial_prompts_low, pair.partial_prompts_high)
        and pair.partial * pair.spearman > 0
    )
    against: list[tuple[Conclusion, bool]] = [
        ("undefined", math.isnan(pair.spearman)),
        ("units", not excludes_0(pair.low, pair.high)),
        ("prompts", not excludes_0(pair.prompts_low, pair.prompts_high)),
        ("not testable", math.isnan(pair.q)),
        ("chance", not pair.q <= LEVEL),
        ("depth", within and not given_depth),
    ]
    for reason, holds in against:
        if holds:
            return reason
    return "established"


def excludes_0(low: float, high: float) -> bool:
    """Return whether an interval lies on one side of 0; one that is undefined does not.

    Example:
        >>> excludes_0(0.1, 0.4), excludes_0(-0.1, 0.4), excludes_0(float("nan"), float("nan"))
        (True, False, False)
    """
    return low > 0 or high < 0


@dataclass(frozen=True, eq=False)
class CorrelationReport:
    """Correlations of every score with every effect: one stated family of tests.

    Attributes:
        pairs: One entry per pair, scores outer; a metric with itself is left out.
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
        scores, effects = (", ".join(part.name for part in side) for side in (self.scores, self.effects))
        tests = sum(not math.isnan(pair.p) for pair in self.pairs)
        return f"{tests} test{'s' * (tests != 1)}: {scores} x {effects}"

    def __getitem__(self, key: tuple[str, str]) -> PairCorrelation:
        """Return the pair of a score and an effect, by their names."""
        by_names = {(pair.score, pair.effect): pair for pair in self.pairs}
        if not is_key(key, by_names):
            raise unknown_key("pair", key, by_names)
        return by_names[key]

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per pair, with the columns of `PairCorrelation`, the family and the settings.

        `conclusion` is what follows (`CorrelationReport.conclusion`). Of each baseline: `<name> spearman`,
        `<name> difference`, `<name> difference low`, `... high` (over units), and
        `<name> difference prompts low`, `... prompts high`.
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
                row[f"{baseline.name} difference prompts low"] = baseline.prompts_low
                row[f"{baseline.name} difference prompts high"] = baseline.prompts_high
            row["conclusion"] = self.conclusion(pair)
            rows.append({**row, "family": self.family, **self.settings})
        return pd.DataFrame(rows)

    def conclusion(self, pair: PairCorrelation) -> Conclusion:
        """Return what follows from a pair of this report: "established", or what stands against it."""
        return conclusion(pair, bool(self.settings["within_layers"]))

    def summary(self) -> str:
        """Return one paragraph that says what was established and what was not."""
        from tl_emergence.circuits.prose import paragraph

        return paragraph(self)

    def plot(self, **options: Any) -> Figure:
        """Return one scatter per pair; see `tl_emergence.plots.scatter`. Shows nothing by itself."""
        from tl_emergence import plots

        return plots.scatter(self, **options)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the report to a JSON file, by atomic rename; see `load_report`.

        Raises:
            ResultFileError: The file cannot be written.
        """
        described = {name: value for name, value in asdict(self).items() if name != "settings"}
        content = {"format": _FORMAT, "version": _VERSION, **described, "settings": dict(self.settings)}
        write_atomically(as_path("path", path), to_json(with_checksum(_without_nan(content))))

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
    path = as_path("path", path)
    found = read_json(path)
    if found.get("format") != _FORMAT or found.get("version") != _VERSION:
        raise ResultFileError(
            "not a report of this version",
            seen=f"{path}: format {found.get('format')!r}, version {found.get('version')!r}",
            expected=f"format {_FORMAT!r}, version {_VERSION}",
            fix="Name the file that report.save made, or correlate again with this version.",
        )
    try:
        labels = loaded.texts("labels", found["labels"])
        layers = loaded.whole_numbers("layers", found["layers"])
        loaded.length("layers", layers, len(labels))
        scores, effects = (
            tuple(_restore_means(values, len(labels)) for values in found[side])
            for side in ("scores", "effects")
        )
        pairs = tuple(_restore_pair(pair) for pair in found["pairs"])
        measured = ({one.name for one in scores}, {one.name for one in effects})
        if any(pair.score not in measured[0] or pair.effect not in measured[1] for pair in pairs):
            raise ValueError("pairs of scores or effects that the report does not hold")
        settings = loaded.mapping("settings", found["settings"])
        return CorrelationReport(pairs, scores, effects, labels, layers, settings)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ResultFileError(
            "damaged report",
            seen=f"{path}: {type(error).__name__}: {error}",
            expected="the report that was saved",
            fix="Correlate again; the file was changed.",
        ) from error


def _restore_pair(described: Mapping[str, Any]) -> PairCorrelation:
    baselines = tuple(
        Baseline(**_of_types(Baseline, loaded.mapping("a baseline", one))) for one in described["baselines"]
    )
    return PairCorrelation(**{**_of_types(PairCorrelation, described), "baselines": baselines})


def _restore_means(described: Mapping[str, Any], n_units: int) -> UnitMeans:
    means, stderrs = (
        tuple(loaded.number(column, value) for value in described[column]) for column in ("means", "stderrs")
    )
    loaded.length("means", means, n_units)
    loaded.length("stderrs", stderrs, n_units)
    name, unit = (loaded.text(field, described[field]) for field in ("name", "unit"))
    return UnitMeans(name, unit, means, stderrs, loaded.truth("change", described["change"]))


def _of_types(kind: type, described: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by the types that the fields of a dataclass declare; null is NaN for a number."""
    check = {"float": loaded.number, "int": loaded.whole_number, "str": loaded.text}
    types = {one.name: str(one.type) for one in fields(kind)}
    return {
        name: check[types[name]](name, value) if types[name] in check else value
        for name, value in described.items()
    }


def _without_nan(value: Any) -> Any:
    """Return JSON values with null for NaN, which JSON does not know."""
    if isinstance(value, Mapping):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
