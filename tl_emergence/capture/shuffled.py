"""The weight-shuffled control: every weight matrix's entries permuted, norms and biases kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tl_emergence.capture.protected import CallersEdit, Edit, Step, during
from tl_emergence.checks import instance
from tl_emergence.errors import HookError

_T = TypeVar("_T")
_Kind = TypeVar("_Kind", bound=Edit)


def shuffled_weights(model: Any, *, seed: int = 0) -> CallersEdit:
    """Permute the entries of every weight of two or more dimensions while the context lasts.

    Marginal distributions of the weights stay, structure goes. Norms and biases stay as they are; tied
    weights are permuted once. On the way out, also after an exception or an interrupt, every weight is
    restored bit for bit, and its checksum is compared. This is a weight-shuffled model, not an untrained one.

    While the context lasts, calls of this package on the same model in another thread raise HookError.

    Args:
        model: A TransformerLens model; its parameters are changed in place and changed back.
        seed: Seed of the permutations; each weight has a generator of its own, named after it.

    Raises:
        HookError: On the way out, where a weight is not what it was: it was changed while the context lasted
            (dtype, shape, or by another thread).

    Cost: a copy of the weights in memory, and about 60 nanoseconds a weight on one core.

    Example:
        >>> before = model(tokens)
        >>> with shuffled_weights(model, seed=0):
        ...     changed = model(tokens)
        >>> bool((model(tokens) == before).all()), bool((changed == before).all())
        (True, False)
    """
    return _shuffling(CallersEdit, model, seed)


def with_shuffled_weights(model: Any, seed: int, body: Callable[[], _T]) -> _T:
    """Call `body` while the weights of a model are permuted; calls in other threads wait for it."""
    return during(body, _shuffling(Edit, model, seed))


def _shuffling(kind: type[_Kind], model: Any, seed: int) -> _Kind:
    instance("a model", model, nn.Module, "Load it first: tl_emergence.models.load(name).")
    saved: list[tuple[str, Tensor, Tensor, bytes]] = []

    def change(steps: list[Step]) -> None:
        if saved:
            raise HookError(
                "weights are shuffled already",
                seen="one object of shuffled_weights in a with block inside its own",
                expected="one with block at a time",
                fix="Call shuffled_weights(model, seed) again for another block.",
            )
        for name, weight in _distinct_weights(model):
            saved.append((name, weight, weight.detach().clone(), _checksum(weight)))
        steps.append(restore)
        for name, weight, _, _ in saved:
            flat = weight.detach().reshape(-1).cpu().contiguous()
            _generator(seed, name).shuffle(_as_integers(flat))
            weight.detach().copy_(flat.view(weight.shape))

    def restore() -> None:
        for _, weight, original, _ in saved:
            weight.detach().copy_(original)

    def verify() -> None:
        changed = [name for name, weight, _, checksum in saved if _checksum(weight) != checksum]
        if changed:
            raise HookError(
                "weights are not what they were before they were shuffled",
                seen=f"another checksum of {', '.join(changed[:4])}",
                expected="the same bits",
                fix="Load the model again, and do not convert or train it while its weights are shuffled.",
            )
        saved.clear()  # the copy of the weights need not outlive the block

    return kind(model, change, verify=verify)


def _checksum(weight: Tensor) -> bytes:
    flat = weight.detach().reshape(-1).cpu().contiguous()
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).digest()


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
        covered = torch.zeros(
            first.untyped_storage().nbytes() // first.element_size(), dtype=torch.bool, device="cpu"
        )
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
