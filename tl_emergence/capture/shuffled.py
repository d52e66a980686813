"""The weight-shuffled control: every weight matrix's entries permuted, norms and biases kept."""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def shuffled_weights(model: Any, *, seed: int = 0) -> Iterator[None]:
    """Permute the entries of every weight of two or more dimensions while the context lasts.

    Marginal distributions of the weights stay, structure goes. Norms and biases stay as they are; tied
    weights are permuted once. On the way out, also after an exception or an interrupt, every weight is
    restored bit for bit. This is a weight-shuffled model, not an untrained one.

    Args:
        model: A TransformerLens model; its parameters are changed in place and changed back.
        seed: Seed of the permutations; each weight has a generator of its own, named after it.

    Cost: a copy of the weights in memory, and about 60 nanoseconds a weight on one core.

    Example:
        >>> before = model(tokens)
        >>> with shuffled_weights(model, seed=0):
        ...     changed = model(tokens)
        >>> bool((model(tokens) == before).all()), bool((changed == before).all())
        (True, False)
    """
    weights = list(_distinct_weights(model))
    saved: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for _, weight in weights:
                saved.append((weight, weight.detach().clone()))
            for name, weight in weights:
                flat = weight.detach().reshape(-1).cpu().contiguous()
                _generator(seed, name).shuffle(_as_integers(flat))
                weight.copy_(flat.view(weight.shape))
        yield
    finally:
        with _interrupts_wait(), torch.no_grad():
            for weight, original in saved:
                weight.copy_(original)


def _distinct_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights to permute; of tensors that share memory, the largest views that do not overlap."""
    by_storage: dict[int, list[tuple[str, Tensor]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and not _is_bias(name):
            by_storage.setdefault(parameter.untyped_storage().data_ptr(), []).append((name, parameter))
    for group in by_storage.values():
        if len(group) == 1:
            yield group[0]
            continue
        first = group[0][1]
        covered = torch.zeros(first.untyped_storage().nbytes() // first.element_size(), dtype=torch.bool)
        for name, parameter in sorted(group, key=lambda item: -item[1].numel()):
            view = covered.as_strided(parameter.shape, parameter.stride(), parameter.storage_offset())
            if not bool(view.any()):
                view.fill_(True)
                yield name, parameter


def _is_bias(name: str) -> bool:
    last = name.rsplit(".", 1)[-1]
    return last in ("bias", "b") or last.startswith(("b_", "_b_"))


def _as_integers(flat: Tensor) -> np.ndarray:
    """View the numbers as integers of the same size: a permutation moves bits, whatever they mean."""
    sizes = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return flat.view(sizes[flat.element_size()]).numpy()


def _generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"shuffled_weights|{seed}|{name}".encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Hold back Ctrl-C until the block is done: half-restored weights would be silent damage."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[tuple[int, FrameType | None]] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: waiting.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if waiting and callable(previous):
            previous(*waiting[0])
