"""The command `tl-emergence experiment`, thin over `tl_emergence.experiments`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tl_emergence.cli_session import (
    clear_work,
    errors_on_one_line,
    is_finished,
    load_model,
    say_what_is_measured,
    use_threads,
    work_folder,
)
from tl_emergence.errors import SettingError, unknown_name
from tl_emergence.reporting import write_experiment

if TYPE_CHECKING:
    from tl_emergence.experiments import ExperimentResult

_OPTIONS = {
    "shots": ("lists", "n", "shots", "seed"),
    "natural-text": ("texts", "n", "n_tokens", "anchor", "seed"),
    "model-size": ("lists", "n", "shots", "seed"),
    "training": ("lists", "n", "seed", "steps"),
    "variance": ("lists", "n", "shots", "seed"),
    "text-sources": ("texts", "n", "n_tokens", "n_texts", "seed", "reader", "written"),
}
"""What each experiment takes besides models, spaces, sigma and batch size."""
_SEVERAL = {"shots": ("lists", "n"), "natural-text": ("n_tokens", "anchor"), "variance": ("seed",)}


def experiment(
    name: Annotated[str, typer.Argument(help=f"{', '.join(_OPTIONS)}.")],
    model: Annotated[
        list[str], typer.Argument(help="Packaged models, checkpoint folders or hub names, one or several.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for result, tables and figure.")],
    prompt_list: Annotated[
        list[str] | None,
        typer.Option(
            "--list", help="country, animal, color, or a .txt file, one entity a line; repeat (shots)."
        ),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(
            help="persuasion, a novel (default); a .txt or .jsonl file; openorca, openhermes (natural-text)."
        ),
    ] = None,
    n: Annotated[
        list[int] | None,
        typer.Option(help="Prompts, 160 to 1,024 by default; repeat (shots)."),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(help="Entities a list; 10 (shots, variance)."),
    ] = None,
    n_tokens: Annotated[
        list[int] | None,
        typer.Option(help="Tokens a window: 8, 16; repeat (natural-text). 8 (text-sources)."),
    ] = None,
    anchor: Annotated[
        list[str] | None,
        typer.Option(help="start, end: where windows of natural-text lie; repeat. Default: both."),
    ] = None,
    n_texts: Annotated[int | None, typer.Option(help="Texts each model writes; 2 n (text-sources).")] = None,
    reader: Annotated[str | None, typer.Option(help="Which of the models reads; the first.")] = None,
    written: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FILE: texts of one more source (text-sources); repeat."),
    ] = None,
    step: Annotated[
        list[int] | None,
        typer.Option(
            help="Training step of a hub name; repeat. Of several models, one each; without it, by name."
        ),
    ] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(help="read, unit, resid; repeat. Default: read, unit."),
    ] = None,
    sigma: Annotated[float, typer.Option(help="Noise level.")] = 0.5,
    seed: Annotated[list[int] | None, typer.Option(help="Seed; 0; repeat (variance: 0, 1, 2).")] = None,
    batch_size: Annotated[int, typer.Option(help="Prompts a forward pass.")] = 64,
    threads: Annotated[
        int | None, typer.Option(help="Threads for PyTorch; its own choice by default.")
    ] = None,
    figures: Annotated[bool, typer.Option(help="Draw the figure.")] = True,
) -> None:
    """Run one of the paper's experiments on any models; stopped, it goes on where it was."""
    with errors_on_one_line():
        own = {
            "lists": list(prompt_list) if prompt_list else None,
            "texts": texts,
            "n": list(n) if n else None,
            "shots": shots,
            "n_tokens": list(n_tokens) if n_tokens else None,
            "anchor": list(anchor) if anchor else None,
            "n_texts": n_texts,
            "reader": reader,
            "written": list(written) if written else None,
            "steps": list(step) if step else None,
            "seed": list(seed) if seed else None,
        }
        common = {"space": list(space or ("read", "unit")), "sigma": sigma, "batch_size": batch_size}
        asked = {"command": "experiment", "name": name, "model": list(model), **own, **common}
        write_experiment(_measured(out, asked, threads), out, figures)


def _measured(out: Path, asked: dict[str, Any], threads: int | None) -> ExperimentResult:
    """Return the result that is there, or run the experiment with its parts kept, and save it."""
    from tl_emergence import experiments

    _check(asked)
    if is_finished(out, asked):
        return experiments.load_experiment(out / "result")
    use_threads(threads)
    say_what_is_measured()
    settings = _settings(asked)
    with work_folder(out, asked) as parts:
        function = getattr(experiments, asked["name"].replace("-", "_"))
        found = function(_models(asked), **settings, workdir=parts)
        found.save(out / "result")
    clear_work(out)
    return found


