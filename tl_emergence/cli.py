"""The command line, thin over the library: `tl-emergence run | plot | models | estimators`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tl_emergence.errors import EmergenceError, ResultFileError, SettingError, unknown_name
from tl_emergence.reporting import FIGURES, figure_of, save_figure, write_outputs

if TYPE_CHECKING:
    from tl_emergence.prompts import PromptSet
    from tl_emergence.results import AnyResult

app = typer.Typer(
    help="Where in a transformer do tokens become more than the sum of their parts?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def run(
    model: Annotated[str, typer.Argument(help="Packaged model, checkpoint folder, or hub name.")],
    out: Annotated[Path, typer.Option(help="Folder for result, table and figures.")],
    prompts: Annotated[
        str, typer.Option(help="country, animal, color; a .txt or .jsonl file; openorca, openhermes.")
    ] = "country",
    n: Annotated[str, typer.Option(help="Number of prompts; all of them for a list: all.")] = "2048",
    shots: Annotated[int | None, typer.Option(help="Entities a prompt, for lists.")] = None,
    n_tokens: Annotated[int, typer.Option(help="Tokens a window, for texts.")] = 8,
    anchor: Annotated[str, typer.Option(help="Side of the full stop, for texts: start or end.")] = "start",
    estimator: Annotated[
        list[str] | None,
        typer.Option(help="See `tl-emergence estimators`; noise by default; repeat for several."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="An estimator's own option, such as components=32; repeat for several."
        ),
    ] = None,
    sigma: Annotated[list[float] | None, typer.Option(help="Noise level; repeat for several.")] = None,
    space: Annotated[list[str] | None, typer.Option(help="read, unit, resid; repeat for several.")] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(help="shuffled_weights, shuffled_tokens, deranged; repeat for several."),
    ] = None,
    geometry: Annotated[
        bool, typer.Option("--geometry", help="Rank, norm and emergence criteria of the states, as columns.")
    ] = False,
    layer: Annotated[list[int] | None, typer.Option(help="Block to score; repeat; all by default.")] = None,
    position: Annotated[
        list[int] | None, typer.Option(help="Content position; repeat; all by default.")
    ] = None,
    micro: Annotated[str, typer.Option(help="alone or first.")] = "alone",
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Prompts a forward pass.")] = 128,
    threads: Annotated[
        int | None, typer.Option(help="Threads for PyTorch; its own choice by default.")
    ] = None,
    figures: Annotated[bool, typer.Option(help="Draw figures.")] = True,
) -> None:
    """Measure the information emergence of a model; a run that was stopped goes on where it was."""
    with _errors_on_one_line():
        names = list(estimator or ["noise"])
        settings = {
            "estimator": names[0] if len(names) == 1 else names,
            "sigma": list(sigma) if sigma else None,
            "space": list(space) if space else None,
            "controls": list(control or ()),
            "layers": list(layer) if layer else None,
            "positions": list(position) if position else None,
            "micro": micro,
            "seed": seed,
            "batch_size": batch_size,
        }
        options = _options(option or ())
        asked = {
            "model": model,
            "prompts": prompts,
            "n": _number_of_prompts(n),
            "shots": shots,
            "n_tokens": n_tokens,
            "anchor": anchor,
            **settings,
            "geometry": geometry or None,
            "options": options or None,
        }
        result = _finished(out, asked)
        if result is None:
            if threads is not None:
                _use_threads(threads)
            result = _measure(out, asked, {**settings, "geometry": geometry, **options})
        shutil.rmtree(out / ".work", ignore_errors=True)
        write_outputs(result, out, figures)


@app.command()
def plot(
    result: Annotated[Path, typer.Argument(help="Folder that a result was saved in.")],
    out: Annotated[Path, typer.Option(help="File for the figure: .png, .pdf or .svg.")],
    kind: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(FIGURES)}; estimators where there are several, else overview."),
    ] = None,
    metric: Annotated[str, typer.Option(help="emergence, macro or micro.")] = "emergence",
    estimator: Annotated[str | None, typer.Option(help="Which estimator of several.")] = None,
    space: Annotated[str | None, typer.Option(help="Which space of several.")] = None,
    sigma: Annotated[float | None, typer.Option(help="Which noise level of a sweep.")] = None,
) -> None:
    """Draw a figure from a saved result."""
    with _errors_on_one_line():
        from tl_emergence.saving import load_result

        if kind is not None and kind not in FIGURES:
            raise unknown_name("kind of figure", kind, FIGURES)
        found = load_result(result)
        figure = figure_of(found, kind, metric=metric, estimator=estimator, space=space, sigma=sigma)
        save_figure(figure, out)
        typer.echo(str(out))


@app.command()
def models() -> None:
    """List the packaged models and whether they are installed."""
    from tl_emergence.models import PACKAGED

    for packaged in PACKAGED.values():
        state = "installed" if packaged.installed else f"not installed: {packaged.install}"
        typer.echo(f"{packaged.name:16} {packaged.note:44} {state}")
    typer.echo("A checkpoint folder, or any name that TransformerLens loads from the hub, works too.")


@app.command()
def estimators() -> None:
    """List the estimators: what each measures, its noise level, its options with their defaults."""
    from tl_emergence.estimators import ESTIMATORS, option_defaults, takes_noise

    for estimator in ESTIMATORS.values():
        typer.echo(f"{estimator.name:12} {estimator.measures}")
        noise = f"--sigma {estimator.default_emergence_sigma:g}" if takes_noise(estimator) else "no noise"
        defaults = option_defaults(estimator).items()
        options = [f"--option {name}={str(value).lower()}" for name, value in defaults]
        typer.echo(f"{'':12} {', '.join([noise, *options])}")
    typer.echo("Options are shown with their defaults; where that is none, the estimator chooses.")


def _options(texts: Sequence[str]) -> dict[str, Any]:
    """Return an estimator's own options from NAME=VALUE: numbers as numbers, none as None, else text."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise SettingError(
                "option is not NAME=VALUE",
                seen=repr(text),
                expected="a name, = and a value",
                fix="--option draws=4",
            )
        if name in found:
            raise SettingError(
                "option given twice", seen=repr(text), expected=f"{name} once", fix="Keep one of them."
            )
        found[name] = _value(value)
    return found


