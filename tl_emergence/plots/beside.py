"""Several estimators beside each other: one panel each, over the blocks, on one axis in bits."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tl_emergence.checks import instance
from tl_emergence.errors import SettingError
from tl_emergence.plots.drawing import (
    CONTROL_STYLE,
    EXACT,
    Metric,
    NotebookFigure,
    column_of,
    values_of,
)
from tl_emergence.results import EmergenceResult, SigmaSweep, SpaceComparison
from tl_emergence.selection import of_estimators
from tl_emergence.tables import model_name, question_of

_CURVE, _CONTROL, _CAP = "tab:blue", "0.6", "firebrick"
_COLUMNS, _CHARACTERS, _LINE_POINTS = 3, 46, 11.5
_WITHIN = 1.96  # standard errors: 95 %
_AXIS = 1.5  # times the largest exact value or cap


def estimator_curves(
    results: Mapping[str, EmergenceResult | SigmaSweep | SpaceComparison],
    *,
    metric: Metric = "emergence",
    pos: int = -1,
    space: str | None = None,
    sigma: float | None = None,
) -> Figure:
    """Draw what each estimator says of every block at one position, a panel each, on one axis in bits.

    Each panel has the curve with its 95 % band (1.96 standard errors), the exact value, the controls and,
    where the estimator has a cap, the bits beyond it shaded: macro (or micro) cannot exceed log2 N, emergence
    not log2 N minus the mean of micro. Open points are saturated: macro (or micro) is above 0.9 of the cap.
    The axis ends at 1.5 times the largest exact value or cap: an estimator that bounds nothing would squeeze
    all others. What lies beyond stands at the edge as a triangle, and its extreme value is written there.

    Args:
        results: Results by estimator, such as an `EstimatorComparison`.
        metric: "emergence", "macro" or "micro".
        pos: Content position; -1 is the last scored.
        space: Which space of several; the first otherwise.
        sigma: Which noise level of sweeps; the one nearest to 0.5 otherwise.

    Raises:
        SettingError: Nothing to draw, results of different prompts, blocks or models, an unknown metric, a
            position, space or sigma that was not measured.
    """
    instance("results by estimator", results, Mapping, "Pass an EstimatorComparison, or a dict of results.")
    if not results:
        raise SettingError("nothing to draw", seen="no results", expected="at least one", fix="Pass some.")
    picked = of_estimators(results, space, sigma)
    _check_comparable(picked)
    first = next(iter(picked.values()))
    column = column_of(first, pos)
    columns = min(_COLUMNS if len(picked) != 4 else 2, len(picked))
    rows = -(-len(picked) // columns)
    size = (max(8.6, 0.7 + 3.7 * columns), 1.3 + 3.1 * rows)
    figure = NotebookFigure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    legend: dict[str, Artist] = {}
    span = _span(picked.values(), metric, column)
    legend: dict[str, Artist] = {}
    for k, (axes, (name, found)) in enumerate(zip(panels.flat, picked.items(), strict=False)):
        axes.set_ylim(*span)
        legend |= _draw_panel(axes, found, metric, column)
        _draw_title(axes, name, found)
        if k + columns >= len(picked):  # nothing below it
            axes.set_xlabel("block")
            axes.tick_params(labelbottom=True)
    for axes in panels.flat[len(picked) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel(f"{metric} (bits)")
    figure.legend(
        legend.values(),
        legend.keys(),
        loc="outside lower center",
        ncols=columns + 1,
        fontsize=9,
        frameon=False,
    )
    figure.suptitle(_headline(first, metric, column), fontsize=11)
    return figure


def _check_comparable(results: Mapping[str, EmergenceResult]) -> None:
    """Refuse to draw results on one axis that are not of the same states."""
    names = ("model", "prompts_hash", "space", "micro")
    kinds = {
        (found.n_prompts, found.layers, found.positions, *(found.settings.get(name) for name in names))
        for found in results.values()
    }
    if len(kinds) > 1:
        raise SettingError(
            "results that cannot be compared",
            seen=f"{len(kinds)} different pairs of model and prompts, blocks, positions, space or micro",
            expected="results of the same states, by different estimators",
            fix="Measure them in one call: information_emergence(..., estimator=('noise', 'gaussian')).",
        )


def _span(results: Collection[EmergenceResult], metric: Metric, column: int) -> tuple[float, float]:
    """Return the ends of the common axis: all values, but no more than 1.5 times the exact ones and caps."""
    known = [values_of(found, metric)[2][:, column] for found in results]
    known += [cap for found in results if (cap := _cap(found, metric, column)) is not None]
    most = _AXIS * max(1e-6, *(float(np.abs(values).max()) for values in known))
    runs = [run for found in results for run in (found, *found.controls.values())]
    shown = np.concatenate([*known, *(values_of(run, metric)[0][:, column] for run in runs), np.zeros(1)])
    low, high = max(float(shown.min()), -most), min(float(shown.max()), most)
    margin = 0.08 * (high - low)
    return low - margin, high + margin


def _cap(result: EmergenceResult, metric: Metric, column: int) -> np.ndarray | None:
    """Return what a metric cannot exceed at this N, block by block, where the estimator has a cap."""
    if result.cap_bits is None:
        return None
    macro, emergence = result.macro[:, column].numpy(), result.emergence[:, column].numpy()
    return result.cap_bits - (macro - emergence if metric == "emergence" else np.zeros_like(macro))


def _draw_panel(axes: Axes, result: EmergenceResult, metric: Metric, column: int) -> dict[str, Artist]:
    """Draw one estimator's curve, exact value, cap and controls; return what the legend has to name."""
    x = np.array(result.layers)
    y, errors, exact = (part[:, column] for part in values_of(result, metric))
    axes.axhline(0.0, color="0.8", linewidth=0.8, zorder=0)
    (curve,) = axes.plot(x, y, color=_CURVE, marker="o", markersize=4, linewidth=1.6, zorder=4)
    band = axes.fill_between(x, y - _WITHIN * errors, y + _WITHIN * errors, color=_CURVE, alpha=0.25, lw=0)
    legend: dict[str, Artist] = {"estimate": curve, "its 95 % band": band}
    # Wide and below, to be seen where estimate or control coincide with it.
    (legend[EXACT[metric]],) = axes.plot(x, exact, color="black", linewidth=2.8, zorder=2)
    for name, control in result.controls.items():
        label, style = CONTROL_STYLE.get(name, (name, ":"))
        line = values_of(control, metric)[0][:, column]
        (legend[f"control: {label}"],) = axes.plot(x, line, style, color=_CONTROL, linewidth=1.3, zorder=3)
        _mark_beyond(axes, x, line, _CONTROL)
    full = (result.micro_saturated if metric == "micro" else result.macro_saturated)[:, column].numpy()
    (saturated,) = axes.plot(x[full], y[full], "o", color=_CURVE, mfc="white", markersize=5, zorder=5)
    if full.any():
        legend["saturated: N is measured, not the model"] = saturated
    if (cap := _cap(result, metric, column)) is not None:
        shade = axes.fill_between(x, cap, axes.get_ylim()[1], color=_CAP, alpha=0.12, lw=0, zorder=1)
        legend["beyond the cap: log2 N (nce: of a fold)"] = shade
    if (triangle := _mark_beyond(axes, x, y, _CURVE, written=True)) is not None:
        legend["off the axis, the furthest written"] = triangle
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return legend


