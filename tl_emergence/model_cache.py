"""The cache of converted models: made once, by one process at a time, whole or not at all."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_emergence.errors import MissingPackageError, ModelLoadError
from tl_emergence.files import to_json
from tl_emergence.model_guard import guarded_loading

_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class PackagedModel:
    """A pretrained model that comes as a Python package, quantised, in the GGUF format.

    Attributes:
        name: The name that `load` takes.
        lens_name: The name that TransformerLens knows the architecture by.
        note: What the weights are, for titles.
        module: The importable module of the package.
        install: How to install it.
        sha256: Checksum of the GGUF file.
        locate: Returns the GGUF file, given a folder for one that has to be assembled.
    """

    name: str
    lens_name: str
    note: str
    module: str
    install: str
    sha256: str
    locate: Callable[[Path], Path]

    @property
    def installed(self) -> bool:
        """Whether the package is there."""
        return importlib.util.find_spec(self.module) is not None


def cache_folder() -> Path:
    """Return the folder of converted models.

    `TL_EMERGENCE_CACHE` names it; without that it is `tl_emergence` in the user's cache folder of this
    operating system (on Linux `~/.cache`, or `XDG_CACHE_HOME`).
    """
    import platformdirs

    named = os.environ.get("TL_EMERGENCE_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(platformdirs.user_cache_dir("tl_emergence", appauthor=False))


def packaged_checkpoint(packaged: PackagedModel) -> Path:
    """Return the folder of the converted checkpoint, converting and verifying as needed.

    One process converts; others that ask for the same model meanwhile wait for it.

    Raises:
        MissingPackageError: The package is not installed.
        ModelLoadError: The package's file is not the one that is known or cannot be converted, or the cache
            cannot be written or is full.
    """
    cache = cache_folder()
    folder = cache / packaged.name
    try:
        with _locked(cache, packaged.name):
            remove_leftovers(cache, packaged.name)
            if not is_intact(folder, packaged):
                _convert(packaged, folder)
    except _CannotLockError as error:
        # A cache that another user has filled, mounted read-only, serves as it is.
        if not is_intact(folder, packaged):
            raise error.as_load_error(cache) from error
    return folder


def is_intact(folder: Path, packaged: PackagedModel) -> bool:
    """Return whether a folder holds a whole conversion: every file there, with the checksum recorded."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        files = manifest["files"]
        present = {path.name for path in folder.iterdir() if path.name[0] != "."} - {_MANIFEST}
        return (
            manifest["source_sha256"] == packaged.sha256
            and "config.json" in present
            and set(files) == present
            and all(_sha256(folder / name) == checksum for name, checksum in files.items())
        )
    # Missing, cut off, not JSON, not of this shape, not readable: all of these mean "convert again".
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return False


def remove_leftovers(cache: Path, name: str) -> None:
    """Remove what killed conversions of a model have left; call it only while holding the model's lock."""
    for scratch in _scratch_folders(cache, name):
        shutil.rmtree(scratch, ignore_errors=True)


def remove_leftovers_of_all(names: list[str]) -> None:
    """Remove what killed conversions have left, of every model that no live process is converting."""
    cache = cache_folder()
    for name in names:
        if _scratch_folders(cache, name):
            with suppress(_CannotLockError), _locked(cache, name, wait=False):
                remove_leftovers(cache, name)


def _scratch_folders(cache: Path, name: str) -> list[Path]:
    """Return the folders of unfinished conversions, named by `tempfile`: the name and eight characters."""
    return sorted(cache.glob(f".{name}-{'?' * 8}"))


class _CannotLockError(Exception):
    """The lock of a model cannot be had: the cache cannot be written, or another process holds it."""

    def as_load_error(self, cache: Path) -> ModelLoadError:
        return ModelLoadError(
            "the model cache cannot be written",
            seen=f"{cache}: {self}",
            expected="a folder that can be written, for the converted model",
            fix="Set TL_EMERGENCE_CACHE to a folder of yours on a disk with free space.",
        )


@contextmanager
def _locked(cache: Path, name: str, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of one model in the cache; the operating system frees it when the process dies."""
    from filelock import FileLock, Timeout

    lock = FileLock(cache / f".{name}.lock", timeout=-1 if wait else 0)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError, Timeout) as error:
        raise _CannotLockError(getattr(error, "strerror", None) or str(error)) from error
    try:
        yield
    finally:
        lock.release()


def _convert(packaged: PackagedModel, folder: Path) -> None:
    """Dequantise a GGUF file into a safetensors checkpoint; the folder appears whole or not at all."""
    if not packaged.installed:
        raise MissingPackageError(
            f"{packaged.name} is not installed",
            seen=f"no module {packaged.module}",
            expected="the package that carries the model",
            fix=f"Install it: {packaged.install}.",
        )
    with (
        guarded_loading(
            f"{packaged.name} cannot be converted",
            folder.parent,
            expected="a whole package, and room in the cache for the model in float32, twice",
            fix="Free some disk space or set TL_EMERGENCE_CACHE to another folder; or reinstall the package: "
            f"{packaged.install}.",
        ),
        tempfile.TemporaryDirectory(
            prefix=f".{packaged.name}-", dir=folder.parent, ignore_cleanup_errors=True
        ) as scratch,
    ):
        source = packaged.locate(Path(scratch))
        if _sha256(source) != packaged.sha256:
            raise ModelLoadError(
                f"the file of {packaged.name} is not the one that is known",
                seen=f"SHA-256 {_sha256(source)}",
                expected=packaged.sha256,
                fix=f"Reinstall the package: {packaged.install}.",
            )
        model, tokenizer = _dequantised(source)
        if source.is_relative_to(scratch):
            source.unlink()  # no longer needed: a process killed from here on leaves that much less
        target = Path(scratch) / "checkpoint"
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        files = {path.name: _sha256(path) for path in sorted(target.iterdir())}
        manifest = {"source_sha256": packaged.sha256, "files": files}
        (target / _MANIFEST).write_bytes(to_json(manifest))
        if folder.is_symlink() or folder.exists():  # damaged, or of another version of the package
            folder.rename(Path(scratch) / "old")
        target.rename(folder)


def _dequantised(source: Path) -> tuple[Any, Any]:
    """Return the model of a GGUF file, with float weights, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {
        "pretrained_model_name_or_path": str(source.parent),
        "gguf_file": source.name,
        "trust_remote_code": False,
    }
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(**where)
    # What remains of the quantisation would make save_pretrained refuse plain float weights.
    for owner, name in ((model.config, "quantization_config"), (model, "hf_quantizer")):
        if hasattr(owner, name):
            delattr(owner, name)
    return model, tokenizer


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
