"""Damage to files: bits, bytes, whole files; and values changed with their checksums made anew."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from tl_emergence.files import with_checksum


def damage(path: Path, others: list[Path], generator: random.Random) -> str:
    """Damage a file in one of many ways; say which.

    Args:
        path: The file.
        others: Files that may stand in its place.
        generator: What chooses.
    """
    content = bytearray(path.read_bytes())
    size, choose = len(content), generator.choice
    kinds: dict[str, Callable[[], bytes | bytearray | None]] = {
        "bit": lambda: _with(content, generator.randrange(size), lambda byte: byte ^ choose(_BITS)),
        "byte": lambda: _with(content, generator.randrange(size), lambda byte: generator.randrange(256)),
        "digit": lambda: _with(content, _a_digit(content, generator), lambda _: choose(b"0123456789")),
        "cut off": lambda: content[: generator.randrange(size)],
        "beginning lost": lambda: content[generator.randrange(size) :],
        "bytes lost": lambda: _without(content, generator),
        "bytes inserted": lambda: (
            content[: (at := generator.randrange(size))]
            + generator.randbytes(generator.randint(1, 40))
            + content[at:]
        ),
        "halves swapped": lambda: content[(at := generator.randrange(size)) :] + content[:at],
        "zeros": lambda: bytes(size),
        "empty": lambda: b"",
        "another file": lambda: generator.choice(others).read_bytes() if others else b"{}",
        "lost": lambda: None,
    }
    kind = generator.choice(["bit"] * 4 + ["byte", "digit"] * 2 + list(kinds)) if size else "lost"
    damaged = kinds[kind]()
    if damaged is None:
        path.unlink()
    else:
        path.write_bytes(damaged)
    return kind


def _with(content: bytearray, at: int, change: Callable[[int], int]) -> bytearray:
    content[at] = change(content[at])
    return content


def _without(content: bytearray, generator: random.Random) -> bytearray:
    at = generator.randrange(len(content))
    del content[at : at + generator.randint(1, 40)]
    return content


def _a_digit(content: bytearray, generator: random.Random) -> int:
    digits = [at for at, byte in enumerate(content) if chr(byte).isdigit()]
    return generator.choice(digits or [0])


_BITS = [1 << bit for bit in range(8)]
NESTED = json.loads("[" * 200 + "]" * 200)
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 3, 10**30, 0.5, float("nan"), "", "x", "../../x", "\ud800", [], [1],
    ["x"], {}, {"x": 1}, NESTED,
)  # fmt: skip


def disguised(folder: Path, stem: str, generator: random.Random) -> str:
    """Change a description or a tensor, and make the checksums anew, as no accident would."""
    path = folder / f"{stem}.json"
    description = json.loads(path.read_text())
    del description["checksum"]
    if "tensors" in description and generator.random() < 0.3:
        changed = _change_tensors(folder, description, generator)
    else:
        changed = _change_a_value(description, generator)
    path.write_text(json.dumps(with_checksum(description)))
    return changed


def _change_tensors(folder: Path, description: dict[str, Any], generator: random.Random) -> str:
    path = folder / description["tensors"]
    tensors = load(path.read_bytes())
    if not tensors:
        return "no tensors"
    name = generator.choice(sorted(tensors))
    kind = generator.choice(["lost", "type", "shape", "empty", "NaN"])
    tensor = tensors.pop(name)
    if kind != "lost":
        tensors[name] = {
            "type": lambda: tensor.to(torch.int64),
            "shape": lambda: tensor.flatten()[: max(1, tensor.numel() // 2)].clone(),
            "empty": lambda: tensor.new_zeros(0),
            "NaN": lambda: torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor,
        }[kind]()
    content = save(tensors)
    path.write_bytes(content)
    description["sha256"] = hashlib.sha256(content).hexdigest()
    return f"{name}: {kind}"


def _change_a_value(description: dict[str, Any], generator: random.Random) -> str:
    """Walk down to a random place, and put something else there, or nothing."""
    holder: Any = description
    way = []
    while True:
        key = generator.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        way.append(str(key))
        inner = holder[key]
        if not (isinstance(inner, dict | list) and inner) or generator.random() < 0.15:
            break
        holder = inner
    if generator.random() < 0.2:
        del holder[key]
        return f"{'.'.join(way)} lost"
    holder[key] = generator.choice(VALUES)
    return f"{'.'.join(way)} = {holder[key]!r:.30}"


def fresh_copy(source: Path, target: Path) -> Path:
    """Return a copy of a folder in place of the one before."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target
