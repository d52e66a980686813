"""Files that are whole or not there: atomic writes, checksums, and reads that say what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_emergence.errors import ResultFileError, SettingError

_CHECKSUM = "checksum"
_SECONDS_TO_WAIT = 60.0


def as_path(what: str, value: str | PathLike[str]) -> Path:
    """Return a path that a caller gave, with `~` expanded.

    Raises:
        SettingError: Not a path by type, or one that no file can have.

    Example:
        >>> as_path("folder", "~/runs") == Path.home() / "runs"
        True
    """
    given = os.fspath(value) if isinstance(value, str | PathLike) else value
    reason = ""
    if not isinstance(given, str):
        reason = f" ({type(value).__name__})"
    elif not given or "\0" in given:
        reason = " (empty)" if not given else " (with a null character)"
    else:
        try:
            os.fsencode(given)
            return Path(given).expanduser()
        except (ValueError, RuntimeError) as error:  # half a surrogate pair; the home of nobody
            reason = f" ({error})"
    raise SettingError(
        f"{what} is not a path",
        seen=f"{value!a:.80}{reason}",
        expected="a string or a pathlib.Path",
        fix="Pass the name of a file or folder.",
    )


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that its name never stands for part of it, not even after a crash.

    What a process that is dead left unfinished of the same file is removed.

    Raises:
        ResultFileError: The folder cannot be made or written; nothing is left behind.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path.parent, re.escape(path.name))
        # Not tempfile.mkstemp: its files are the owner's alone, whatever the user's umask says.
        unfinished = path.parent / f".{path.name}.{_host()}-{os.getpid()}.{uuid.uuid4().hex[:8]}"
        with unfinished.open("xb") as file:
            temporary = unfinished
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        temporary = None
    except (OSError, ValueError) as error:
        raise ResultFileError(
            "cannot write",
            seen=f"{path}: {_reason(error)}",
            expected="a folder that can be written",
            fix="Choose another place, or free it.",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path, names: str) -> None:
    """Remove what `write_atomically` left in a folder when its process died, of names that fit a pattern."""
    left = re.compile(rf"\.(?:{names})\.(?P<host>[0-9a-f]{{8}})-(?P<process>\d+)\.[0-9a-f]{{8}}")
    with os.scandir(folder) as entries:
        dead = [
            e.name for e in entries if (m := left.fullmatch(e.name)) and _is_dead(m["host"], m["process"])
        ]
    for name in dead:
        (folder / name).unlink(missing_ok=True)


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _is_dead(host: str, process: str) -> bool:
    """Return whether a process of this machine has ended; of other machines nothing is known."""
    if host != _host() or os.name != "posix":
        return False
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # alive, and somebody else's
        return False
    return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder while it is changed, so that processes change it one after another.

    Raises:
        ResultFileError: The folder cannot be made or written, or another process holds it for a minute.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock", timeout=_SECONDS_TO_WAIT)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, ValueError) as error:
        held = isinstance(error, Timeout)
        raise ResultFileError(
            "another process is saving there" if held else "cannot write",
            seen=f"{folder}: {f'locked for {_SECONDS_TO_WAIT:g} seconds' if held else _reason(error)}",
            expected="a folder that can be written",
            fix="Choose another place, or free it.",
        ) from error
    try:
        yield
    finally:
        lock.release()


def below(folder: Path, name: Any) -> Path:
    """Return the path of a name that a file holds; it must lie below its folder.

    Raises:
        ResultFileError: It leads elsewhere.

    Example:
        >>> below(Path("parts"), "gpt2/country").as_posix()
        'parts/gpt2/country'
    """
    parts = name.split("/") if isinstance(name, str) else [""]
    if any(part in ("", ".", "..") or {"\\", "\0"} & set(part) for part in parts):
        raise ResultFileError(
            "a name that leads out of its folder",
            seen=f"{name!r:.80} in {folder}",
            expected="the name of a file or folder below it",
            fix="Rename it; if it was read from a file, measure again: the file was changed.",
        )
    return folder.joinpath(*parts)


def exists(path: Path) -> bool:
    """Return whether there is something at a path.

    Raises:
        ResultFileError: A folder on the way may not be searched.
    """
    try:
        return path.exists()
    except OSError as error:
        raise ResultFileError(
            "cannot look there",
            seen=f"{path}: {_reason(error)}",
            expected="folders that may be searched",
            fix="Choose another place, or ask for the right to read it.",
        ) from error


def remove(path: Path) -> None:
    """Remove a file if it is there.

    Raises:
        ResultFileError: It cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ResultFileError(
            "cannot remove an old file",
            seen=f"{path}: {_reason(error)}",
            expected="a file that can be removed",
            fix="Remove it by hand; the result itself is saved.",
        ) from error


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return tensors in the safetensors format."""
    from safetensors.torch import save

    # Copies: the format refuses tensors that share memory.
    return save({name: t.clone(memory_format=torch.contiguous_format) for name, t in tensors.items()})


def tensors_from_bytes(content: bytes, where: Path) -> dict[str, Tensor]:
    """Read tensors in the safetensors format.

    Raises:
        ResultFileError: The bytes are not a whole safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ResultFileError(
            "damaged tensor file",
            seen=f"{where}: {error}",
            expected="a whole safetensors file",
            fix="Measure again; the file was cut off or changed.",
        ) from error


def read_bytes(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        ResultFileError: It is not there or cannot be read.
    """
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ResultFileError(
            "cannot read",
            seen=f"{path}: {_reason(error)}",
            expected="a file that can be read",
            fix="Check the path.",
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; where it carries a checksum, only if that fits.

    Raises:
        ResultFileError: It is not there, cannot be read, is not a JSON object, or was changed.
    """
    try:
        content = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:  # undecodable bytes and malformed JSON are ValueErrors
        content = error
    damage = ""
    if not isinstance(content, dict):
        damage = str(content) if isinstance(content, Exception) else type(content).__name__
    elif _CHECKSUM in content and content.pop(_CHECKSUM) != checksum(content):
        damage = "content whose checksum is not the one recorded"
    if damage or not isinstance(content, dict):
        raise ResultFileError(
            "damaged description",
            seen=f"{path}: {damage}",
            expected="a JSON object, as it was written",
            fix="Measure again; the file was cut off or changed.",
        )
    return content


def to_json(value: Any) -> bytes:
    """Return a value as indented JSON."""
    return (json.dumps(value, indent=1) + "\n").encode()


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON values with the checksum that `read_json` compares."""
    return {**content, _CHECKSUM: checksum(content)}


def checksum(content: Any) -> str:
    """Return the SHA-256 of JSON values, whatever their order and layout in a file.

    Example:
        >>> checksum({"a": 1, "b": (2.0,)}) == checksum({"b": [2.0], "a": 1})
        True
    """
    plain = json.loads(json.dumps(content))  # keys that are numbers become strings
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
