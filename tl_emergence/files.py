"""Files that are whole or not there: atomic writes, and reads that say what is wrong."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_emergence.errors import ResultFileError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that its name never stands for part of it, not even after a crash.

    Raises:
        ResultFileError: The folder cannot be made or written; nothing is left behind.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not tempfile.mkstemp: its files are the owner's alone, whatever the user's umask says.
        unfinished = path.parent / f".{path.name}.{uuid.uuid4().hex}"
        with unfinished.open("xb") as file:
            temporary = unfinished
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        temporary = None
    except OSError as error:
        raise ResultFileError(
            "cannot write",
            seen=f"{path}: {error.strerror or error}",
            expected="a folder that can be written",
            fix="Choose another place, or free it.",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


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
            seen=f"{path}: {error.strerror or error}",
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
            seen=f"{path}: {error.strerror or error}",
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
    except (SafetensorError, ValueError) as error:
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
    except OSError as error:
        raise ResultFileError(
            "cannot read",
            seen=f"{path}: {error.strerror or error}",
            expected="a file that can be read",
            fix="Check the path.",
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ResultFileError: It is not there, cannot be read, or is not a JSON object.
    """
    try:
        found = json.loads(read_bytes(path))
    except ValueError as error:  # undecodable bytes and malformed JSON are both ValueErrors
        found = error
    if not isinstance(found, dict):
        raise ResultFileError(
            "damaged description",
            seen=f"{path}: {found if isinstance(found, ValueError) else type(found).__name__}",
            expected="a JSON object",
            fix="Measure again; the file was cut off or changed.",
        )
    return found


def to_json(value: Any) -> bytes:
    """Return a value as indented JSON."""
    return (json.dumps(value, indent=1) + "\n").encode()
