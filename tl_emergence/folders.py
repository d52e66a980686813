"""Folders of saved results: a JSON description with its own checksum, and that of one safetensors file.

The description is the commit point. Tensors are written first, under a name that holds their checksum;
the description then replaces the one before by atomic rename; the tensors that the description before named
are removed last, with whatever a killed process left unfinished. Whenever the process dies, the folder holds
the old result or the new one, whole. Nothing that no description named is ever removed. Processes that save
in one folder take turns; one that reads while another saves gets the old result or the new one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from tl_emergence.errors import ResultFileError
from tl_emergence.files import (
    below,
    locked,
    read_bytes,
    read_json,
    remove,
    remove_unfinished,
    tensors_from_bytes,
    tensors_to_bytes,
    to_json,
    with_checksum,
    write_atomically,
)

_Restored = TypeVar("_Restored")


def write_folder(
    folder: Path,
    stem: str,
    head: Mapping[str, Any],
    content: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    """Write a description, `stem`.json, and its tensors.

    Raises:
        ResultFileError: The folder cannot be written. What it held before stays whole.
    """
    written = tensors_to_bytes(dict(tensors))
    checksum = hashlib.sha256(written).hexdigest()
    name = f"{stem}-{checksum[:16]}.safetensors"
    description = to_json(with_checksum({**head, "tensors": name, "sha256": checksum, stem: dict(content)}))
    with locked(folder):
        before = _named_tensors(folder, stem)
        write_atomically(folder / name, written)
        write_atomically(folder / f"{stem}.json", description)
        if before not in (None, name):
            remove(folder / before)
        remove_unfinished(folder, rf"{stem}-[0-9a-f]{{16}}\.safetensors")


def _named_tensors(folder: Path, stem: str) -> str | None:
    """Return the tensor file that the present description names, where it is one that `write_folder` made."""
    try:
        name = read_json(folder / f"{stem}.json").get("tensors")
    except ResultFileError:  # none there, or a damaged one: it vouches for nothing
        return None
    made_here = isinstance(name, str) and re.fullmatch(rf"{stem}-[0-9a-f]{{16}}\.safetensors", name)
    return name if made_here else None


def read_folder(
    folder: Path,
    stem: str,
    head: Mapping[str, Any],
    restore: Callable[[Mapping[str, Any], dict[str, Tensor]], _Restored],
) -> _Restored:
    """Read what `write_folder` wrote, and make of it what `restore` makes.

    Raises:
        ResultFileError: Nothing there, another format or version, or damaged or cut off.
    """
    while True:
        description = read_json(folder / f"{stem}.json")
        try:
            return _read(folder, stem, head, restore, description)
        except ResultFileError:
            # Another process may have replaced the result between the reading of the two files.
            if read_json(folder / f"{stem}.json") == description:
                raise


def _read(
    folder: Path,
    stem: str,
    head: Mapping[str, Any],
    restore: Callable[[Mapping[str, Any], dict[str, Tensor]], _Restored],
    description: Mapping[str, Any],
) -> _Restored:
    path = folder / f"{stem}.json"
    if any(description.get(key) != value for key, value in head.items()):
        raise ResultFileError(
            f"not a {stem} of this version",
            seen=f"{path}: format {description.get('format')!r}, version {description.get('version')!r}",
            expected=f"format {head['format']!r}, version {head['version']}",
            fix="Name the folder that its save made, or measure again with this version.",
        )
    tensor_path = below(folder, description.get("tensors"))
    content = read_bytes(tensor_path)
    if hashlib.sha256(content).hexdigest() != description.get("sha256"):
        raise ResultFileError(
            "damaged tensor file",
            seen=f"{tensor_path}: {len(content):,} bytes whose checksum is not the one recorded",
            expected="the file that was saved",
            fix="Measure again; the file was cut off or changed.",
        )
    tensors = tensors_from_bytes(content, tensor_path)
    try:
        return restore(description[stem], tensors)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        if isinstance(error, ResultFileError):
            raise
        raise ResultFileError(
            "damaged description",
            seen=f"{path}: {type(error).__name__}: {error}",
            expected="the description that was saved",
            fix="Measure again; the file was changed.",
        ) from error
