"""Where captured states live: in memory while they are few, in memory-mapped files when they are many."""

from __future__ import annotations

import json
import math
import os
import tempfile
import weakref
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from tl_emergence.errors import ResultFileError

IN_MEMORY_BYTES = 512 * 2**20
"""States that take more than this go to memory-mapped files."""


class StateStore:
    """Hands out tensors for states; on disk when a folder is given or when they would not fit.

    Args:
        total_bytes: What all tensors together will take.
        folder: Keep the files there (a run that can be resumed); None decides by size, and removes
            temporary files once no tensor of the store is in use.
    """

    def __init__(self, total_bytes: int, folder: Path | None) -> None:
        self.folder = folder
        if folder is None and total_bytes > IN_MEMORY_BYTES:
            temporary = tempfile.TemporaryDirectory(prefix="tl_emergence-")
            self.folder = Path(temporary.name)
            weakref.finalize(self, temporary.cleanup)
        if folder is not None:
            with _as_file_error(folder):
                folder.mkdir(parents=True, exist_ok=True)

    def tensor(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return an uninitialised tensor, or what the file of this name held before."""
        if self.folder is None:
            return torch.empty(*shape, dtype=dtype)
        path = self.folder / f"{name}.states"
        with _as_file_error(path):
            _reserve(path, math.prod(shape) * dtype.itemsize)
        flat = torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=dtype)
        return flat.view(*shape)


class BatchJournal:
    """Which batches are on disk, with a checksum each: what lets a stopped capture go on.

    A line is appended after its batch was written. A process killed between the two, or in the middle of
    the line, leaves a batch that is simply run again; a checksum that no longer fits (a crash of the
    machine) has the same effect.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._seen: dict[str, int] = {}
        if path is not None and path.exists():
            for line in path.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:
                    continue  # the torn last line of a killed process
                self._seen[entry["batch"]] = entry["crc32"]

    def has(self, batch: str, written: Iterable[Tensor]) -> bool:
        """Return whether the batch was recorded and its states are still what was recorded."""
        return batch in self._seen and self._seen[batch] == _crc32(written)

    def add(self, batch: str, written: Iterable[Tensor]) -> None:
        """Record a batch whose states have just been written."""
        if self.path is None:
            return
        with self.path.open("a") as lines:
            lines.write(f"\n{json.dumps({'batch': batch, 'crc32': _crc32(written)})}\n")


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
