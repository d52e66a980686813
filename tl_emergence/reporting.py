"""What the command line prints, draws and writes of a result."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tl_emergence.errors import SettingError, unknown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tl_emergence.circuits import CorrelationReport, HeadEffects
    from tl_emergence.experiments import ExperimentResult
    from tl_emergence.results import AnyResult

FIGURES = ("overview", "heatmap", "curves", "sigma", "spaces", "estimators")
"""The kinds of figure that `tl-emergence plot --kind` knows."""


def write_outputs(result: AnyResult, out: Path, figures: bool) -> None:
    """Print the tables of a result; write it as a table and as figures."""
    from tl_emergence.files import write_atomically
    from tl_emergence.results import EstimatorComparison
    from tl_emergence.selection import singles, worth_a_table

    write_atomically(out / "table.csv", result.to_dataframe().to_csv(index=False).encode())
    tables = list(worth_a_table(result))
    if isinstance(result, EstimatorComparison):
        typer.echo(result.side_by_side() + "\n")
    for title, single in tables:
        if title:
            typer.echo(f"== {title} ==")
        typer.echo(single.summary() + "\n")
    left_out = sum(1 for _ in singles(result)) - len(tables)
    if left_out:
        typer.echo(f"{left_out} more results, at other noise levels, are in table.csv and result\n")
    if figures:
        for name, figure in _figures(result):
            save_figure(figure, out / f"{name}.png")
    _say_what_is_in(out)


def write_effects(effects: HeadEffects, out: Path, figures: bool) -> None:
    """Print the summary of ablations; write them as tables, in order and ranked, and as a figure."""
    from tl_emergence.files import write_atomically
    from tl_emergence.tables import joined_rows

    write_atomically(out / "effects.csv", effects.to_dataframe().to_csv(index=False).encode())
    ranked = [effects.ranked(metric) for metric in effects.metrics]
    for metric, table in zip(effects.metrics, ranked, strict=True):
        table.insert(0, "metric", metric)
    write_atomically(out / "ranked.csv", joined_rows(ranked).to_csv(index=False).encode())
    typer.echo(effects.summary() + "\n")
    if figures:
        save_figure(effects.plot(), out / "effects.png")
    _say_what_is_in(out)


def write_report(report: CorrelationReport, out: Path, figures: bool) -> None:
    """Print the paragraph of a correlation report; write the report, its table and its figure."""
    from tl_emergence.files import write_atomically

    report.save(out / "report.json")
    write_atomically(out / "report.csv", report.to_dataframe().to_csv(index=False).encode())
    typer.echo(report.summary() + "\n")
    if figures:
        save_figure(report.plot(), out / "scatter.png")
    _say_what_is_in(out)


def write_experiment(result: ExperimentResult, out: Path, figures: bool) -> None:
    """Print what an experiment found; draw its figure."""
    typer.echo(result.summary() + "\n")
    if figures:
        save_figure(result.plot(), out / "figure.png")
    _say_what_is_in(out)


def _say_what_is_in(out: Path) -> None:
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    typer.echo(f"saved in {out}: " + ", ".join(names))


def _figures(result: AnyResult) -> Iterator[tuple[str, Figure]]:
    """Yield, with file names, the figures that a result is worth; of several estimators, those of each."""
    from tl_emergence.results import EstimatorComparison, SigmaSweep, SpaceComparison

    if isinstance(result, EstimatorComparison):
        yield "estimators", result.plot()
        for estimator, found in result.items():
            for name, figure in _figures(found):
                yield f"{name}-{estimator}", figure
        return
    inner = next(iter(result.values())) if isinstance(result, SpaceComparison) else result
    kinds = ["spaces"] if isinstance(result, SpaceComparison) else []
    for kind in [*kinds, "overview", *(["sigma"] if isinstance(inner, SigmaSweep) else [])]:
        yield kind, figure_of(result, kind)


def figure_of(
    result: AnyResult,
    kind: str | None = None,
    *,
    metric: Any = "emergence",
    estimator: str | None = None,
    space: str | None = None,
    sigma: float | None = None,
) -> Figure:
    """Draw one kind of figure; by default the estimators beside each other where there are several.

    Raises:
        SettingError: A kind that the result has too little for, an estimator, space or sigma that was not
            measured, an unknown metric.
    """
    from tl_emergence import plots
    from tl_emergence.results import EstimatorComparison, SigmaSweep, SpaceComparison
    from tl_emergence.selection import in_space, singles

    if kind is None:
        kind = "estimators" if isinstance(result, EstimatorComparison) and estimator is None else "overview"
    if kind == "estimators":
        if not isinstance(result, EstimatorComparison):
            raise _needs(kind, "several estimators (run with --estimator exact --estimator noise)")
        return plots.estimator_curves(result, metric=metric, space=space, sigma=sigma)
    names = list(dict.fromkeys(one.estimator for one in singles(result)))
    if estimator is not None and estimator not in names:
        raise unknown_name("estimator", estimator, names)
    if isinstance(result, EstimatorComparison):
        result = result[estimator if estimator is not None else next(iter(result))]
    if kind == "spaces":
        if not isinstance(result, SpaceComparison):
            raise _needs(kind, "several spaces (run with --space read --space unit)")
        return plots.side_by_side(result, metric=metric, sigma=sigma)
    found = in_space(result, space)
    if kind == "sigma":
        if not isinstance(found, SigmaSweep):
            raise _needs(kind, "several noise levels (run with --sigma 0.25 --sigma 0.5 ...)")
        return plots.sigma_curves(found, metric=metric)
    drawing = {"overview": plots.overview, "heatmap": plots.heatmap, "curves": plots.curves}[kind]
    return drawing(plots.at_sigma(found, sigma), metric=metric)


def _needs(kind: str, what: str) -> SettingError:
    return SettingError(
        f"no {kind} figure",
        seen="a result without them",
        expected=f"a result with {what}",
        fix="Choose another --kind.",
    )


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, in the format that the file name says, by atomic rename.

    Raises:
        SettingError: A format that is none of .png, .pdf and .svg.
        ResultFileError: The file cannot be written.
    """
    from tl_emergence.files import write_atomically

    formats = (".png", ".pdf", ".svg")
    if path.suffix not in formats:
        raise unknown_name("figure format", path.suffix or str(path), formats)
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=150)
    write_atomically(path, content.getvalue())
