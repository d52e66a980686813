"""Results on disk: one description and its tensors, in a folder (`folders`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from tl_emergence import loaded
from tl_emergence.ceiling import Ceiling
from tl_emergence.errors import ResultFileError
from tl_emergence.files import as_path, exists
from tl_emergence.folders import read_folder, write_folder
from tl_emergence.geometry.companion import GEOMETRY_NAMES, Geometry
from tl_emergence.results import (
    AnyResult,
    EmergenceResult,
    EstimatorComparison,
    SigmaSweep,
    SpaceComparison,
    Subsample,
)
from tl_emergence.torch_state import with_torch_defaults

_HEAD = {"format": "tl_emergence result", "version": 1}
_KINDS = {
    "sigma sweep": SigmaSweep,
    "space comparison": SpaceComparison,
    "estimator comparison": EstimatorComparison,
}
_PLAIN = ("layers", "positions", "labels", "n_prompts", "cap_bits", "settings")
_OTHER = ("exact", "subsamples", "controls", "geometry")
_POINTWISE = ("macro_pointwise", "micro_pointwise")
_TENSORS = tuple(f.name for f in fields(EmergenceResult) if f.name not in (*_PLAIN, *_OTHER))


def save_result(result: AnyResult, folder: str | PathLike[str]) -> None:
    """Write a result, a sweep or a comparison to a folder.

    Raises:
        ResultFileError: The folder cannot be written. What it held before stays whole.
    """
    folder = as_path("folder", folder)
    tensors: dict[str, Tensor] = {}
    described = _describe(result, "", tensors)
    write_folder(folder, "result", _HEAD, described, tensors)


@with_torch_defaults
def load_result(folder: str | PathLike[str]) -> AnyResult:
    """Read what `save` or `tl-emergence run` wrote. Needs neither the model nor TransformerLens.

    Raises:
        ResultFileError: No result there, one of another format, or one that is damaged or cut off.

    Example:
        >>> information_emergence(model, tokens).save(tmp_path / "run")
        >>> load_result(tmp_path / "run")
        EmergenceResult(native, 8 prompts, noise, space read, sigma 0.5, 2 layers x 3 positions)
    """
    found = as_path("folder", folder)
    if found.name == "result.json":
        found = found.parent
    elif exists(found / "result" / "result.json"):
        found = found / "result"  # the output folder of `tl-emergence run`
    elif any(exists(found / inner / "effects.json") for inner in ("", "effects")):
        raise ResultFileError(
            "effects of ablations, not a result",
            seen=str(found),
            expected="what `save` of a result, or `tl-emergence run`, wrote",
            fix="Read them with circuits.load_effects(folder), and draw them with .plot().",
        )
    return read_folder(found, "result", _HEAD, lambda described, tensors: _restore(described, "", tensors))


def _describe(result: AnyResult, prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return the JSON side of a result; put its tensors, under prefixed names, into `tensors`."""
    if isinstance(result, EmergenceResult):
        return _describe_one(result, prefix, tensors)
    kind = next(name for name, of in _KINDS.items() if isinstance(result, of))
    parts = [
        {"key": key, "result": _describe(part, f"{prefix}{key}/", tensors)} for key, part in result.items()
    ]
    return {"kind": kind, "parts": parts}


def _describe_one(result: EmergenceResult, prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    for name in _TENSORS:
        value = getattr(result, name)
        if value is not None:
            tensors[prefix + name] = value
    for name in ("macro", "micro", "emergence"):
        tensors[f"{prefix}exact/{name}"] = getattr(result.exact, name)
    for part in result.subsamples:
        tensors[f"{prefix}subsample-{part.n_prompts}/macro"] = part.macro
        tensors[f"{prefix}subsample-{part.n_prompts}/emergence"] = part.emergence
    if result.geometry is not None:
        tensors |= {f"{prefix}geometry/{name}": found for name, found in result.geometry.tensors().items()}
    controls = {
        name: _describe_one(control, f"{prefix}control-{name}/", tensors)
        for name, control in result.controls.items()
    }
    return {
        "kind": "result",
        **{name: _json(getattr(result, name)) for name in _PLAIN},
        "subsamples": [part.n_prompts for part in result.subsamples],
        "controls": controls,
    }


def _json(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _restore(described: Mapping[str, Any], prefix: str, tensors: dict[str, Tensor]) -> AnyResult:
    if described["kind"] == "result":
        return _restore_one(described, prefix, tensors)
    kind = loaded.text("kind", described["kind"])
    key_type = (int, float) if _KINDS[kind] is SigmaSweep else str
    parts: dict[Any, Any] = {}
    for part in described["parts"]:
        if not isinstance(part["key"], key_type) or isinstance(part["key"], bool):
            raise ValueError(f"key of a {kind}: {part['key']!r:.80}")
        parts[part["key"]] = _restore(part["result"], f"{prefix}{part['key']}/", tensors)
    if not parts:
        raise ValueError(f"a {kind} of nothing")
    return _KINDS[kind](parts)


def _restore_one(described: Mapping[str, Any], prefix: str, tensors: dict[str, Tensor]) -> EmergenceResult:
    layers = loaded.whole_numbers("layers", described["layers"])
    positions = loaded.whole_numbers("positions", described["positions"])
    labels = loaded.texts("labels", described["labels"])
    n_prompts = loaded.whole_number("n_prompts", described["n_prompts"], least=1)
    loaded.length("labels", labels, len(positions))
    cells = (len(layers), len(positions))
    shapes = {"closest": (2, *cells)} | dict.fromkeys(_POINTWISE, (*cells, n_prompts))
    held = {
        name: loaded.tensor(
            tensors,
            prefix + name,
            shapes.get(name, cells),
            torch.bool if name.endswith("_saturated") else None,
        )
        for name in _TENSORS
        if name not in _POINTWISE or prefix + name in tensors
    }
    exact = [
        loaded.tensor(tensors, f"{prefix}exact/{name}", cells) for name in ("macro", "micro", "emergence")
    ]
    subsamples = tuple(
        Subsample(
            n,
            loaded.tensor(tensors, f"{prefix}subsample-{n}/macro", cells),
            loaded.tensor(tensors, f"{prefix}subsample-{n}/emergence", cells),
        )
        for n in loaded.whole_numbers("subsamples", described["subsamples"])
    )
    controls = {
        name: _restore_one(control, f"{prefix}control-{name}/", tensors)
        for name, control in loaded.mapping("controls", described["controls"]).items()
    }
    cap_bits = described["cap_bits"]
    return EmergenceResult(
        **held,
        layers=layers,
        positions=positions,
        labels=labels,
        n_prompts=n_prompts,
        cap_bits=None if cap_bits is None else loaded.number("cap_bits", cap_bits),
        settings=loaded.mapping("settings", described["settings"]),
        exact=Ceiling(*exact),
        subsamples=subsamples,
        controls=controls,
        geometry=_restore_geometry(f"{prefix}geometry/", tensors, cells),
    )


def _restore_geometry(prefix: str, tensors: dict[str, Tensor], cells: tuple[int, int]) -> Geometry | None:
    if not any(name.startswith(prefix) for name in tensors):
        return None
    return Geometry(**{name: loaded.tensor(tensors, prefix + name, cells) for name in GEOMETRY_NAMES})
