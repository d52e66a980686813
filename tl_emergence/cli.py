"""The command line, thin over the library: `run | plot | models | estimators`; others in `cli_*`."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tl_emergence.cli_circuits import ablate, correlate
from tl_emergence.cli_experiments import experiment
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
from tl_emergence.errors import SettingError, unknown_name
from tl_emergence.reporting import FIGURES, figure_of, save_figure, write_outputs

if TYPE_CHECKING:
    from tl_emergence.results import AnyResult


class _CommandLine(typer.Typer):
    """The commands; where nothing more can be written to standard output, one line says so."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        try:
            try:
                return super().__call__(*arguments, **options)
            finally:
                sys.stdout.flush()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE):
                raise
            if error.errno != errno.EPIPE:  # a reader that has seen enough, such as `head`, is no error
                typer.echo(f"error: cannot write to standard output: {error.strerror}", err=True)
            # What is still in the buffer would be tried again, and fail again, when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1 if error.errno == errno.EPIPE else 2)


app = _CommandLine(
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
        str,
        typer.Option(
            help="country, animal, color; persuasion (a novel); a .txt or .jsonl file; openorca, openhermes."
        ),
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
    with errors_on_one_line():
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
        result = _measured(out, asked, {**settings, "geometry": geometry, **options}, threads)
        clear_work(out)
        write_outputs(result, out, figures)


app.command()(ablate)
app.command()(correlate)
app.command()(experiment)


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
    with errors_on_one_line():
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
    check_prompts(asked["prompts"])


def _number_of_prompts(n: str) -> Any:
    try:
        return n if n == "all" else int(n)
    except ValueError:
        raise SettingError(
            "n is not a whole number", seen=repr(n), expected="a number, or all", fix="--n 2048"
        ) from None


def _measured(out: Path, asked: dict[str, Any], settings: dict[str, Any], threads: int | None) -> AnyResult:
    """Return the result that is there, or run the measurement with its parts kept, and save it."""
    from tl_emergence.emergence import information_emergence
    from tl_emergence.saving import load_result

    if is_finished(out, asked):
        return load_result(out / "result")
    use_threads(threads)
    _check_names(asked)
    with work_folder(out, asked) as parts:
        model = load_model(asked["model"])
        prompt_set = draw_prompts(asked, model)
        typer.echo(repr(prompt_set), err=True)
        result = information_emergence(
            model, prompt_set, **settings, workdir=parts, progress=sys.stderr.isatty()
        )
        result.save(out / "result")
    return result


if __name__ == "__main__":
    app()
