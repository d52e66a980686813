"""The parts of an experiment: measured once each, kept, and found again when it goes on."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tl_emergence.capture import compat
from tl_emergence.capture.fingerprint import model_fingerprint
from tl_emergence.checkpoints import Workspace
from tl_emergence.errors import ResultFileError, SettingError
from tl_emergence.files import (
    checksum,
    exists,
    read_bytes,
    read_json,
    to_json,
    with_checksum,
    write_atomically,
)
from tl_emergence.results import AnyResult, EmergenceResult
from tl_emergence.saving import load_result

_LOG = logging.getLogger("tl_emergence.experiments")

Models = Mapping[str, Any]
"""Models by the names that tables and figures call them."""


def named_models(models: Any | Models) -> dict[str, Any]:
    """Return models by name; one model alone goes by its own.

    Raises:
        SettingError: No model, or several without names.
        HookError: Something that is no TransformerLens model.
    """
    if isinstance(models, list | tuple):
        raise SettingError(
            "models without names", seen=type(models).__name__, expected="a model, or {name: model}",
            fix="Pass {'gpt2': model}.",
        )  # fmt: skip
    found = dict(models) if isinstance(models, Mapping) else {own_name(models): models}
    if not found:
        raise SettingError("no model", seen="none", expected="one or several", fix="Pass a model.")
    for name, model in found.items():
        check_name(name)
        compat.check_model(model)
    return found


def space_names(spaces: Any) -> tuple[Any, ...]:
    """Return spaces as a tuple; one alone may be given by its name.

    Raises:
        SettingError: Neither a name nor several.
    """
    if isinstance(spaces, str):
        return (spaces,)
    if not isinstance(spaces, Iterable):
        raise SettingError(
            "spaces are none",
            seen=repr(spaces),
            expected="a name or several",
            fix="Pass spaces=('read', 'unit').",
        )
    return tuple(spaces)


def number_of_parameters(model: Any) -> int:
    """Return how many parameters a model has; one that is used twice counts once."""
    return sum({id(p): p.numel() for p in model.parameters()}.values())


def check_name(name: Any) -> str:
    """Return a name that can be a folder's.

    Raises:
        SettingError: It cannot.
    """
    if isinstance(name, str) and name.strip() and name not in (".", "..") and not {"/", "\\"} & set(name):
        return name
    raise SettingError(
        "a name that cannot name a part",
        seen=repr(name),
        expected="a string without / or \\",
        fix="Name the model by the last part of its name: 'pythia-70m', not 'EleutherAI/pythia-70m'.",
    )


def own_name(model: Any) -> str:
    """Return the last part of a model's own name."""
    compat.check_model(model)
    return str(compat.describe(model)["model"]).rsplit("/", 1)[-1]


class Parts:
    """Finished parts of an experiment, in memory and, where a folder is given, on disk.

    Args:
        folder: Where to keep them; None for memory only.
        request: What the numbers depend on: JSON values only.
        models: The models; their weights belong to the request.

    Raises:
        SettingError: The folder holds parts of another experiment.
    """

    def __init__(self, folder: Path | None, request: Mapping[str, Any], models: Models) -> None:
        self.results: dict[str, AnyResult] = {}
        self._folder = folder
        self._request = ""
        if folder is not None:
            weights = {name: model_fingerprint(model) for name, model in models.items()}
            version = compat.package_version("tl-emergence")
            whole = {**request, "weights": weights, "tl_emergence": version}
            Workspace(folder, whole)
            self._request = checksum(whole)

    def measure(
        self,
        key: str,
        run: Callable[[Path | None], AnyResult],
        also: Callable[[AnyResult], Mapping[str, Any]] | None = None,
    ) -> Mapping[str, Any]:
        """Measure a part, unless it is there; return what was kept of it besides the scores.

        Args:
            key: Its name, a path below `parts`.
            run: Measures it, given a folder in which it can go on.
            also: JSON values to keep of it, from the result with its values prompt by prompt.
        """
        place = None if self._folder is None else self._folder / "parts" / key
        if place is not None and exists(place / "kept.json"):
            record = self._record(place / "kept.json", key)
            result = None if record is None else _result(place, record.get("result"))
            if record is not None and result is not None:
                self.results[key] = result
                shutil.rmtree(place / ".work", ignore_errors=True)  # of a run that was killed before it could
                return record["kept"]
        _LOG.info("measuring %s", key)
        work = None if place is None else place / ".work"
        found = run(work)
        kept = dict(also(found)) if also else {}
        self.results[key] = without_pointwise(found)
        if place is not None:
            self.results[key].save(place)
            self._write(place / "kept.json", key, kept, result=_checksum(place))
            shutil.rmtree(place / ".work", ignore_errors=True)
        return kept

    def keep(self, key: str, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return JSON values that are made once, such as generated texts."""
        path = None if self._folder is None else self._folder / "kept" / f"{key}.json"
        record = None if path is None or not exists(path) else self._record(path, key)
        if record is not None:
            return record["kept"]
        _LOG.info("making %s", key)
        found = dict(make())
        if path is not None:
            self._write(path, key, found)
        return found

    def _write(self, path: Path, key: str, kept: Mapping[str, Any], **others: Any) -> None:
        record = {"key": key, "request": self._request, "kept": dict(kept), **others}
        write_atomically(path, to_json(with_checksum(record)))

    def _record(self, path: Path, key: str) -> Mapping[str, Any] | None:
        """Return what was kept; None where it was damaged or belongs elsewhere, to be made again."""
        try:
            record = read_json(path)
        except ResultFileError:
            return None
        belongs = record.get("key") == key and record.get("request") == self._request
        return record if belongs and isinstance(record.get("kept"), dict) else None


def _result(place: Path, recorded: Any) -> AnyResult | None:
    """Return the result of a finished part; None where it is not the one that was recorded."""
    try:
        return load_result(place) if _checksum(place) == recorded else None
    except ResultFileError:
        return None


def _checksum(place: Path) -> str:
    return hashlib.sha256(read_bytes(place / "result.json")).hexdigest()


def without_pointwise(result: AnyResult) -> AnyResult:
    """Return a result without its values prompt by prompt, which are most of its size."""
    if isinstance(result, EmergenceResult):
        controls = {name: _one(without_pointwise(found)) for name, found in result.controls.items()}
        return replace(result, macro_pointwise=None, micro_pointwise=None, controls=controls)
    inner: Any = {key: without_pointwise(found) for key, found in result.items()}
    return replace(result, results=inner)


def _one(result: AnyResult) -> EmergenceResult:
    assert isinstance(result, EmergenceResult)
    return result