def _value(text: str) -> int | float | str | None:
    if text.lower() == "none":
        return None
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _check_names(asked: dict[str, Any]) -> None:
    """Refuse misspelt names before the model is loaded."""
    from tl_emergence.controls import check_controls
    from tl_emergence.prompts import LISTS
    from tl_emergence.prompts.sources import DATASETS
    from tl_emergence.question import ask

    ask(
        asked["estimator"],
        asked["sigma"],
        asked["space"],
        asked["micro"],
        asked["seed"],
        asked["options"] or {},
    )
    check_controls(asked["controls"])
    known = (*LISTS, *DATASETS)
    if asked["prompts"] not in known and not Path(asked["prompts"]).exists():
        raise unknown_name("prompts (and no such file)", asked["prompts"], known)


def _number_of_prompts(n: str) -> Any:
    try:
        return n if n == "all" else int(n)
    except ValueError:
        raise SettingError(
            "n is not a whole number", seen=repr(n), expected="a number, or all", fix="--n 2048"
        ) from None


def _use_threads(threads: int) -> None:
    import torch

    from tl_emergence.checks import integer

    torch.set_num_threads(integer("threads", threads, least=1))


def _measure(out: Path, asked: dict[str, Any], settings: dict[str, Any]) -> AnyResult:
    """Run the measurement with its parts kept in out/.work, and save the result."""
    from tl_emergence.emergence import information_emergence
    from tl_emergence.files import exists, to_json, write_atomically
    from tl_emergence.models import load

    _check_names(asked)
    work = out / ".work"
    new = next((folder for folder in (out, work) if not exists(folder)), None)
    write_atomically(work / "command.json", to_json(asked))
    done = len(list(work.glob("parts/parts/*.safetensors")))
    if done:
        typer.echo(f"going on from an earlier run: {done} scored parts found", err=True)
    try:
        typer.echo(f"loading {asked['model']}", err=True)
        model = load(asked["model"])
        prompt_set = _prompts(asked, model)
        typer.echo(repr(prompt_set), err=True)
        result = information_emergence(
            model, prompt_set, **settings, workdir=work / "parts", progress=sys.stderr.isatty()
        )
        result.save(out / "result")
    except EmergenceError as error:
        # What failed by its own input fails again: nothing that this call made stays. What an earlier call
        # finished is kept, and so is everything when a disk was full: that can be mended.
        if new is not None and not isinstance(error, ResultFileError):
            shutil.rmtree(new, ignore_errors=True)
        raise
    write_atomically(out / "run.json", to_json(asked))
    return result


def _finished(out: Path, asked: dict[str, Any]) -> AnyResult | None:
    """Return the result that an earlier run of the same command left, or None.

    Raises:
        SettingError: The folder belongs to another command.
    """
    from tl_emergence.files import exists, read_json
    from tl_emergence.saving import load_result

    finished = exists(out / "run.json")
    record = out / "run.json" if finished else out / ".work" / "command.json"
    if not exists(record):
        return None
    before = read_json(record)
    different = sorted(key for key in {*before, *asked} if before.get(key) != asked.get(key))
    if different:
        raise SettingError(
            "the output folder belongs to another run",
            seen=", ".join(f"{key}={before.get(key)!r}" for key in different),
            expected=", ".join(f"{key}={asked.get(key)!r}" for key in different),
            fix="Choose another --out, or delete that folder.",
        )
    if not finished:
        return None
    typer.echo(f"{out} holds the finished result of this very command", err=True)
    return load_result(out / "result")


def _prompts(asked: dict[str, Any], model: Any) -> PromptSet:
    from tl_emergence import prompts

    if asked["prompts"] in prompts.LISTS:
        return prompts.demonstrations(
            asked["prompts"], model, shots=asked["shots"], n=asked["n"], seed=asked["seed"]
        )
    n = None if asked["n"] == "all" else asked["n"]
    return prompts.sentences(asked["prompts"], model, n_tokens=asked["n_tokens"], anchor=asked["anchor"], n=n)


@contextmanager
def _errors_on_one_line() -> Iterator[None]:
    """Turn typed errors into one line on standard error and exit status 2; Ctrl-C into 130."""
    try:
        yield
    except EmergenceError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on from here", err=True)
        raise typer.Exit(130) from None


if __name__ == "__main__":
    app()
