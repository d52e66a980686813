"""The folder of a run that can be stopped and goes on: what was asked, and the parts that are done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from tl_emergence.errors import ResultFileError, SettingError
from tl_emergence.estimators.interface import ChainEstimate
from tl_emergence.files import (
    below,
    exists,
    read_bytes,
    read_json,
    tensors_from_bytes,
    tensors_to_bytes,
    to_json,
    with_checksum,
    write_atomically,
)

_SEAL = "sha256"


class Workspace:
    """Finished parts of a run, each written once, by atomic rename, under the name of what it is.

    A part carries a checksum of its values, its name and its run: one that was damaged, or that belongs
    elsewhere, counts as not there, and is measured again.

    Args:
        folder: The folder; None keeps nothing.
        request: Everything that the numbers depend on: JSON values only.

    Raises:
        SettingError: The folder holds parts of another run.
    """

    def __init__(self, folder: Path | None, request: Mapping[str, Any]) -> None:
        self.folder = folder
        if folder is None:
            return
        wanted = json.loads(json.dumps(dict(request)))
        self._request = json.dumps(wanted, sort_keys=True)
        path = folder / "run.json"
        if exists(path):
            found = read_json(path)
            different = sorted(k for k in {*wanted, *found} if wanted.get(k) != found.get(k))
            if different:
                raise SettingError(
                    "the work folder belongs to another run",
                    seen=f"{folder}, which differs in {', '.join(different)}",
                    expected="an empty folder, or the folder of this very run",
                    fix="Name another folder, delete this one, or repeat the options of its run.",
                )
        else:
            write_atomically(path, to_json(with_checksum(wanted)))

    def subfolder(self, name: str) -> Path | None:
        """Return a folder for one part's own files, or None when nothing is kept."""
        return None if self.folder is None else self.folder / name

    def load(self, part: str) -> ChainEstimate | None:
        """Return a finished part, or None when it is not there."""
        tensors = self.load_tensors(part)
        if tensors is None:
            return None
        header = json.loads(bytes(tensors.pop("header").tolist()))
        return ChainEstimate(
            bits=tensors["bits"],
            stderr=tensors["stderr"],
            mean_stderr=tensors["mean_stderr"],
            closest=tensors["closest"],
            pointwise=tensors.get("pointwise"),
            replicates=tensors.get("replicates"),
            subsamples={n: tensors[f"subsample.{n}"] for n in header["subsamples"]},
            cap_bits=header["cap_bits"],
            direction=header["direction"],
            settings=header["settings"],
        )

    def save(self, part: str, estimate: ChainEstimate) -> None:
        """Keep a finished part."""
        if self.folder is None:
            return
        header = {
            "cap_bits": estimate.cap_bits,
            "direction": estimate.direction,
            "settings": dict(estimate.settings),
            "subsamples": list(estimate.subsamples),
        }
        names = ("bits", "stderr", "mean_stderr", "closest", "pointwise", "replicates")
        tensors = {n: getattr(estimate, n) for n in names if getattr(estimate, n) is not None}
        tensors |= {f"subsample.{n}": t for n, t in estimate.subsamples.items()}
        tensors["header"] = torch.tensor(list(json.dumps(header).encode()), dtype=torch.uint8)
        self.save_tensors(part, tensors)

    def load_tensors(self, part: str) -> dict[str, Tensor] | None:
        """Return a finished part that is tensors only; None when it is not there, or not as it was kept."""
        if self.folder is None or not exists(self._path(part)):
            return None
        path = self._path(part)
        try:
            tensors = tensors_from_bytes(read_bytes(path), path)
        except ResultFileError:
            return None
        seal = tensors.pop(_SEAL, None)
        fits = seal is not None and torch.equal(seal, self._seal(part, tensors))
        return tensors if fits else None

    def save_tensors(self, part: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a finished part that is tensors only."""
        if self.folder is not None:
            sealed = {**tensors, _SEAL: self._seal(part, tensors)}
            write_atomically(self._path(part), tensors_to_bytes(sealed))

    def _seal(self, part: str, tensors: Mapping[str, Tensor]) -> UInt8[Tensor, " byte"]:
        """Return the SHA-256 of a part, of its name and of the run that it belongs to."""
        digest = hashlib.sha256(f"{self._request}\n{part}\n".encode())
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return torch.tensor(list(digest.digest()), dtype=torch.uint8)

    def _path(self, part: str) -> Path:
        assert self.folder is not None
        return below(self.folder / "parts", f"{part}.safetensors")
