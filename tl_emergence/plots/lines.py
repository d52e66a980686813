"""Curves over positions and over noise levels, for some blocks; the overview that joins them to a heatmap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_emergence.checks import instance
from tl_emergence.plots.drawing import (
    CONTROL_STYLE,
    EXACT,
    FOOTNOTE,
    Metric,
    NotebookFigure,
    axes_for,
    check_single,
    chosen_layers,
    column_of,
    draw_cap,
    draw_line,
    label_positions,
    title_of,
    two_lines,
    values_of,
)
from tl_emergence.plots.heatmaps import heatmap
from tl_emergence.results import EmergenceResult, SigmaSweep


def curves(
    result: EmergenceResult,
    *,
    metric: Metric = "emergence",
    layers: Sequence[int] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Figure:
    """Draw curves over positions for some blocks, with the exact staircase, the cap and the control.

    Args:
        result: What to draw.
        metric: "emergence", "macro" or "micro".
        layers: Blocks to draw; up to five spread over the depth otherwise.
        ax: Axes to draw into; a new figure otherwise.
        title: Title of the axes.

    Raises:
        SettingError: An unknown metric, or a block that was not measured.
    """
    check_single(result)
    figure, axes = axes_for(ax, (7.0, 4.2))
    chosen = chosen_layers(result, layers)
    x = np.arange(len(result.positions))
    values, errors, exact = values_of(result, metric)
    for k, layer in enumerate(chosen):
        row = result.layers.index(layer)
        draw_line(axes, x, values[row], errors[row], k / max(1, len(chosen) - 1), f"block {layer}")
    for name, control in result.controls.items():
        label, style = CONTROL_STYLE.get(name, (name, ":"))
        row = control.layers.index(chosen[-1])
        axes.plot(
            x, values_of(control, metric)[0][row], style, color="0.5", label=f"{label}, block {chosen[-1]}"
        )
    # A dash a position: a line between them would seem to be crossed where it is not.
    axes.hlines(exact[-1], x - 0.3, x + 0.3, color="black", linewidth=2, label=EXACT[metric])
    draw_cap(axes, result, 0.0)
    label_positions(axes, result.labels)
    axes.set_ylabel(f"{metric} (bits)")
    axes.set_title(title if title is not None else two_lines(title_of(result)), fontsize=10)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def sigma_curves(
    sweep: SigmaSweep,
    *,
    metric: Metric = "emergence",
    pos: int = -1,
    layers: Sequence[int] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw information against sigma at one position, for some blocks, with exact value, cap and control.

    Args:
        sweep: Results at several noise levels.
        metric: "emergence", "macro" or "micro".
        pos: Content position; -1 is the last scored.
        layers: Blocks to draw; up to five spread over the depth otherwise.
        ax: Axes to draw into; a new figure otherwise.

    Raises:
        SettingError: An unknown metric, or a block or position that was not measured.
    """
    instance("a sweep", sweep, SigmaSweep, "Measure with several sigmas; a single result has .plot().")
    first = next(iter(sweep.values()))
    column = column_of(first, pos)
    figure, axes = axes_for(ax, (6.6, 4.2))
    sigmas = sorted(sweep)
    chosen = chosen_layers(first, layers)
    for k, layer in enumerate(chosen):
        row = first.layers.index(layer)
        found = [values_of(sweep[s], metric) for s in sigmas]
        values, errors = (np.array([part[i][row, column] for part in found]) for i in (0, 1))
        draw_line(axes, np.array(sigmas), values, errors, k / max(1, len(chosen) - 1), f"block {layer}")
    for name in first.controls:
        label, style = CONTROL_STYLE.get(name, (name, ":"))
        row = first.layers.index(chosen[-1])
        line = [values_of(sweep[s].controls[name], metric)[0][row, column] for s in sigmas]
        axes.plot(sigmas, line, style, color="0.5", label=f"{label}, block {chosen[-1]}", zorder=3)
    axes.axhline(values_of(first, metric)[2][-1, column], color="black", linewidth=1.2, label=EXACT[metric])
    draw_cap(axes, first, sigmas[0])
    axes.set_xscale("log", base=2)
    axes.set_xticks(sigmas, [f"{s:g}" for s in sigmas])
    axes.minorticks_off()
    axes.set_xlabel(f"noise sigma (units of space {first.space!r})")
    axes.set_ylabel(f"{metric} at {first.labels[column]!r} (bits)")
    axes.set_title(two_lines(title_of(first, sigma=False)), fontsize=10)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def overview(result: EmergenceResult, *, metric: Metric = "emergence") -> Figure:
    """Draw the heatmap and the curves of one result beside each other.

    Raises:
        SettingError: An unknown metric.
    """
    check_single(result)
    height = max(4.2, 1.8 + 0.22 * len(result.layers))
    figure = NotebookFigure(figsize=(12.5, height), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    heatmap(result, metric=metric, ax=left, title="every block and position")
    controls = " and control" if result.controls else "; no control was run"
    curves(result, metric=metric, ax=right, title=f"some blocks, with exact value, cap{controls}")
    figure.supxlabel(FOOTNOTE, fontsize=8)
    figure.suptitle(title_of(result), fontsize=11)
    return figure
