"""Scatter of scores against effects, one panel per pair of a correlation report."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tl_emergence.checks import instance, integer
from tl_emergence.circuits.prose import interval, unit_word
from tl_emergence.circuits.report import CorrelationReport, PairCorrelation, UnitMeans
from tl_emergence.plots.drawing import SEQUENTIAL, NotebookFigure

_FOOTNOTE = (
    "dots: means over all prompts, bars ±1 standard error;{}[ ]: 95 % interval over units; "
    "q: false-discovery rate"
)
# Room of a label, in parts of the panel.
_LABEL_WIDTH, _LABEL_HEIGHT = 0.17, 0.05


def scatter(report: CorrelationReport, *, n_labels: int = 5) -> Figure:
    """Draw every score against every effect: a dot per unit, coloured by layer, with errors over prompts.

    Rows are scores and columns effects where there are several; the panel of a metric with itself stays
    empty. The title of a panel gives Spearman's
    correlation with its intervals, and whether an association was established; the units farthest from the
    median are named, where there is room.

    Args:
        report: What to draw.
        n_labels: How many units to name in each panel.

    Raises:
        SettingError: `n_labels` is not a whole number, 0 or more.
    """
    instance("a report", report, CorrelationReport, "Pass what correlate returns.")
    integer("n_labels", n_labels, least=0)
    rows, columns = len(report.scores), len(report.effects)
    figure = NotebookFigure(figsize=(1.2 + 4.6 * columns, 0.6 + 4.0 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    measured = {(pair.score, pair.effect) for pair in report.pairs}
    norm = Normalize(min(report.layers), max(max(report.layers), min(report.layers) + 1))
    for score, row in zip(report.scores, panels, strict=True):
        for effect, axes in zip(report.effects, row, strict=True):
            if (score.name, effect.name) not in measured:
                axes.set_axis_off()
                continue
            pair = report[score.name, effect.name]
            _draw_panel(axes, report, pair, score, effect, norm, n_labels)
    scale = ScalarMappable(norm, SEQUENTIAL)
    figure.colorbar(scale, ax=panels, label="layer", aspect=30, ticks=MaxNLocator(integer=True))
    figure.supxlabel(_FOOTNOTE.format("\n" if columns == 1 else " "), fontsize=8)
    return figure


def _draw_panel(
    axes: Axes,
    report: CorrelationReport,
    pair: PairCorrelation,
    score: UnitMeans,
    effect: UnitMeans,
    norm: Normalize,
    n_labels: int,
) -> None:
    x, y = np.array(score.means), np.array(effect.means)
    for value, line in ((x, axes.axvline), (y, axes.axhline)):
        if value.min() <= 0 <= value.max():
            line(0, color="0.85", linewidth=1, zorder=0)
    axes.errorbar(
        x, y, xerr=score.stderrs, yerr=effect.stderrs, fmt="none", ecolor="0.7", elinewidth=0.8, zorder=1
    )
    colors = colormaps[SEQUENTIAL](norm(report.layers))
    axes.scatter(x, y, c=colors, s=34, edgecolor="white", linewidth=0.5, zorder=2)
    _name_farthest(axes, report.labels, x, y, n_labels)
    axes.set_xlabel(_axis_label(score))
    axes.set_ylabel(_axis_label(effect))
    axes.set_title(_title(report, pair), fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _name_farthest(axes: Axes, labels: Sequence[str], x: np.ndarray, y: np.ndarray, count: int) -> None:
    """Name the units farthest from the median, in spreads of each axis."""
    gaps = [np.abs(values - np.median(values)) / (values.std() or 1.0) for values in (x, y)]
    places = [(values - values.min()) / (np.ptp(values) or 1.0) for values in (x, y)]
    taken: list[tuple[float, float]] = []
    for unit in np.argsort(-np.hypot(*gaps)).tolist():
        if len(taken) == count:
            break
        across, up = float(places[0][unit]), float(places[1][unit])
        left = across > 0.5  # towards the inside, so that no label leaves the panel
        start = across - _LABEL_WIDTH if left else across
        free = [
            place
            for place in (up, up - _LABEL_HEIGHT)
            if not any(abs(start - a) < _LABEL_WIDTH and abs(place - b) < _LABEL_HEIGHT for a, b in taken)
        ]
        if not free:
            continue
        crowded = free[0] != up
        taken.append((start, free[0]))
        axes.annotate(
            str(labels[unit]),
            (x[unit], y[unit]),
            xytext=(-5 if left else 5, -5 if crowded else 5),
            textcoords="offset points",
            ha="right" if left else "left",
            va="top" if crowded else "bottom",
            fontsize=8,
        )


def _axis_label(values: UnitMeans) -> str:
    return f"{values.title} ({values.unit})" if values.unit else values.title


def _title(report: CorrelationReport, pair: PairCorrelation) -> str:
    units = f"{pair.n_units} {unit_word(report)}"
    if math.isnan(pair.spearman):
        return f"no correlation defined: constant over {units}"
    how = "layer" if report.settings["within_layers"] else "depth"
    verdict = "established" if report.conclusion(pair) == "established" else "not established"
    over = unit_word(report)
    return (
        f"Spearman {pair.spearman:.2f}: {verdict}, q = {pair.q:.2g}\n"
        f"over {units} {interval(pair.low, pair.high)}, "
        f"over prompts {interval(pair.prompts_low, pair.prompts_high)}\n"
        f"given {how}: {pair.partial:.2f}, over {over} {interval(pair.partial_low, pair.partial_high)}"
    )
