"""The commands for circuits, thin over the library: `tl-emergence ablate | correlate`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tl_emergence.cli_session import (
    check_prompts,
    clear_work,
    draw_prompts,
    errors_on_one_line,
    is_finished,
    load_model,
    use_threads,
    work_folder,
)
from tl_emergence.errors import EmergenceError, SettingError, unknown_name
from tl_emergence.reporting import write_effects, write_report

if TYPE_CHECKING:
    from tl_emergence.circuits import HeadEffects
    from tl_emergence.circuits.metrics import Metric
    from tl_emergence.prompts import PromptSet

_METRICS = ("loss", "kl", "emergence", "information")
_OF_STATES = ("emergence", "information")
_KINDS = ("mean", "zero", "mean_pos", "resample")
_COMPONENTS = ("head", "mlp", "block")


def ablate(
    model: Annotated[str, typer.Argument(help="Packaged model, checkpoint folder, or hub name.")],
    out: Annotated[Path, typer.Option(help="Folder for effects, tables and figure.")],
    prompts: Annotated[
        str,
        typer.Option(
            help="country, animal, color; persuasion (a novel); a .txt or .jsonl file; openorca, openhermes."
        ),
    ] = "country",
    n: Annotated[int, typer.Option(help="Number of prompts to measure.")] = 256,
    reference_n: Annotated[
        int | None, typer.Option(help="Further prompts, held out for the reference; as many as --n.")
    ] = None,
    shots: Annotated[int | None, typer.Option(help="Entities a prompt, for lists.")] = None,
    n_tokens: Annotated[int, typer.Option(help="Tokens a window, for texts.")] = 8,
    anchor: Annotated[str, typer.Option(help="Side of the full stop, for texts: start or end.")] = "start",
    metric: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(_METRICS)}; loss and emergence by default; repeat for several."),
    ] = None,
    kind: Annotated[str, typer.Option(help=f"What a part puts out instead: {', '.join(_KINDS)}.")] = "mean",
    component: Annotated[str, typer.Option(help="What is ablated: head, mlp or block.")] = "head",
    head: Annotated[
        list[str] | None, typer.Option(help="Head to ablate, such as L9H3; repeat; all by default.")
    ] = None,
    layer: Annotated[
        list[int] | None, typer.Option(help="Block of the MLP or block to ablate; repeat; all by default.")
    ] = None,
    position: Annotated[
        list[int] | None, typer.Option(help="Content position to ablate at; repeat; all by default.")
    ] = None,
    metric_layer: Annotated[
        list[int] | None,
        typer.Option(help="Block of emergence and information; repeat for their mean; the last by default."),
    ] = None,
    metric_position: Annotated[
        list[int] | None,
        typer.Option(
            help="Position of emergence and information; repeat for their mean; the last by default."
        ),
    ] = None,
    space: Annotated[
        list[str] | None, typer.Option(help="read, unit, resid; repeat for a metric in each.")
    ] = None,
    sigma: Annotated[
        float | None, typer.Option(help="Noise level of emergence and information; 0.5 by default.")
    ] = None,
    draws: Annotated[
        int | None, typer.Option(help="Random prompts a prompt, for resample; 1 by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Prompts a forward pass.")] = 64,
    threads: Annotated[
        int | None, typer.Option(help="Threads for PyTorch; its own choice by default.")
    ] = None,
    figures: Annotated[bool, typer.Option(help="Draw the figure.")] = True,
) -> None:
    """Replace heads, MLPs or blocks one at a time; measure what changes. Stopped, it goes on where it was."""
    with errors_on_one_line():
        asked = {
            "command": "ablate",
            "model": model,
            "prompts": prompts,
            "n": n,
            "reference_n": reference_n,
            "shots": shots,
            "n_tokens": n_tokens,
            "anchor": anchor,
            "metric": list(metric or ("loss", "emergence")),
            "kind": kind,
            "component": component,
            "head": list(head) if head else None,
            "layer": list(layer) if layer else None,
            "position": list(position) if position else None,
            "metric_layer": list(metric_layer) if metric_layer else None,
            "metric_position": list(metric_position) if metric_position else None,
            "space": list(space) if space else None,
            "sigma": sigma,
            "draws": draws,
            "seed": seed,
            "batch_size": batch_size,
        }
        effects = _ablated(out, asked, threads)
        clear_work(out)
        write_effects(effects, out, figures)


def correlate(
    effects: Annotated[Path, typer.Argument(help="Folder of saved effects: --out of ablate.")],
    out: Annotated[Path, typer.Option(help="Folder for report, table and figure.")],
    score: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC", help="What stands as score; emergence and information by default; repeat."
        ),
    ] = None,
    effect: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC", help="What stands as effect; the other metrics by default; repeat."),
    ] = None,
    scores_from: Annotated[
        Path | None,
        typer.Option(help="Folder of the scores: other effects, or --out of run (then blocks are compared)."),
    ] = None,
    within_layers: Annotated[
        bool | None,
        typer.Option(
            "--within-layers/--over-all", help="Compare within layers; by default where one has several."
        ),
    ] = None,
    permutations: Annotated[int, typer.Option(help="Permutations for p.")] = 9999,
    resamples: Annotated[int, typer.Option(help="Resamples of the prompts for intervals.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of splits, resamples and permutations.")] = 0,
    figures: Annotated[bool, typer.Option(help="Draw the figure.")] = True,
) -> None:
    """Correlate the change of one metric with that of another, or scores of blocks with effects."""
    with errors_on_one_line():
        from tl_emergence import circuits
        from tl_emergence.saved_scores import scores_and_effects

        scores, of_effects = scores_and_effects(effects, scores_from, score or (), effect or ())
        report = circuits.correlate(
            scores,
            of_effects,
            within_layers=within_layers,
            permutations=permutations,
            resamples=resamples,
            seed=seed,
        )
        write_report(report, out, figures)


def _ablated(out: Path, asked: dict[str, Any], threads: int | None) -> HeadEffects:
    """Return the effects that are there, or run the ablations with their parts kept, and save them."""
    from tl_emergence import circuits

    if is_finished(out, asked):
        return circuits.load_effects(out / "effects")
    use_threads(threads)
    metrics = _metrics(asked)
    _check(asked)
    with work_folder(out, asked) as parts:
        model = load_model(asked["model"])
        measured, reference = _measured_and_reference(asked, model)
        typer.echo(repr(measured), err=True)
        settings = {
            "kind": asked["kind"],
            "positions": asked["position"],
            "reference": reference,
            "draws": 1 if asked["draws"] is None else asked["draws"],
            "batch_size": asked["batch_size"],
            "seed": asked["seed"],
            "workdir": parts,
            "progress": sys.stderr.isatty(),
        }
        if asked["component"] == "head":
            effects = circuits.ablate_heads(model, measured, metrics, heads=asked["head"], **settings)
        else:
            of_layers = {"mlp": circuits.ablate_mlps, "block": circuits.ablate_blocks}[asked["component"]]
            effects = of_layers(model, measured, metrics, layers=asked["layer"], **settings)
        effects.save(out / "effects")
    return effects


def _metrics(asked: dict[str, Any]) -> list[Metric]:
    """Return the metrics asked for: of states one for each space, named by it where there are several.

    Raises:
        SettingError: An unknown metric or space, a sigma out of range, an option that no metric takes.
    """
    from tl_emergence.circuits import metrics
    from tl_emergence.question import ask

    for name in asked["metric"]:
        if name not in _METRICS:
            raise unknown_name("metric", name, _METRICS)
    own = [key for key in ("metric_layer", "metric_position", "space", "sigma") if asked[key] is not None]
    if own and not set(_OF_STATES) & set(asked["metric"]):
        raise _idle(own, "emergence or information among the metrics", "Add --metric emergence")
    ask("noise", asked["sigma"], asked["space"], "alone", asked["seed"], {})
    spaces = list(dict.fromkeys(asked["space"] or (None,)))
    chosen: list[Metric] = []
    for name in asked["metric"]:
        if name not in _OF_STATES:
            chosen.append(metrics.BY_NAME[name]())
            continue
        of_states = {"emergence": metrics.emergence_at, "information": metrics.information_at}[name]
        chosen += [
            of_states(
                asked["metric_layer"],
                asked["metric_position"],
                space=space,
                sigma=0.5 if asked["sigma"] is None else asked["sigma"],
                name=f"{name} ({space})" if len(spaces) > 1 else name,
            )
            for space in spaces
        ]
    return list(metrics.named_metrics(chosen))


def _check(asked: dict[str, Any]) -> None:
    """Refuse what cannot be before the model is loaded."""
    from tl_emergence.checks import integer

    check_prompts(asked["prompts"])
    if asked["kind"] == "corrupt":
        raise SettingError(
            "corrupt ablation is not for the command line",
            seen="--kind corrupt",
            expected=f"one of {list(_KINDS)}",
            fix="It needs a corrupted partner for every prompt: tl_emergence.ablate_heads(model, prompts, "
            "metrics, kind='corrupt', reference=partners).",
        )
    if asked["kind"] not in _KINDS:
        raise unknown_name("kind of ablation", asked["kind"], _KINDS)
    if asked["component"] not in _COMPONENTS:
        raise unknown_name("component", asked["component"], _COMPONENTS)
    if asked["head"] and asked["component"] != "head":
        raise _idle(["head"], "--component head", "Name blocks by --layer")
    if asked["layer"] and asked["component"] == "head":
        raise _idle(["layer"], "--component mlp or block", "Name heads by --head")
    if asked["draws"] is not None and asked["kind"] != "resample":
        raise _idle(["draws"], "--kind resample", "Choose that kind")
    if asked["reference_n"] is not None and asked["kind"] == "zero":
        raise _idle(["reference_n"], "a kind that has a reference", "Choose another kind")
    wrong = [name for name in asked["head"] or () if not re.fullmatch(r"L\d+H\d+", name)]
    if wrong:
        raise SettingError(
            "not the name of a head", seen=repr(wrong[0]), expected="L9H3", fix="Write layer and head."
        )
    for name in ("n", "reference_n"):
        if asked[name] is not None:
            integer(_option(name), asked[name], least=2)


def _idle(options: Sequence[str], needed: str, fix: str) -> SettingError:
    seen = ", ".join(_option(name) for name in options)
    return SettingError(
        "option without effect", seen=seen, expected=f"it with {needed}", fix=f"{fix}, or leave it out."
    )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _measured_and_reference(asked: dict[str, Any], model: Any) -> tuple[PromptSet, PromptSet | None]:
    """Return the prompts to measure and those held out for the reference: disjoint parts of one draw.

    Raises:
        SettingError: The prompts do not suffice for both.
    """
    n = asked["n"]
    if asked["kind"] == "zero":
        return draw_prompts(asked, model), None
    more = n if asked["reference_n"] is None else asked["reference_n"]
    try:
        drawn = draw_prompts({**asked, "n": n + more}, model)
    except EmergenceError as error:
        draw_prompts(asked, model)  # raises where the fault is not the reference
        raise SettingError(
            "too few prompts for a reference that is held out",
            seen=f"no {n + more:,} of them ({error.what}: {error.seen})",
            expected=f"{n:,} to measure and {more:,} more for the reference",
            fix="Lower --n or --reference-n, ask for more --shots or more text, or choose --kind zero.",
        ) from error
    return drawn.take(slice(n)), drawn.take(slice(n, None))
