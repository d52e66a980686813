"""The same seed gives the same number, whatever defaults of PyTorch are set, and they stay as they were."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

import tl_emergence as tle
from tl_emergence import circuits, geometry, prompts
from tl_emergence.torch_state import torch_defaults, with_torch_defaults

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(40, 2, generator=GENERATOR)
Y = X + 0.5 * torch.randn(40, 2, generator=GENERATOR)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


class CudaByDefault(TorchFunctionMode):
    """PyTorch with a default device that is not the CPU refuses a generator of the CPU (its issue 44714)."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        is_random = function in (torch.randn, torch.rand, torch.randperm, torch.randint)
        if is_random and given.get("device") is None and given.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        return function(*args, **given)


@contextmanager
def everything_at_once() -> Iterator[None]:
    with (
        default_device("meta"),
        default_dtype(torch.bfloat16),
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.inference_mode(),
    ):
        yield


AMBIENT: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "default device not the CPU": CudaByDefault,
    "default dtype float64": lambda: default_dtype(torch.float64),
    "everything at once": everything_at_once,
}
SLOW = ("information_emergence", "half_block_emergence", "ablate_heads", "geometry")
"""Calls that run a model often: they are tried with everything set at once, and no more."""


def state() -> tuple[Any, ...]:
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_autocast_enabled("cpu"),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
    )


def information(estimator: str, **options: Any) -> Callable[[Any, Any], torch.Tensor]:
    def call(toy: Any, tokens: Any) -> torch.Tensor:
        estimate = tle.mutual_information(X, Y, estimator=estimator, seed=1, **options)
        return torch.tensor([estimate.bits, estimate.stderr], **EXACT)

    return call


def patched(toy: Any, tokens: Any) -> torch.Tensor:
    with tle.emergence_metric(toy, tokens, layer=0, space="unit", prepend_bos=False) as metric:
        with torch_defaults():  # the pass is the caller's own: in another precision it has another value
            toy(tokens)
        return metric()


EXACT: Any = {"dtype": torch.float64, "device": "cpu"}
OPTIONS: Any = {"prepend_bos": False, "space": "unit"}
CALLS: dict[str, Callable[[Any, Any], torch.Tensor]] = {
    **{name: information(name) for name in ("noise", "gaussian", "vinfo", "nce")},
    "mine_paper": information("mine_paper", steps=20, segment=2),
    "usable_information": lambda toy, tokens: torch.tensor(
        tle.estimators.usable_information(X, (X[:, 0] > 0).long(), sigma=0.5).bits, **EXACT
    ),
    "information_emergence": lambda toy, tokens: (
        tle.information_emergence(toy, tokens, **OPTIONS, controls=("shuffled_weights",), positions=[2])
        .controls["shuffled_weights"]
        .emergence
    ),
    "half_block_emergence": lambda toy, tokens: (
        tle.half_block_emergence(toy, tokens, **OPTIONS).attention.emergence
    ),
    "ablate_heads": lambda toy, tokens: tle.ablate_heads(
        toy, tokens, ["loss", "information"], kind="resample", reference=tokens + 20, prepend_bos=False
    ).mean("information"),
    "emergence_metric": patched,
    "head_norms": lambda toy, tokens: circuits.head_norms(toy, tokens, prepend_bos=False),
    "gaussian_criteria": lambda toy, tokens: torch.tensor(
        geometry.gaussian_criteria(X.view(2, 20, 2), Y.view(2, 20, 2)).psi, **EXACT
    ),
    "demonstrations": lambda toy, tokens: prompts.demonstrations("color", toy.tokenizer, shots=2, n=9).tokens,
    "geometry": lambda toy, tokens: (
        tle.information_emergence(
            toy, tokens, **OPTIONS, geometry=geometry.GeometrySettings(components=1)
        ).geometry.norm  # type: ignore[union-attr]
    ),
}


PLAIN: dict[str, torch.Tensor] = {}
"""The values without anything set, each computed once."""


@pytest.mark.parametrize(
    ("name", "ambient"),
    [(name, way) for name in CALLS for way in AMBIENT if name not in SLOW or way == "everything at once"],
)
def test_the_value_does_not_depend_on_what_the_caller_has_set(
    name: str, ambient: str, toy: Any, tokenizer: Any, tokens: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy, "tokenizer", tokenizer, raising=False)
    plain = PLAIN[name] if name in PLAIN else PLAIN.setdefault(name, CALLS[name](toy, tokens))
    with AMBIENT[ambient]():
        before = state()
        given = CALLS[name](toy, tokens)
        assert state() == before
    assert torch.equal(given, plain) and given.dtype == plain.dtype


def test_a_default_of_the_caller_comes_back_when_a_call_fails() -> None:
    with default_dtype(torch.float64):
        with pytest.raises(tle.errors.SettingError):
            tle.mutual_information(X, Y, estimator="noise", sigma=-1)
        assert torch.get_default_dtype() == torch.float64


def test_calls_in_several_threads_do_not_take_each_others_dtype_for_the_callers() -> None:
    entered, leave = threading.Event(), threading.Event()
    seen: list[torch.dtype] = []

    @with_torch_defaults
    def slow() -> None:
        entered.set()
        leave.wait(10)
        seen.append(torch.get_default_dtype())

    with default_dtype(torch.float64):
        thread = threading.Thread(target=slow)
        thread.start()
        entered.wait(10)
        with torch_defaults():
            leave.set()
            thread.join()
        assert seen == [torch.float32]
        assert torch.get_default_dtype() == torch.float64
