"""Figures: every one with exact values, cap and control drawn in. They are returned, never shown.

`import tl_emergence` does not import matplotlib; this module does.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from tl_emergence.errors import SettingError, unknown_name
from tl_emergence.results import EmergenceResult, SigmaSweep
from tl_emergence.tables import model_name

Metric = Literal["emergence", "macro", "micro"]

_CONTROL_STYLE = {
    "shuffled_weights": ("weights shuffled", "--"),
    "shuffled_tokens": ("tokens shuffled", "-."),
    "deranged": ("deranged", ":"),
}
_EXACT = {
    "emergence": "exact (no noise)",
    "macro": "ceiling (exact)",
    "micro": "ceiling (exact)",
}
_FOOTNOTE = "colours end at the exact value; framed: macro above 0.9 of its cap (saturated)"
_SEQUENTIAL, _DIVERGING = "viridis", "RdBu_r"


class _NotebookFigure(Figure):
    """A figure that a notebook shows when a cell ends with it, whether or not pyplot was ever used."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=100)
        return content.getvalue()


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
    _check_single(result)
    size = (max(6.0, 1.2 + 0.55 * len(result.positions)), max(4.0, 1.8 + 0.22 * len(result.layers)))
    figure, axes = _axes(ax, size)
    image = _draw_heatmap(axes, result, metric, title, vmax)
    figure.colorbar(image, ax=axes, label=f"{metric} (bits)")
    if ax is None:
        figure.supxlabel(_FOOTNOTE, fontsize=8)
    return figure


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
    _check_single(result)
    figure, axes = _axes(ax, (7.0, 4.2))
    chosen = _chosen_layers(result, layers)
    x = np.arange(len(result.positions))
    values, errors, exact = _metric(result, metric)
    for k, layer in enumerate(chosen):
        row = result.layers.index(layer)
        _line(axes, x, values[row], errors[row], k / max(1, len(chosen) - 1), f"block {layer}")
    for name, control in result.controls.items():
        label, style = _CONTROL_STYLE.get(name, (name, ":"))
        row = control.layers.index(chosen[-1])
        axes.plot(
            x, _metric(control, metric)[0][row], style, color="0.5", label=f"{label}, block {chosen[-1]}"
        )
    # A dash a position: a line between them would seem to be crossed where it is not.
    axes.hlines(exact[-1], x - 0.3, x + 0.3, color="black", linewidth=2, label=_EXACT[metric])
    _draw_cap(axes, result, 0.0)
    axes.set_xticks(x, result.labels, rotation=40, ha="right")
    axes.set_ylabel(f"{metric} (bits)")
    axes.set_title(title if title is not None else _two_lines(_title(result)), fontsize=10)
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
    first = next(iter(sweep.values()))
    column = _column(first, pos)
    figure, axes = _axes(ax, (6.6, 4.2))
    sigmas = sorted(sweep)
    chosen = _chosen_layers(first, layers)
    for k, layer in enumerate(chosen):
        row = first.layers.index(layer)
        found = [_metric(sweep[s], metric) for s in sigmas]
        values, errors = (np.array([part[i][row, column] for part in found]) for i in (0, 1))
        _line(axes, np.array(sigmas), values, errors, k / max(1, len(chosen) - 1), f"block {layer}")
    for name in first.controls:
        label, style = _CONTROL_STYLE.get(name, (name, ":"))
        row = first.layers.index(chosen[-1])
        line = [_metric(sweep[s].controls[name], metric)[0][row, column] for s in sigmas]
        axes.plot(sigmas, line, style, color="0.5", label=f"{label}, block {chosen[-1]}", zorder=3)
    axes.axhline(_metric(first, metric)[2][-1, column], color="black", linewidth=1.2, label=_EXACT[metric])
    _draw_cap(axes, first, sigmas[0])
    axes.set_xscale("log", base=2)
    axes.set_xticks(sigmas, [f"{s:g}" for s in sigmas])
    axes.minorticks_off()
    axes.set_xlabel(f"noise sigma (units of space {first.space!r})")
    axes.set_ylabel(f"{metric} at {first.labels[column]!r} (bits)")
    axes.set_title(_two_lines(_title(first, sigma=False)), fontsize=10)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def overview(result: EmergenceResult, *, metric: Metric = "emergence") -> Figure:
    """Draw the heatmap and the curves of one result beside each other.

    Raises:
        SettingError: An unknown metric.
    """
    _check_single(result)
    height = max(4.2, 1.8 + 0.22 * len(result.layers))
    figure = _NotebookFigure(figsize=(12.5, height), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    heatmap(result, metric=metric, ax=left, title="every block and position")
    controls = " and control" if result.controls else "; no control was run"
    curves(result, metric=metric, ax=right, title=f"some blocks, with exact value, cap{controls}")
    figure.supxlabel(_FOOTNOTE, fontsize=8)
    figure.suptitle(_title(result), fontsize=11)
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
    if not results:
        raise SettingError("nothing to draw", seen="no results", expected="at least one", fix="Pass some.")
    picked = {space: at_sigma(found, sigma) for space, found in results.items()}
    panels = [(f"space {space!r}", found) for space, found in picked.items()]
    first_space, first = next(iter(picked.items()))
    for name in [name for name in _CONTROL_STYLE if name in first.controls][:1]:
        panels.append((f"control: {_CONTROL_STYLE[name][0]}, {first_space!r}", first.controls[name]))
    vmax = max(float(_metric(found, metric)[2].max()) for _, found in panels)
    size = (max(7.5, 0.8 + 3.6 * len(panels)), max(4.2, 2.2 + 0.22 * len(first.layers)))
    figure = _NotebookFigure(figsize=size, layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    images = [
        _draw_heatmap(axes, found, metric, title, vmax)
        for axes, (title, found) in zip(all_axes, panels, strict=True)
    ]
    for axes in all_axes[1:]:
        axes.set_ylabel("")
    figure.colorbar(images[0], ax=list(all_axes), label=f"{metric} (bits)")
    figure.supxlabel(_FOOTNOTE, fontsize=8)
    figure.suptitle(_title(first, space=False), fontsize=11)
    return figure


def at_sigma(found: EmergenceResult | SigmaSweep, sigma: float | None) -> EmergenceResult:
    """Return a result itself, or the one of a sweep at sigma (nearest to 0.5 for None).

    Raises:
        SettingError: A sigma that was not measured.
    """
    if isinstance(found, EmergenceResult):
        found = SigmaSweep({found.sigma: found})
    chosen = min(found, key=lambda s: abs(s - 0.5)) if sigma is None else sigma
    if chosen not in found:
        raise SettingError(
            "sigma not measured", seen=chosen, expected=f"one of {sorted(found)}", fix="Choose one of these."
        )
    return found[chosen]


def _check_single(result: object) -> None:
    if not isinstance(result, EmergenceResult):
        keys = list(result) if isinstance(result, Mapping) else type(result).__name__
        raise SettingError(
            "not a single result",
            seen=f"{type(result).__name__} of {keys}",
            expected="an EmergenceResult",
            fix="Pick one by its keys: results['read'], or results['read'][0.5].",
        )


def _axes(ax: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    if ax is not None:
        figure = ax.get_figure(root=True)
        assert figure is not None
        return figure, ax
    figure = _NotebookFigure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def _draw_cap(axes: Axes, result: EmergenceResult, left: float) -> None:
    if result.cap_bits is None:
        return
    axes.axhline(result.cap_bits, color="firebrick", linestyle=":", linewidth=1.2)
    axes.annotate(
        f"cap of macro: log2 N = {result.cap_bits:.1f}",
        (left, result.cap_bits),
        xytext=(0, 3),
        textcoords="offset points",
        color="firebrick",
        fontsize=8,
    )


def _line(axes: Axes, x: np.ndarray, y: np.ndarray, errors: np.ndarray, depth: float, label: str) -> None:
    """Draw one block's curve with error bars, coloured by depth."""
    color = colormaps[_SEQUENTIAL](0.9 * depth)
    axes.plot(x, y, color=color, marker="o", markersize=3.5, linewidth=1.6, label=label)
    axes.errorbar(x, y, yerr=errors, fmt="none", ecolor=color, capsize=2)


def _draw_heatmap(
    axes: Axes, result: EmergenceResult, metric: Metric, title: str | None, vmax: float | None
) -> AxesImage:
    values, _, exact = _metric(result, metric)
    top = vmax if vmax is not None else max(float(exact.max()), 1e-6)
    # Emergence has a meaningful zero and falls below it; information does not.
    signed = metric == "emergence"
    image = axes.imshow(
        values,
        aspect="auto",
        origin="lower",
        vmin=-top if signed else 0.0,
        vmax=top,
        cmap=_DIVERGING if signed else _SEQUENTIAL,
    )
    saturated = result.micro_saturated if metric == "micro" else result.macro_saturated
    for row, column in saturated.nonzero().tolist():
        corner = (column - 0.46, row - 0.46)
        axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor="black", linewidth=0.7))
    axes.set_xticks(range(len(result.positions)), result.labels, rotation=40, ha="right")
    step = max(1, len(result.layers) // 12)
    axes.set_yticks(range(0, len(result.layers), step), [str(x) for x in result.layers[::step]])
    axes.set_ylabel("block")
    axes.set_title(title if title is not None else _two_lines(_title(result)), fontsize=10)
    return image


def _metric(result: EmergenceResult, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return values, standard errors and exact values of a metric."""
    if metric not in get_args(Metric):
        raise unknown_name("metric", metric, get_args(Metric))
    errors = {"emergence": result.stderr, "macro": result.macro_stderr, "micro": result.micro_stderr}
    return (
        getattr(result, metric).numpy(),
        errors[metric].numpy(),
        getattr(result.exact, metric).numpy(),
    )


def _chosen_layers(result: EmergenceResult, layers: Sequence[int] | None) -> list[int]:
    if layers is None:
        # Block 0 reads the bare embedding, where macro is micro: it would only draw a line at the bottom.
        inner = [layer for layer in result.layers if layer > 0] or list(result.layers)
        places = np.linspace(0, len(inner) - 1, min(5, len(inner)))
        return [inner[round(p)] for p in places]
    missing = [layer for layer in layers if layer not in result.layers]
    if missing or not layers:
        raise SettingError(
            "block not measured",
            seen=missing or "no block",
            expected=f"some of {list(result.layers)}",
            fix="Measure again with layers= that include it.",
        )
    return list(layers)


def _column(result: EmergenceResult, pos: int) -> int:
    if pos == -1:
        return len(result.positions) - 1
    if pos not in result.positions:
        raise SettingError(
            "position not measured",
            seen=pos,
            expected=f"one of {list(result.positions)}, or -1 for the last",
            fix="Measure again with positions= that include it.",
        )
    return result.positions.index(pos)


def _two_lines(title: str) -> str:
    return title.replace("  |  ", "\n", 1)


def _title(result: EmergenceResult, *, sigma: bool = True, space: bool = True) -> str:
    parts = [
        model_name(result),
        f"{result.settings.get('prompts', 'tokens')} prompts, N = {result.n_prompts:,}",
        result.estimator + (f", sigma {result.sigma:g}" if sigma and result.sigma else ""),
    ]
    return "  |  ".join([*parts, *([f"space {result.space!r}"] if space else [])])
