"""Counting file operations in a process, and stopping it, or filling its disk, at the k-th."""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

_BY_PATH = ("replace", "rename", "unlink", "remove", "mkdir", "rmdir", "truncate")
_BY_DESCRIPTOR = ("fsync", "posix_fallocate", "ftruncate")
_TAKE_NO_SPACE = ("unlink", "remove", "rmdir")


class Operations:
    """Patches the functions of `os` and `io` that change files, of this process only and for good.

    Args:
        folder: Operations elsewhere do not count.
        at: The operation that the fault comes at, from 0 on; none for -1.
        fault: "kill" ends the process by SIGKILL before the operation, in the middle of a write; "full" makes
            this operation, and every one after it that takes space, fail with ENOSPC.
    """

    def __init__(self, folder: Path, at: int, fault: str) -> None:
        self.seen = 0
        self._folder, self._at, self._fault = str(folder), at, fault

    def install(self) -> None:
        for name in _BY_PATH:
            setattr(os, name, self._patched(getattr(os, name), name, by_path=True))
        for name in _BY_DESCRIPTOR:
            if hasattr(os, name):
                setattr(os, name, self._patched(getattr(os, name), name, by_path=False))
        opened = io.open

        def patched_open(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if not set(mode) & set("wxa+") or not self._counts(file):
                return opened(file, mode, *rest, **options)
            self._reach("open")
            return _Written(opened(file, mode, *rest, **options), self)

        io.open = builtins.open = patched_open  # type: ignore[assignment]

    def reach_write(self, write: Callable[[Any], Any], content: Any, flush: Callable[[], None]) -> None:
        """Write all of the content, or half of it where the fault comes."""
        if self._is_here():
            write(content[: len(content) // 2])
            flush()
        self._reach("write")
        write(content)

    def _is_here(self) -> bool:
        return self.seen == self._at

    def _counts(self, path: Any) -> bool:
        return not isinstance(path, int) and os.fspath(path).startswith(self._folder)

    def _reach(self, name: str) -> None:
        here, past = self._is_here(), 0 <= self._at <= self.seen
        self.seen += 1
        if here and self._fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if past and self._fault == "full" and name not in _TAKE_NO_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _patched(self, original: Callable[..., Any], name: str, *, by_path: bool) -> Callable[..., Any]:
        def patched(*arguments: Any, **options: Any) -> Any:
            # A path may be relative to a descriptor, as in shutil.rmtree.
            if not by_path or options.get("dir_fd") is not None or self._counts(arguments[0]):
                self._reach(name)
            return original(*arguments, **options)

        return patched


class _Written:
    """A file whose writes count."""

    def __init__(self, file: Any, operations: Operations) -> None:
        self._file, self._operations = file, operations

    def write(self, content: Any) -> None:
        self._operations.reach_write(self._file.write, content, self._file.flush)

    def __enter__(self) -> _Written:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
