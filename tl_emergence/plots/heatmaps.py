"""Heatmaps of every block and position, one or several beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from tl_emergence.checks import instance, number
from tl_emergence.errors import SettingError
from tl_emergence.half_blocks import HalfBlocks
from tl_emergence.plots.drawing import (
    CONTROL_STYLE,
    DIVERGING,
    FOOTNOTE,
    SEQUENTIAL,
    WIDEST,
    Metric,
    NotebookFigure,
    axes_for,
    check_single,
    label_positions,
    title_of,
    two_lines,
    values_of,
)
from tl_emergence.results import EmergenceResult, SigmaSweep
from tl_emergence.selection import at_sigma


def heatmap(
    result: EmergenceResult,
    *,
    metric: Metric = "emergence",
    ax: Axes | None = None,
    title: str | None = None,
    vmax: float | None = None,
) -> Figure:
    """Draw a layer x position heatmap; the colours end at the exact value, saturated cells are framed.

    Args:
        result: What to draw.
        metric: "emergence", "macro" or "micro".
        ax: Axes to draw into; a new figure otherwise.
        title: Title of the axes.
        vmax: End of the colour scale in bits; the largest exact value otherwise.

    Raises:
        SettingError: An unknown metric.
    """
    check_single(result)
    width = min(max(6.0, 1.2 + 0.55 * len(result.positions)), WIDEST)
    size = (width, max(4.0, 1.8 + 0.22 * len(result.layers)))
    figure, axes = axes_for(ax, size)
    image = draw_heatmap(axes, result, metric, title, vmax)
    figure.colorbar(image, ax=axes, label=f"{metric} (bits)")
    if ax is None:
        figure.supxlabel(FOOTNOTE, fontsize=8)
    return figure


def side_by_side(
    results: Mapping[str, EmergenceResult | SigmaSweep],
    *,
    metric: Metric = "emergence",
    sigma: float | None = None,
) -> Figure:
    """Draw heatmaps of several spaces, and of their first control, on one colour scale.

    Args:
        results: Results by space, such as a `SpaceComparison`.
        metric: "emergence", "macro" or "micro".
        sigma: Which noise level of a sweep; the one nearest to 0.5 otherwise.

    Raises:
        SettingError: Nothing to draw, an unknown metric, a sigma that was not measured.
    """
    instance("results by space", results, Mapping, "Pass a SpaceComparison, or a dict of results.")
    if not results:
        raise SettingError("nothing to draw", seen="no results", expected="at least one", fix="Pass some.")
    picked = {space: at_sigma(found, sigma) for space, found in results.items()}
    panels = [(f"space {space!r}", found) for space, found in picked.items()]
    first_space, first = next(iter(picked.items()))
    for name in [name for name in CONTROL_STYLE if name in first.controls][:1]:
        panels.append((f"control: {CONTROL_STYLE[name][0]}, {first_space!r}", first.controls[name]))
    return _panels(panels, metric, title_of(first, space=False))


def half_blocks(halves: HalfBlocks, *, metric: Metric = "emergence") -> Figure:
    """Draw a heatmap of the attention halves, of the MLP halves and of the blocks, on one colour scale.

    Args:
        halves: What to draw.
        metric: "emergence", "macro" or "micro".

    Raises:
        SettingError: An unknown metric.
    """
    instance("half-blocks", halves, HalfBlocks, "Pass what half_block_emergence returns.")
    return _panels(list(halves.parts()), metric, title_of(halves.whole))


def _panels(panels: Sequence[tuple[str, EmergenceResult]], metric: Metric, title: str) -> Figure:
    """Draw titled heatmaps side by side on one colour scale."""
    vmax = max(float(values_of(found, metric)[2].max()) for _, found in panels)
    size = (max(7.5, 0.8 + 3.6 * len(panels)), max(4.2, 2.2 + 0.22 * len(panels[0][1].layers)))
    figure = NotebookFigure(figsize=size, layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    images = [
        draw_heatmap(axes, found, metric, name, vmax)
        for axes, (name, found) in zip(all_axes, panels, strict=True)
    ]
    for axes in all_axes[1:]:
        axes.set_ylabel("")
    figure.colorbar(images[0], ax=list(all_axes), label=f"{metric} (bits)")
    figure.supxlabel(FOOTNOTE, fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def draw_heatmap(
    axes: Axes, result: EmergenceResult, metric: Metric, title: str | None, vmax: float | None
) -> AxesImage:
    """Draw one heatmap into axes; saturated cells are framed."""
    values, _, exact = values_of(result, metric)
    top = number("vmax", vmax) if vmax is not None else max(float(exact.max()), 1e-6)
    # Emergence has a meaningful zero and falls below it; information does not.
    signed = metric == "emergence"
    image = axes.imshow(
        values,
        aspect="auto",
        origin="lower",
        vmin=-top if signed else 0.0,
        vmax=top,
        cmap=DIVERGING if signed else SEQUENTIAL,
    )
    saturated = result.micro_saturated if metric == "micro" else result.macro_saturated
    for row, column in saturated.nonzero().tolist():
        corner = (column - 0.46, row - 0.46)
        axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor="black", linewidth=0.7))
    label_positions(axes, result.labels)
    step = max(1, len(result.layers) // 12)
    axes.set_yticks(range(0, len(result.layers), step), [str(x) for x in result.layers[::step]])
    axes.set_ylabel("block")
    axes.set_title(title if title is not None else two_lines(title_of(result)), fontsize=10)
    return image