def _mark_beyond(
    axes: Axes, x: np.ndarray, y: np.ndarray, color: str, *, written: bool = False
) -> Artist | None:
    """Put triangles at the edges where a line leaves the axis; write how far it goes."""
    drawn = None
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    for beyond, edge, marker, worst in ((y < low, low, "v", y.argmin()), (y > high, high, "^", y.argmax())):
        if not beyond.any():
            continue
        at = np.full(int(beyond.sum()), edge)
        (drawn,) = axes.plot(x[beyond], at, marker, color=color, markersize=6, clip_on=False, zorder=6)
        if written:
            axes.annotate(
                f"{y[worst]:.1f}".replace("-", "−"),
                (x[worst], edge),
                (0, 8 if edge == low else -8),
                textcoords="offset points",
                ha="left" if 2 * x[worst] < left + right else "right",
                va="bottom" if edge == low else "top",
                color=color,
                fontsize=8,
            )
    return drawn


def _draw_title(axes: Axes, name: str, result: EmergenceResult) -> None:
    """Write the estimator's name in bold, and under it the question that it answers."""
    lines: Sequence[str] = textwrap.wrap(question_of(name), _CHARACTERS, break_on_hyphens=False)
    axes.set_title("\n".join(lines), loc="left", fontsize=8.5)
    axes.annotate(
        name + (f", sigma {result.sigma:g}" if result.sigma else ""),
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 8 + _LINE_POINTS * len(lines)),
        textcoords="offset points",
        fontsize=10.5,
        fontweight="bold",
    )


def _headline(result: EmergenceResult, metric: Metric, column: int) -> str:
    control = "" if result.controls else "  |  no control was run"
    return (
        f"{metric} at {result.labels[column]!r}, block by block: each estimator on the same states\n"
        f"{model_name(result)}  |  {result.settings.get('prompts', 'tokens')} prompts, "
        f"N = {result.n_prompts:,}  |  space {result.space!r}{control}"
    )
