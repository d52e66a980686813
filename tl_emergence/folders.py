"""Folders of saved results: a JSON description that names, and vouches for, one safetensors file.

The description is the commit point. Tensors are written first, under a name that holds their checksum;
the description then replaces the one before by atomic rename; tensors that nothing names any more are
removed last, with whatever a killed process left unfinished. Whenever the process dies, the folder holds the
old result or the new one, whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from tl_emergence.errors import ResultFileError
from tl_emergence.files import (
    read_bytes,
    read_json,
    remove,
    tensors_from_bytes,
    tensors_to_bytes,
    to_json,
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
    write_atomically(folder / name, written)
    head = {**head, "tensors": name, "sha256": checksum}
    write_atomically(folder / f"{stem}.json", to_json({**head, stem: dict(content)}))
    # Tensors of the result before, and unfinished files of a process that was killed.
    unfinished = [*folder.glob(f".{stem}.json.*"), *folder.glob(f".{stem}-*.safetensors.*")]
    for stale in [*folder.glob(f"{stem}-*.safetensors"), *unfinished]:
        if stale.name != name:
            remove(stale)


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
    path = folder / f"{stem}.json"
    found = read_json(path)
    if any(found.get(key) != value for key, value in head.items()):
        raise ResultFileError(
            f"not a {stem} of this version",
            seen=f"{path}: format {found.get('format')!r}, version {found.get('version')!r}",
            expected=f"format {head['format']!r}, version {head['version']}",
            fix="Name the folder that its save made, or measure again with this version.",
        )
    tensor_path = folder / Path(str(found.get("tensors"))).name
    content = read_bytes(tensor_path)
    if hashlib.sha256(content).hexdigest() != found.get("sha256"):
        raise ResultFileError(
            "damaged tensor file",
            seen=f"{tensor_path}: {len(content):,} bytes whose checksum is not the one recorded",
            expected="the file that was saved",
            fix="Measure again; the file was cut off or changed.",
        )
    tensors = tensors_from_bytes(content, tensor_path)
    try:
        return restore(found[stem], tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise ResultFileError(
            "damaged description",
            seen=f"{path}: {type(error).__name__}: {error}",
            expected="the description that was saved",
            fix="Measure again; the file was changed.",
        ) from error