def _check(asked: dict[str, Any]) -> None:
    """Refuse what cannot be before a model is loaded."""
    from tl_emergence.capture.spaces import check_space_name

    name = asked["name"]
    if name not in _OPTIONS:
        raise unknown_name("experiment", name, list(_OPTIONS))
    for space in asked["space"]:
        check_space_name(space)
    for option in dict.fromkeys(option for options in _OPTIONS.values() for option in options):
        value = asked[option]
        if value is not None and option not in _OPTIONS[name]:
            raise SettingError(
                "option without effect",
                seen=f"--{_option(option)}",
                expected=f"options of {name}: {', '.join('--' + _option(one) for one in _OPTIONS[name])}",
                fix="Leave it out.",
            )
        one = option not in ("steps", "written") and option not in _SEVERAL.get(name, ())
        if one and isinstance(value, list) and len(value) > 1:
            raise SettingError(
                f"several --{_option(option)}",
                seen=value,
                expected="one",
                fix=f"{name} takes one; run it again for the other.",
            )


def _option(name: str) -> str:
    return {"lists": "list", "steps": "step"}.get(name, name).replace("_", "-")


def _settings(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the function's own settings: what was not asked for keeps its default."""
    name = asked["name"]
    found = {"spaces": asked["space"], "sigma": asked["sigma"], "batch_size": asked["batch_size"]}
    lists = None if asked["lists"] is None else [_entities(one) for one in asked["lists"]]
    plural = _SEVERAL.get(name, ())
    if lists is not None:
        found |= {"lists": lists} if name == "shots" else {"prompts": lists[0]}
    if asked["shots"] is not None:
        found |= {"shots" if name == "model-size" else "most": asked["shots"]}
    for option in ("n", "n_tokens", "anchor", "seed"):
        if asked[option] is not None:
            many = option in plural
            own = f"{option}s" if many and option in ("anchor", "seed") else option
            found[own] = asked[option] if many else asked[option][0]
    if asked["written"] is not None:
        found["written"] = {}
        for name, texts in map(_source, asked["written"]):
            if name in found["written"]:
                raise SettingError(
                    "two sources of one name", seen=name, expected="names that differ", fix="Rename one."
                )
            found["written"][name] = texts
    return found | {
        option: asked[option] for option in ("texts", "n_texts", "reader") if asked[option] is not None
    }


def _source(given: str) -> tuple[str, list[str]]:
    """Return the name and the texts of NAME=FILE.

    Raises:
        SettingError: Neither; a file that cannot be read.
    """
    from tl_emergence.prompts.sources import read_texts

    name, equals, file = given.partition("=")
    if not (name and equals and file):
        raise SettingError(
            "a source without name or file", seen=given, expected="NAME=FILE",
            fix="Write --written gpt-4=texts.txt; a blank line separates texts.",
        )  # fmt: skip
    return name, list(read_texts(file, None))


def _entities(name: str) -> str | list[str]:
    """Return the name of a list, or the entities in a file, one a line.

    Raises:
        SettingError: Neither.
    """
    from tl_emergence.prompts import LISTS

    if name in LISTS:
        return name
    if not Path(name).is_file():
        raise unknown_name("list (and no such file)", name, list(LISTS))
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(
            "a list that cannot be read", seen=f"{name}: {error}", expected="UTF-8, one entity a line",
            fix="Check the file.",
        ) from error  # fmt: skip
    return [line.strip() for line in lines if line.strip()]


def _models(asked: dict[str, Any]) -> dict[Any, Any]:
    """Return models by name; for training, functions that load them by step, or by name without steps."""
    names: list[str] = asked["model"]
    steps: list[int] | None = asked["steps"]
    if steps is None and len({_short(name) for name in names}) < len(names):
        raise SettingError(
            "a model twice", seen=names, expected="models whose names differ", fix="Name each once."
        )
    if asked["name"] != "training":
        return {_short(name): load_model(name) for name in names}
    if steps is None:
        return {_short(name): _loader(name, None) for name in names}
    if len(set(steps)) < len(steps):
        raise SettingError(
            "a training step twice", seen=steps, expected="steps that differ", fix="Name each once."
        )
    if len(names) == 1:
        return {step: _loader(names[0], step) for step in steps}
    if len(steps) != len(names):
        raise SettingError(
            "steps that do not fit the models",
            seen=f"{len(steps)} steps, {len(names)} models",
            expected="a step for each model, or several of one hub name",
            fix="Repeat --step, or leave it out: checkpoints then go by the names of their folders.",
        )
    # A hub name is loaded at the step that labels it; of folders the caller knows the steps.
    at = [None if _is_at_one_step(name) else step for step, name in zip(steps, names, strict=True)]
    return {step: _loader(name, of) for step, name, of in zip(steps, names, at, strict=True)}


def _is_at_one_step(name: str) -> bool:
    """Return whether a name is that of a folder or package, which holds the weights of one step."""
    from tl_emergence.models import PACKAGED

    return name in PACKAGED or Path(name).exists()


def _loader(name: str, step: int | None) -> Callable[[], Any]:
    return lambda: load_model(name, step)


def _short(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1]
