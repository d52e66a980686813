"""Heatmaps of the effects of ablated heads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_emergence.checks import instance, is_key
from tl_emergence.circuits.effects import HeadEffects
from tl_emergence.errors import unknown_name
from tl_emergence.plots.drawing import DIVERGING, NotebookFigure, labelled

_NAMED = 5
# Room of a number of two or three digits, in inches.
_ROOM_OF_NUMBER = 0.15
_WIDEST_PANEL = 12.0


def head_effects(effects: HeadEffects, metric: str | None = None) -> Figure:
    """Draw the mean effects of each head, one panel a metric, centred at 0; the leading heads are named.

    Raises:
        SettingError: A metric that was not measured.
    """
    instance("effects", effects, HeadEffects, "Pass what ablate_heads returns.")
    if metric is not None and not is_key(metric, effects.metrics):
        raise unknown_name("metric", metric, list(effects.metrics))
    shown: Sequence[str] = effects.metrics if metric is None else [metric]
    width = min(max(3.4, 1.9 + 0.42 * len(effects.heads)), _WIDEST_PANEL)
    size = (width * len(shown) + 0.6, max(3.2, 1.8 + 0.21 * len(effects.layers)))
    figure = NotebookFigure(figsize=size, layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        _draw(axes, figure, effects, name)
    what = {"head": "heads", "mlp": "MLPs", "block": "blocks"}[effects.component]
    model = str(effects.settings.get("model_note") or effects.settings.get("model", "model"))
    figure.suptitle(
        f"{effects.kind} ablation of {what}: ablated minus clean\n"
        f"{model}  |  {effects.settings.get('prompts', 'prompts')}, N = {effects.n_prompts:,}",
        fontsize=10,
    )
    return figure


def _draw(axes: Axes, figure: Figure, effects: HeadEffects, metric: str) -> None:
    mean = effects.mean(metric).numpy()
    largest = float(np.nanmax(np.abs(mean))) or 1.0
    rows, columns = mean.shape
    image = axes.imshow(mean, cmap=DIVERGING, vmin=-largest, vmax=largest, aspect="auto", origin="lower")
    unit = effects.units[metric] or "its own unit"
    figure.colorbar(image, ax=axes, label=f"change of {metric}\n({unit})")
    axes.set_facecolor("lightgrey")
    axes.set_title(f"{metric}: clean {float(effects.baseline[metric].mean()):.2f}", fontsize=10)
    axes.set_ylabel("layer")
    shown = labelled(rows, axes, _ROOM_OF_NUMBER, vertical=True)
    axes.set_yticks(shown, [str(effects.layers[k]) for k in shown], fontsize=7)
    shown = labelled(columns, axes, _ROOM_OF_NUMBER)
    axes.set_xticks(shown, [str(effects.heads[k]) for k in shown], fontsize=7)
    axes.set_xlabel("head" if effects.component == "head" else "")
    if effects.component != "head":
        axes.set_xticks([])
    for row in effects.ranked(metric, _NAMED).to_dict("records"):
        i = effects.layers.index(row["layer"])
        (j,) = [k for k, head in enumerate(effects.heads) if effects.label(row["layer"], head) == row["head"]]
        light = abs(row["effect"]) < 0.6 * largest
        axes.text(
            j, i, row["head"], ha="center", va="center", fontsize=7, color="black" if light else "white"
        )
