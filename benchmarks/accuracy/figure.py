"""Estimate against truth: a panel an estimator, a colour a family."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.accuracy.gates import by_case
from benchmarks.accuracy.rows import Row
from tl_emergence.estimators import ESTIMATORS

_LOOKS = {  # Okabe and Ito's colours
    "gaussian": ("Gaussian pairs", "#0072B2", "o"),
    "constellation": ("constellations", "#E69F00", "s"),
    "prompt_set": ("prompt sets", "#56B4E9", "D"),
    "negative_control": ("negative controls", "#000000", "x"),
    "benchmark_mi": ("benchmark-mi", "#009E73", "^"),
    "model_states": ("states of Gemma 3 270M", "#D55E00", "v"),
}
_TICKS = (0, 0.5, 1, 2, 4, 8, 12, 16, 20)
_LOW, _HIGH = -0.2, 20.0


def draw(rows: Sequence[Row]) -> Figure:
    """Draw every estimator that has rows; root scales, so that half a bit is seen as well as 18."""
    names = [name for name in ESTIMATORS if any(row.estimator == name for row in rows)]
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(4.2 * columns, 4.6 * lines + 0.9), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat
    for name, ax in zip(names, panels, strict=False):
        _panel(ax, name, [row for row in rows if row.estimator == name])
    for ax in figure.axes[::columns]:
        ax.set_ylabel("estimate, bits")
    for i, ax in enumerate(figure.axes):
        if i + columns >= len(names):
            ax.set_xlabel("truth, bits")
            ax.tick_params(labelbottom=True)
    for ax in figure.axes[len(names) :]:
        ax.remove()
    handles = {}
    for ax in figure.axes:
        handles.update(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _panel(ax: Axes, name: str, rows: Sequence[Row]) -> None:
    ax.set_xscale("function", functions=(_root, _square))
    ax.set_yscale("function", functions=(_root, _square))
    ax.plot([_LOW, _HIGH], [_LOW, _HIGH], color="0.6", linewidth=1, zorder=1, label="the truth")
    beyond: list[float] = []
    for family, (label, colour, marker) in _LOOKS.items():
        of_family = by_case(row for row in rows if row.family == family)
        points = [_point(group) for group in of_family.values()]
        points = np.array([point for point in points if point])
        if len(points):
            off = (points[:, 1] > _HIGH) | (points[:, 1] < _LOW)
            beyond += points[off, 1].tolist()
            edges = np.where(points[off, 1] > _HIGH, _HIGH, _LOW)
            ax.plot(points[off, 0], edges, marker, color=colour, markersize=7, clip_on=False, zorder=5)
            ax.errorbar(
                *points.T,
                fmt=marker,
                color=colour,
                markersize=4.5,
                markerfacecolor="none" if marker != "x" else colour,
                elinewidth=1,
                label=label,
            )
    silent = len(by_case(row for row in rows if row.bits is None))
    notes = [f"{silent} without an answer"] * bool(silent)
    if beyond:
        notes.append(f"{len(beyond)} off the axis, {min(beyond):.0f} to {max(beyond):.0f}")
    ax.set_title("\n".join([name, "; ".join(notes)]), fontsize=10)
    ax.set_xlim(_LOW, _HIGH)
    ax.set_ylim(_LOW, _HIGH)
    ax.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    ax.set_yticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    ax.grid(color="0.92")
    ax.set_aspect("equal")


def _point(group: Sequence[Row]) -> tuple[float, float, float] | None:
    """Return truth, mean over draws, and half of the 95 % interval of one draw."""
    answered = [row for row in group if row.bits is not None]
    if not answered:
        return None
    bits = statistics.fmean(row.bits for row in answered if row.bits is not None)
    stderr = statistics.fmean(row.stderr or 0.0 for row in answered)
    return answered[0].truth_bits, bits, 1.96 * stderr


def _root(bits: np.ndarray) -> np.ndarray:
    return np.sign(bits) * np.sqrt(np.abs(bits))


def _square(root: np.ndarray) -> np.ndarray:
    return np.sign(root) * np.square(root)
