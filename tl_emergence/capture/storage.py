"""Where captured states live: in memory while they are few, in memory-mapped files when they are many."""

from __future__ import annotations

import json
import math
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_emergence.errors import ResultFileError, SettingError
from tl_emergence.files import checksum, with_checksum

IN_MEMORY_BYTES = 512 * 2**20
"""States that take more than this go to memory-mapped files."""


class StateStore:
    """Hands out tensors for states; on disk when a folder is given or when they would not fit.

    Args:
        total_bytes: What all tensors together will take.
        folder: Keep the files there (a run that can be resumed); None decides by size, and removes the
            names of temporary files at once: their space is free when no tensor of the store is in use.
    """

    def __init__(self, total_bytes: int, folder: Path | None) -> None:
        self.folder = folder
        self._on_disk = folder is not None or total_bytes > IN_MEMORY_BYTES
        if folder is not None:
            with _as_file_error(folder):
                folder.mkdir(parents=True, exist_ok=True)

    def tensor(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return an uninitialised tensor, or what the file of this name held before."""
        if not self._on_disk:
            return torch.empty(*shape, dtype=dtype)
        if self.folder is not None:
            return _mapped(self.folder / f"{name}.states", shape, dtype)
        # The name is gone as soon as the file is mapped: nothing is left however the process ends.
        with _as_file_error(Path(tempfile.gettempdir())), _temporary_folder() as temporary:
            return _mapped(temporary / f"{name}.states", shape, dtype)


class BatchJournal:
    """Which batches are on disk, with a checksum each: what lets a stopped capture go on.

    The first line says what is captured. A line is appended after its batch was written. A process killed
    between the two, or in the middle of a line, leaves a batch that is simply run again; a checksum that no
    longer fits (a crash of the machine) has the same effect.

    Args:
        path: The file; None keeps nothing on disk.
        request: Everything that the states depend on: JSON values only.

    Raises:
        SettingError: The file belongs to another capture.
    """

    def __init__(self, path: Path | None, request: Mapping[str, Any]) -> None:
        self.path = path
        self._seen: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        with _as_file_error(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        asked = json.loads(json.dumps(dict(request)))
        for entry in _entries(path):
            if "request" in entry and entry["request"] != asked:
                before = entry["request"]
                raise SettingError(
                    "the folder holds the states of another capture",
                    seen=f"{path.parent}, which differs in "
                    + ", ".join(sorted(k for k in {*before, *asked} if before.get(k) != asked.get(k))),
                    expected="an empty folder, or the folder of this very capture",
                    fix="Name another folder, or delete this one.",
                )
            if "batch" in entry:
                self._seen[entry["batch"]] = entry
        self._append({"request": asked})

    def has(self, batch: str, written: Iterable[Tensor]) -> bool:
        """Return whether the batch was recorded and its states are still what was recorded."""
        return batch in self._seen and self._seen[batch].get("crc32") == _crc32(written)

    def add(self, batch: str, written: Iterable[Tensor], energy: Sequence[float]) -> None:
        """Record a batch whose states have just been written, and what it adds to their mean square."""
        self._seen[batch] = {"batch": batch, "energy": list(energy)}
        if self.path is not None:
            self._seen[batch]["crc32"] = _crc32(written)
            self._append(self._seen[batch])

    def energy(self) -> list[float]:
        """Return the sums over all batches, state by state."""
        parts = [entry["energy"] for _, entry in sorted(self._seen.items()) if entry["energy"]]
        return [math.fsum(column) for column in zip(*parts, strict=True)]

    def _append(self, entry: Mapping[str, Any]) -> None:
        assert self.path is not None
        with _as_file_error(self.path), self.path.open("a") as lines:
            lines.write(f"\n{json.dumps(with_checksum(entry))}\n")


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    with _as_file_error(path):
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    for line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue  # an empty line, or the torn last line of a killed process
        if isinstance(entry, dict) and entry.pop("checksum", None) == checksum(entry):
            yield entry  # any other line was damaged: its batch is run again


def _mapped(path: Path, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    with _as_file_error(path):
        _reserve(path, math.prod(shape) * dtype.itemsize)
    return torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=dtype).view(*shape)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    # Windows removes no file that is mapped: there the folder stays until the system clears it.
    with tempfile.TemporaryDirectory(prefix="tl_emergence-", ignore_cleanup_errors=os.name == "nt") as name:
        yield Path(name)


def _reserve(path: Path, n_bytes: int) -> None:
    """Take the disk space now: a full disk is an error here, and a crash when mapped memory is written."""
    with path.open("ab") as file:
        if os.fstat(file.fileno()).st_size == n_bytes:
            return
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        os.truncate(path, n_bytes)


@contextmanager
def _as_file_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResultFileError(
            "cannot keep states",
            seen=f"{path}: {error.strerror or error}",
            expected="a folder that can be written, with room for the states",
            fix="Name another work folder, free space, or score fewer layers or positions at a time.",
        ) from error


def _crc32(tensors: Iterable[Tensor]) -> int:
    value = 0
    for tensor in tensors:
        value = zlib.crc32(tensor.contiguous().numpy().tobytes(), value)
    return value
