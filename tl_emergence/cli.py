"""The command line, thin over the library: `tl-emergence run | plot | models | estimators`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tl_emergence.errors import EmergenceError, ResultFileError, SettingError, unknown_name

if TYPE_CHECKING:
    from tl_emergence.prompts import PromptSet
    from tl_emergence.results import AnyResult, EmergenceResult, SigmaSweep

app = typer.Typer(
    help="Where in a transformer do tokens become more than the sum of their parts?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_FIGURES = ("overview", "heatmap", "curves", "sigma", "spaces")


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
    estimator: Annotated[str, typer.Option(help="See `tl-emergence estimators`.")] = "noise",
    sigma: Annotated[list[float] | None, typer.Option(help="Noise level; repeat for several.")] = None,
    space: Annotated[list[str] | None, typer.Option(help="read, unit, resid; repeat for several.")] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(help="shuffled_weights, shuffled_tokens, deranged; repeat for several."),
    ] = None,
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
        settings = {
            "estimator": estimator,
            "sigma": list(sigma) if sigma else None,
            "space": list(space) if space else None,
            "controls": list(control or ()),
            "layers": list(layer) if layer else None,
            "positions": list(position) if position else None,
            "micro": micro,
            "seed": seed,
            "batch_size": batch_size,
        }
        asked = {
            "model": model,
            "prompts": prompts,
            "n": _number_of_prompts(n),
            "shots": shots,
            "n_tokens": n_tokens,
            "anchor": anchor,
            **settings,
        }
        result = _finished(out, asked)
        if result is None:
            if threads is not None:
                _use_threads(threads)
            result = _measure(out, asked, settings)
        shutil.rmtree(out / ".work", ignore_errors=True)
        _write_outputs(result, out, figures)


@app.command()
def plot(
    result: Annotated[Path, typer.Argument(help="Folder that a result was saved in.")],
    out: Annotated[Path, typer.Option(help="File for the figure: .png, .pdf or .svg.")],
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(_FIGURES)}.")] = "overview",
    metric: Annotated[str, typer.Option(help="emergence, macro or micro.")] = "emergence",
    space: Annotated[str | None, typer.Option(help="Which space of a comparison.")] = None,
    sigma: Annotated[float | None, typer.Option(help="Which noise level of a sweep.")] = None,
) -> None:
    """Draw a figure from a saved result."""
    with _errors_on_one_line():
        from tl_emergence.saving import load_result

        if kind not in _FIGURES:
            raise unknown_name("kind of figure", kind, _FIGURES)
        figure = _figure(load_result(result), kind, metric, space, sigma)
        _save_figure(figure, out)
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
    """List the estimators and what each measures."""
    from tl_emergence.estimators import ESTIMATORS

    for estimator in ESTIMATORS.values():
        typer.echo(f"{estimator.name:12} {estimator.measures}")


def _check_names(asked: dict[str, Any]) -> None:
    """Refuse misspelt names before the model is loaded."""
    from tl_emergence.controls import check_controls
    from tl_emergence.prompts import LISTS
    from tl_emergence.prompts.sources import DATASETS
    from tl_emergence.question import ask

    ask(asked["estimator"], asked["sigma"], asked["space"], asked["micro"], asked["seed"], {})
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


def _write_outputs(result: AnyResult, out: Path, figures: bool) -> None:
    from tl_emergence.files import write_atomically
    from tl_emergence.tables import summary

    write_atomically(out / "table.csv", result.to_dataframe().to_csv(index=False).encode())
    for name, single in _singles(result):
        if name:
            typer.echo(f"== {name} ==")
        typer.echo(summary(single) + "\n")
    left_out = sum(1 for _ in _all_singles(result)) - sum(1 for _ in _singles(result))
    if left_out:
        typer.echo(f"{left_out} more results, at other noise levels, are in table.csv and result\n")
    if figures:
        for kind in _figures_of(result):
            _save_figure(_figure(result, kind, "emergence", None, None), out / f"{kind}.png")
    typer.echo(f"saved in {out}: " + ", ".join(sorted(p.name for p in out.iterdir() if p.name != ".work")))


def _singles(result: AnyResult) -> Iterator[tuple[str, EmergenceResult]]:
    """Yield what is worth a table: each space, at the noise level nearest to 0.5."""
    from tl_emergence.results import SigmaSweep, SpaceComparison

    if isinstance(result, SpaceComparison):
        for space, found in result.items():
            yield f"space {space!r}", next(_singles(found))[1]
    elif isinstance(result, SigmaSweep):
        yield "", result[min(result, key=lambda sigma: abs(sigma - 0.5))]
    else:
        yield "", result


def _all_singles(result: AnyResult) -> Iterator[EmergenceResult]:
    """Yield every result of a sweep or comparison."""
    from tl_emergence.results import EmergenceResult

    if isinstance(result, EmergenceResult):
        yield result
    else:
        for part in result.values():
            yield from _all_singles(part)


def _figures_of(result: AnyResult) -> list[str]:
    from tl_emergence.results import SigmaSweep, SpaceComparison

    spaces = ["spaces"] if isinstance(result, SpaceComparison) else []
    inner = next(iter(result.values())) if isinstance(result, SpaceComparison) else result
    return [*spaces, "overview", *(["sigma"] if isinstance(inner, SigmaSweep) else [])]


def _figure(result: AnyResult, kind: str, metric: Any, space: str | None, sigma: float | None) -> Any:
    from tl_emergence import plots
    from tl_emergence.results import EmergenceResult, SigmaSweep, SpaceComparison

    if kind == "spaces":
        if not isinstance(result, SpaceComparison):
            raise _needs("spaces", "a result with several spaces (run with --space read --space unit)")
        return plots.side_by_side(result, metric=metric, sigma=sigma)
    if isinstance(result, SpaceComparison):
        if space is not None and space not in result:
            raise unknown_name("space", space, list(result))
        result = result[space if space is not None else next(iter(result))]
    elif space is not None and space != _first(result).space:
        raise unknown_name("space", space, [_first(result).space])
    if kind == "sigma":
        if not isinstance(result, SigmaSweep):
            raise _needs(
                "sigma", "a result with several noise levels (run with --sigma 0.25 --sigma 0.5 ...)"
            )
        return plots.sigma_curves(result, metric=metric)
    single = plots.at_sigma(result, sigma)
    assert isinstance(single, EmergenceResult)
    drawing = {"overview": plots.overview, "heatmap": plots.heatmap, "curves": plots.curves}[kind]
    return drawing(single, metric=metric)


def _first(result: EmergenceResult | SigmaSweep) -> EmergenceResult:
    from tl_emergence.results import EmergenceResult

    return result if isinstance(result, EmergenceResult) else next(iter(result.values()))


def _needs(kind: str, what: str) -> SettingError:
    return SettingError(
        f"no {kind} figure", seen="a single result", expected=what, fix="Choose another --kind."
    )


def _save_figure(figure: Any, path: Path) -> None:
    import io

    from tl_emergence.files import write_atomically

    formats = (".png", ".pdf", ".svg")
    if path.suffix not in formats:
        raise unknown_name("figure format", path.suffix or str(path), formats)
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=150)
    write_atomically(path, content.getvalue())


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
