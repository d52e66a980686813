"""What the commands share: errors on one line, prompts by name, folders that a stopped run goes on in."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tl_emergence.errors import EmergenceError, ResultFileError, SettingError, unknown_name

if TYPE_CHECKING:
    from tl_emergence.prompts import PromptSet


@contextmanager
def errors_on_one_line() -> Iterator[None]:
    """Turn typed errors into one line on standard error and exit status 2; Ctrl-C into 130."""
    try:
        yield
    except EmergenceError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on from here", err=True)
        raise typer.Exit(130) from None


def is_finished(out: Path, asked: Mapping[str, Any]) -> bool:
    """Return whether an earlier run of the same command has left its whole result in a folder.

    Raises:
        SettingError: The folder belongs to another command.
    """
    from tl_emergence.files import exists, read_json

    finished = exists(out / "run.json")
    record = out / "run.json" if finished else out / ".work" / "command.json"
    if not exists(record):
        return False
    before = read_json(record)
    commands = [str(described.get("command", "run")) for described in (before, asked)]
    different = sorted(key for key in {*before, *asked} if before.get(key) != asked.get(key))
    if commands[0] != commands[1]:
        seen, expected = (f"tl-emergence {command}" for command in commands)
    else:
        seen, expected = (", ".join(f"{k}={of.get(k)!r}" for k in different) for of in (before, asked))
    if different:
        raise SettingError(
            "the output folder belongs to another run",
            seen=seen,
            expected=expected,
            fix="Choose another --out, or delete that folder.",
        )
    if finished:
        typer.echo(f"{out} holds the finished result of this very command", err=True)
    return finished


@contextmanager
def work_folder(out: Path, asked: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the folder for the parts of a measurement; record the command, and that it is done."""
    from tl_emergence.files import exists, to_json, write_atomically

    work = out / ".work"
    new = next((folder for folder in (out, work) if not exists(folder)), None)
    write_atomically(work / "command.json", to_json(asked))
    found = ("parts/*.safetensors", "parts/**/kept.json", "kept/*.json")
    done = sum(len(list((work / "parts").glob(pattern))) for pattern in found)
    if done:
        typer.echo(f"going on from an earlier run: {done} finished parts found", err=True)
    try:
        yield work / "parts"
    except EmergenceError as error:
        # What failed by its own input fails again: nothing that this call made stays. What an earlier call
        # finished is kept, and so is everything when a disk was full: that can be mended.
        if new is not None and not isinstance(error, ResultFileError):
            shutil.rmtree(new, ignore_errors=True)
        raise
    write_atomically(out / "run.json", to_json(asked))


def clear_work(out: Path) -> None:
    """Remove the parts of a measurement that is done."""
    shutil.rmtree(out / ".work", ignore_errors=True)


def use_threads(threads: int | None) -> None:
    """Set the number of threads, where one was asked for."""
    if threads is None:
        return
    import torch

    from tl_emergence.checks import integer

    torch.set_num_threads(integer("threads", threads, least=1))


class _Echo(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(record.getMessage(), err=True)


def say_what_is_measured() -> None:
    """Print what experiments log, part by part."""
    log = logging.getLogger("tl_emergence.experiments")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, _Echo) for handler in log.handlers):
        log.addHandler(_Echo())


def load_model(name: str, step: int | None = None) -> Any:
    """Load a model, at a training step, and say so."""
    from tl_emergence.models import load

    typer.echo(f"loading {name}" + ("" if step is None else f", step {step:,}"), err=True)
    return load(name) if step is None else load(name, step=step)


def check_prompts(name: str) -> None:
    """Refuse misspelt prompts before the model is loaded."""
    from tl_emergence.prompts import LISTS
    from tl_emergence.prompts.sources import DATASETS, TEXTS

    known = (*LISTS, *TEXTS, *DATASETS)
    if name not in known and not Path(name).exists():
        raise unknown_name("prompts (and no such file)", name, known)


def draw_prompts(asked: Mapping[str, Any], model: Any) -> PromptSet:
    """Draw the prompts that a command asks for: its prompts, n, shots, n_tokens, anchor, seed."""
    from tl_emergence import prompts

    if asked["prompts"] in prompts.LISTS:
        return prompts.demonstrations(
            asked["prompts"], model, shots=asked["shots"], n=asked["n"], seed=asked["seed"]
        )
    n = None if asked["n"] == "all" else asked["n"]
    return prompts.sentences(asked["prompts"], model, n_tokens=asked["n_tokens"], anchor=asked["anchor"], n=n)
