"""One figure an experiment, from its tables alone: measured, exact, cap and control together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tl_emergence.checks import instance
from tl_emergence.errors import unknown_name
from tl_emergence.experiments.result import ExperimentResult
from tl_emergence.experiments.words import counted
from tl_emergence.plots.drawing import NotebookFigure

if TYPE_CHECKING:
    import pandas as pd


_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:cyan")
_CONTROL = "shuffled_weights"


def experiment(result: ExperimentResult) -> Figure:
    """Draw the figure of an experiment's result.

    Raises:
        SettingError: A result of an experiment that has no figure.
    """
    instance("the result of an experiment", result, ExperimentResult, "Pass what an experiment returns.")
    drawings: dict[str, Callable[[ExperimentResult], Figure]] = {
        "shots": _shots,
        "natural text": _natural_text,
        "model size": _model_size,
        "training": _training,
        "variance": _variance,
        "text sources": _text_sources,
    }
    if result.name not in drawings:
        raise unknown_name("experiment", result.name, list(drawings))
    return drawings[result.name](result)


def _panels(
    rows: Sequence[Any], columns: Sequence[Any], width: float = 4.6, height: float = 3.1
) -> tuple[Figure, np.ndarray]:
    size = (width * len(columns) + 2.2, height * len(rows) + 0.4)
    figure = NotebookFigure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False, sharex="col")
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(10)
    return figure, grid


def _colours() -> Iterator[str]:
    return itertools.cycle(_COLOURS)


def _unique(table: pd.DataFrame, column: str) -> list[Any]:
    return list(dict.fromkeys(table[column]))


def _where(table: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    for column, value in wanted.items():
        table = table.loc[table[column] == value]
    return table


def _curve(axes: Axes, rows: pd.DataFrame, colour: str, x: str = "pos") -> None:
    """Draw measured values with errors, the exact values dashed and the control thin."""
    measured, control = _where(rows, run="model"), _where(rows, run=_CONTROL)
    axes.errorbar(
        measured[x], measured["value"], yerr=1.96 * measured["stderr"], color=colour, marker="o", markersize=3
    )
    axes.plot(measured[x], measured["exact"], "--", color=colour, linewidth=1)
    if len(control):
        axes.plot(control[x], control["value"], color="0.6", linewidth=3.5, alpha=0.5, zorder=1)


def _legend(figure: Figure, colours: dict[str, str], cap: bool = False) -> None:
    lines = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    lines += [
        Line2D([], [], color="0.3", marker="o", markersize=3, label="measured, 95 % interval"),
        Line2D([], [], color="0.3", linestyle="--", linewidth=1, label="exact"),
        Line2D([], [], color="0.6", linewidth=3.5, alpha=0.5, label="weights shuffled"),
    ]
    if cap:
        lines.append(Line2D([], [], color="0.3", linestyle=":", label="log2 N, the cap of macro"))
    figure.legend(handles=lines, loc="outside right upper", fontsize=8, frameon=False)


def _shots(result: ExperimentResult) -> Figure:
    curves = result.tables["curves"]
    spaces, sizes = _unique(curves, "space"), _unique(curves, "n")
    cells = list(dict.fromkeys(zip(curves["model"], curves["list"], strict=True)))
    columns = [(quantity, space) for quantity in ("macro", "emergence") for space in spaces]
    figure, grid = _panels(cells, columns, width=3.9)
    for (model, name), row in zip(cells, grid, strict=True):
        for (quantity, space), axes in zip(columns, row, strict=True):
            of = _where(curves, model=model, list=name, space=space, quantity=quantity)
            for size, colour in zip(sizes, _colours(), strict=False):
                _curve(axes, _where(of, n=size), colour)
                if quantity == "macro":
                    axes.axhline(math.log2(size), color=colour, linestyle=":", linewidth=1)
            last = max(of["pos"].tolist())
            axes.set_xticks(range(1, last + 1, 2), [str(shot) for shot in range(1, last // 2 + 2)])
            axes.set(title=f"{model}, {name}, {space!r}", ylabel=f"{quantity} (bits)")
            if quantity == "macro":
                axes.set_ylim(0, None)
    for axes in grid[-1]:
        axes.set_xlabel("shots (ticks at separators, entities between)")
    _legend(figure, {f"N = {n:,}": c for n, c in zip(sizes, _colours(), strict=False)}, cap=True)
    figure.suptitle("Macro and emergence along a list, mean over blocks; dashed: the prompts alone")
    return figure


def _natural_text(result: ExperimentResult) -> Figure:
    curves = _where(result.tables["curves"], quantity="emergence")
    models, spaces, kinds = (_unique(curves, name) for name in ("model", "space", "kind"))
    columns = [(space, what) for space in spaces for what in ("text", "list")]
    figure, grid = _panels(models, columns, width=3.6)
    colours = dict(zip(kinds, _colours(), strict=False))
    for model, row in zip(models, grid, strict=True):
        for (space, what), axes in zip(columns, row, strict=True):
            of = _where(curves, model=model, space=space)
            shown = [kind for kind in kinds if (kind == "list") == (what == "list")]
            for kind in shown:
                _curve(axes, _where(of, kind=kind), colours[kind])
            last = max(of.loc[of["kind"].isin(shown), "pos"].tolist())
            step = max(2, math.ceil(last / 16))
            axes.set_xticks(range(0, last + 1, step), [str(t + 1) for t in range(0, last + 1, step)])
            axes.set(title=f"{model}, {space!r}, {what}", ylabel="emergence (bits)")
    for axes in grid[-1]:
        axes.set_xlabel("tokens read")
    names = {
        kind: f"text, {kind.split('-')[1]} tokens at the {kind.split('-')[0]}" if "-" in kind else "list"
        for kind in kinds
    }
    _legend(figure, {names[k]: c for k, c in zip(kinds, _colours(), strict=False)})
    figure.suptitle(f"Emergence over tokens of text and lists, N = {result.settings['n']:,} (scales differ)")
    return figure


def _model_size(result: ExperimentResult) -> Figure:
    sizes = result.tables["sizes"]
    spaces, order = _unique(sizes, "space"), sizes.sort_values("parameters")
    models = _unique(order, "model")
    figure, grid = _panels([0], spaces, height=3.4)
    for space, axes in zip(spaces, grid[0], strict=True):
        for run, colour in (("model", "tab:blue"), (_CONTROL, "0.6")):
            of = _where(order, space=space, run=run)
            label = "model" if run == "model" else "weights shuffled"
            axes.errorbar(
                of["parameters"],
                of["share"],
                yerr=1.96 * of["stderr"],
                fmt="o",
                color=colour,
                label=label,
            )
        axes.axhline(1.0, color="0.3", linestyle="--", linewidth=1)
        axes.set(
            xscale="log",
            title=f"{space!r}",
            xlabel="parameters",
            ylabel="emergence / exact",
            ylim=(0, max(1.08, *(1.05 * share for share in sizes["share"].tolist()))),
        )
        axes.minorticks_off()
        counts = [float(_where(order, model=model).iloc[0]["parameters"]) for model in models]
        axes.set_xticks(
            counts, [f"{name}\n{counted(size)}" for name, size in zip(models, counts, strict=True)]
        )
        axes.margins(x=0.25)
    grid[0][-1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    few = "" if len(models) > 2 else " (two models make no trend)"
    figure.suptitle(f"The same prompts through several models; 1 is the exact value{few}")
    return figure


def _training(result: ExperimentResult) -> Figure:
    steps = result.tables["checkpoints"]
    spaces, places = _unique(steps, "space"), {s: k for k, s in enumerate(_unique(steps, "checkpoint"))}
    by_step = bool(steps["step"].notna().all())
    named = [f"{int(_where(steps, checkpoint=one).iloc[0]['step']):,}" if by_step else one for one in places]
    figure, grid = _panels([0], spaces, height=3.4)
    for space, axes in zip(spaces, grid[0], strict=True):
        of = _where(steps, space=space)
        of = of.assign(place=[places[one] for one in of["checkpoint"]])
        measured, control = _where(of, run="model"), _where(of, run=_CONTROL)
        axes.errorbar(
            measured["place"], measured["value"], yerr=1.96 * measured["stderr"], marker="o", markersize=4
        )
        axes.plot(measured["place"], measured["exact"], "--", color="tab:blue", linewidth=1)
        axes.plot(control["place"], control["value"], "*", color="0.5", markersize=10)
        axes.set_xticks(list(places.values()), named)
        label = "training step (not to scale)" if by_step else "checkpoint, in the order given"
        axes.set(title=f"{space!r}", xlabel=label, ylabel="emergence (bits)")
    _legend(figure, {})
    figure.suptitle("Emergence at the last position over training, mean over blocks (star: weights shuffled)")
    return figure


def _variance(result: ExperimentResult) -> Figure:
    spread = result.tables["spread"]
    models, spaces = _unique(spread, "model"), _unique(spread, "space")
    figure, grid = _panels(models, range(3), width=3.7)
    for model, row in zip(models, grid, strict=True):
        of = _where(spread, model=model)
        for space, colour in zip(spaces, _colours(), strict=False):
            _over_seeds(row[0], _where(of, space=space), "sd over prompts", colour, repr(space))
            noise = _where(result.tables["noise"], model=model, space=space)
            row[0].plot(noise["shot"], noise["noise sd"], ":", color=colour, label=f"{space!r}, noise")
        shuffled = (
            of.dropna(subset=["shuffled sd"]).groupby("shot", as_index=False)["shuffled sd"].agg("mean")
        )
        row[0].plot(
            shuffled["shot"],
            shuffled["shuffled sd"],
            color="0.8",
            linewidth=4,
            label="weights shuffled",
            zorder=0,
        )
        exact = _where(of, space=spaces[0]).groupby("shot", as_index=False)["exact sd"].agg("mean")
        row[0].plot(
            exact["shot"], exact["exact sd"], "--", color="0.3", linewidth=1, label="exact, of the prompts"
        )
        row[0].set(title=f"{model}: spread over prompts", ylabel="SD of emergence (bits)", ylim=(0, None))
        one = _where(of, space=spaces[0])
        onsets = _where(result.tables["onsets"], model=model, space=spaces[0])
        for name, colour in (("next-item loss", "tab:red"), ("category loss", "tab:purple")):
            _over_seeds(row[1], one, name, colour, name)
            _starts(row[1], one, name, onsets)
        row[1].set(title="losses", ylabel="bits", ylim=(0, None))
        for name, colour in (("category error", "tab:green"), ("repetition", "tab:brown")):
            _over_seeds(row[2], one, name, colour, name)
            _starts(row[2], one, name, onsets)
        row[2].set(title="errors", ylabel="part of the prompts", ylim=(-0.03, 1.03))
        for axes in row:
            axes.legend(fontsize=8, frameon=False)
            axes.set_xticks(sorted(set(of["shot"].tolist())))
    for axes in grid[-1]:
        axes.set_xlabel("shots seen")
    figure.suptitle(
        "Spread of emergence over prompts, and what the model gets wrong "
        "(band: seeds; triangle: the error starts to rise)"
    )
    return figure


def _over_seeds(axes: Axes, rows: pd.DataFrame, column: str, colour: str, label: str) -> None:
    by_shot = rows.groupby("shot")[column].agg(["mean", "min", "max"])
    axes.plot(by_shot.index, by_shot["mean"], "o-", color=colour, markersize=3, label=label)
    axes.fill_between(by_shot.index, by_shot["min"], by_shot["max"], color=colour, alpha=0.2, linewidth=0)


def _starts(axes: Axes, rows: pd.DataFrame, column: str, onsets: pd.DataFrame) -> None:
    """Mark the shot at which an error starts to rise, the median over seeds; nothing where it never does."""
    shots = _where(onsets, error=column)["starts"].dropna().tolist()
    if shots:
        at = int(np.median(shots))
        axes.plot(at, np.mean(_where(rows, shot=at)[column].tolist()), "^", color="k", markersize=7)


def _text_sources(result: ExperimentResult) -> Figure:
    every = result.tables["sources"]
    table = _where(every, run="model")
    spaces, sources = _unique(table, "space"), _unique(table, "source")
    figure, grid = _panels([0], spaces, height=3.4)
    for space, axes in zip(spaces, grid[0], strict=True):
        for how, shift, colour in (("unmatched", -0.12, "tab:orange"), ("matched", 0.12, "tab:blue")):
            of = _where(table, space=space, how=how)
            x = np.arange(len(of)) + shift
            error = 1.96 * np.hypot(of["stderr"], of["sampling error"])
            axes.errorbar(x, of["value"], yerr=error, fmt="o", color=colour, label=f"{how}, measured")
            axes.plot(x, of["exact"], "_", color=colour, markersize=14, label=f"{how}, exact")
            control = _where(every, space=space, how=how, run=_CONTROL)
            axes.plot(
                x,
                control["value"],
                "x",
                color="0.5",
                markersize=5,
                label="_" * (shift < 0) + "weights shuffled",
            )
        axes.set_xticks(range(len(sources)), sources)
        axes.set(title=f"read by {result.settings['reader']}, {space!r}", ylabel="emergence (bits)")
    ends = [axes.get_ylim() for axes in grid[0]]
    for axes in grid[0]:
        axes.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
    grid[0][-1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.suptitle("Emergence of texts by source; matched: equal entropy of tokens")
    return figure
