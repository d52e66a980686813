"""What every figure is made of: axes, lines, caps, titles, and the values of a metric."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_emergence.checks import instance, integer, integers
from tl_emergence.errors import SettingError, unknown_name
from tl_emergence.results import EmergenceResult
from tl_emergence.tables import model_name

Metric = Literal["emergence", "macro", "micro"]

CONTROL_STYLE = {
    "shuffled_weights": ("weights shuffled", "--"),
    "shuffled_tokens": ("tokens shuffled", "-."),
    "deranged": ("deranged", ":"),
}
EXACT = {
    "emergence": "exact (no noise)",
    "macro": "ceiling (exact)",
    "micro": "ceiling (exact)",
}
FOOTNOTE = "colours end at the exact value; framed: macro above 0.9 of its cap (saturated)"
# Room along the axis, in inches, of labels that are turned by 40 degrees.
_ROOM_OF_LABEL = 0.22
WIDEST = 16.0
"""Width in inches that no figure of one result exceeds, however long its prompts are."""
SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"


class NotebookFigure(Figure):
    """A figure that a notebook shows when a cell ends with it, whether or not pyplot was ever used."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=100)
        return content.getvalue()


def axes_for(ax: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """Return the caller's axes with their figure, or those of a new figure."""
    if ax is not None:
        instance("axes", ax, Axes, "Pass axes of Matplotlib, or leave ax out for a new figure.")
        figure = ax.get_figure(root=True)
        assert figure is not None
        return figure, ax
    figure = NotebookFigure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def labelled(n: int, axes: Axes, inches: float, *, vertical: bool = False) -> range:
    """Return which of n evenly spaced ticks to label, the last among them: as many as fit.

    Args:
        n: How many ticks there are.
        axes: The axes that they stand on.
        inches: How much room a label needs along the axis.
        vertical: Whether they stand on the y-axis.
    """
    box = axes.get_position()
    width, height = axes.get_figure(root=True).get_size_inches()  # type: ignore[union-attr]
    length = float(box.height * height if vertical else box.width * width)
    step = max(1, math.ceil(n * inches / length))
    return range((n - 1) % step, n, step)


def label_positions(axes: Axes, labels: Sequence[str]) -> None:
    """Label as many positions along the x-axis as fit, the last one among them."""
    shown = labelled(len(labels), axes, _ROOM_OF_LABEL)
    axes.set_xticks(shown, [labels[k] for k in shown], rotation=40, ha="right")


def draw_cap(axes: Axes, result: EmergenceResult, left: float) -> None:
    """Draw the cap of macro, where the estimator has one, and name it from `left` on."""
    if result.cap_bits is None:
        return
    axes.axhline(result.cap_bits, color="firebrick", linestyle=":", linewidth=1.2)
    of_all = abs(result.cap_bits - math.log2(result.n_prompts)) < 1e-9
    axes.annotate(
        f"cap of macro: log2 {'N' if of_all else 'of a fold'} = {result.cap_bits:.1f}",
        (left, result.cap_bits),
        xytext=(0, 3),
        textcoords="offset points",
        color="firebrick",
        fontsize=8,
    )


def draw_line(axes: Axes, x: np.ndarray, y: np.ndarray, errors: np.ndarray, depth: float, label: str) -> None:
    """Draw one block's curve with error bars, coloured by depth."""
    color = colormaps[SEQUENTIAL](0.9 * depth)
    axes.plot(x, y, color=color, marker="o", markersize=3.5, linewidth=1.6, label=label)
    axes.errorbar(x, y, yerr=errors, fmt="none", ecolor=color, capsize=2)


def values_of(result: EmergenceResult, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return values, standard errors and exact values of a metric."""
    if metric not in get_args(Metric):
        raise unknown_name("metric", metric, get_args(Metric))
    errors = {"emergence": result.stderr, "macro": result.macro_stderr, "micro": result.micro_stderr}
    return (
        getattr(result, metric).numpy(),
        errors[metric].numpy(),
        getattr(result.exact, metric).numpy(),
    )


def chosen_layers(result: EmergenceResult, layers: Sequence[int] | None) -> list[int]:
    """Return the blocks to draw: those asked for, or up to five spread over the depth."""
    if layers is None:
        # Block 0 reads the bare embedding, where macro is micro: it would only draw a line at the bottom.
        inner = [layer for layer in result.layers if layer > 0] or list(result.layers)
        places = np.linspace(0, len(inner) - 1, min(5, len(inner)))
        return [inner[round(p)] for p in places]
    chosen = integers("layer", layers) or ()
    missing = [layer for layer in chosen if layer not in result.layers]
    if missing or not chosen:
        raise SettingError(
            "block not measured",
            seen=missing or "no block",
            expected=f"some of {list(result.layers)}",
            fix="Measure again with layers= that include it.",
        )
    return list(chosen)


def column_of(result: EmergenceResult, pos: int) -> int:
    """Return the column of a content position; -1 is the last scored."""
    pos = integer("pos", pos)
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


def two_lines(title: str) -> str:
    """Return a title broken after its first part."""
    return title.replace("  |  ", "\n", 1)


def title_of(result: EmergenceResult, *, sigma: bool = True, space: bool = True) -> str:
    """Return what was measured, on what and how, in one line."""
    parts = [
        model_name(result),
        f"{result.settings.get('prompts', 'tokens')} prompts, N = {result.n_prompts:,}",
        result.estimator + (f", sigma {result.sigma:g}" if sigma and result.sigma else ""),
    ]
    return "  |  ".join([*parts, *([f"space {result.space!r}"] if space else [])])


def check_single(result: object) -> None:
    """Raise SettingError for a sweep or comparison where one result is to be drawn."""
    if not isinstance(result, EmergenceResult):
        keys = list(result) if isinstance(result, Mapping) else type(result).__name__
        raise SettingError(
            "not a single result",
            seen=f"{type(result).__name__} of {keys}",
            expected="an EmergenceResult",
            fix="Pick one by its keys: results['read'], or results['read'][0.5].",
        )
