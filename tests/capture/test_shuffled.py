"""The weight-shuffled control changes the weights, and nothing else, and only while it lasts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import toys
from tl_emergence.capture import shuffled_weights
from tl_emergence.errors import HookError

pytestmark = pytest.mark.matrix


def parameters(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_weights_are_permuted_norms_and_biases_stay_and_all_is_restored(model: Any) -> None:
    before = parameters(model)
    logits = model(toys.TOKENS)
    with shuffled_weights(model, seed=1):
        inside = parameters(model)
        assert not torch.allclose(model(toys.TOKENS), logits)
    for name, old in before.items():
        bias = name.rsplit(".", 1)[-1] in ("bias", "b") or ".b_" in name or "._b_" in name
        if old.ndim >= 2 and not bias:
            assert not torch.equal(inside[name], old), name
            assert torch.equal(inside[name].flatten().sort().values, old.flatten().sort().values), name
        else:
            assert torch.equal(inside[name], old), name
    after = parameters(model)
    assert all(torch.equal(after[name], old) for name, old in before.items())
    assert torch.equal(model(toys.TOKENS), logits)


def test_the_permutation_is_seeded(model: Any) -> None:
    def inside(seed: int) -> dict[str, torch.Tensor]:
        with shuffled_weights(model, seed=seed):
            return parameters(model)

    first, again, other = inside(1), inside(1), inside(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_weights_are_restored_after_an_exception(model: Any, error: type[BaseException]) -> None:
    before = parameters(model)
    with pytest.raises(error), shuffled_weights(model):
        raise error
    after = parameters(model)
    assert all(torch.equal(after[name], old) for name, old in before.items())


def test_tied_and_overlapping_weights_are_permuted_once() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.arange(24.0).view(4, 6)
            self.whole = torch.nn.Parameter(whole)
            self.left = torch.nn.Parameter(whole[:, :3])
            self.right = torch.nn.Parameter(whole[:, 3:])
            self.tied = self.whole

    model = Tied()
    assert model.left.data_ptr() == model.whole.data_ptr()
    with shuffled_weights(model, seed=0):
        assert sorted(model.whole.detach().flatten().tolist()) == [float(i) for i in range(24)]
        assert model.whole[0].tolist() != [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert torch.equal(model.whole, torch.arange(24.0).view(4, 6))


def test_half_precision_weights_come_back_bit_for_bit() -> None:
    model = toys.make_model(toys.MODEL_KINDS[0], dtype=torch.bfloat16)
    before = parameters(model)
    with shuffled_weights(model):
        pass
    after = parameters(model)
    assert all(torch.equal(after[name], old) for name, old in before.items())


def test_an_interrupt_while_restoring_waits(monkeypatch: pytest.MonkeyPatch, toy: Any) -> None:
    import os
    import signal

    before = parameters(toy)
    original, fired = torch.Tensor.copy_, []

    def copy_and_interrupt(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        out = original(self, *args, **kwargs)
        if leaving and not fired:
            fired.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        return out

    leaving: list[bool] = []
    monkeypatch.setattr(torch.Tensor, "copy_", copy_and_interrupt)
    # What a terminal gives; a process started in the background ignores Ctrl-C.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), shuffled_weights(toy):
            leaving.append(True)
    finally:
        signal.signal(signal.SIGINT, handler)
    monkeypatch.undo()
    assert fired
    after = parameters(toy)
    assert all(torch.equal(after[name], old) for name, old in before.items())


def test_an_object_of_shuffled_weights_serves_one_block_at_a_time(toy: Any) -> None:
    before = {name: weight.clone() for name, weight in toy.named_parameters()}
    shuffled = shuffled_weights(toy, seed=0)
    with pytest.raises(HookError, match="shuffled already"), shuffled, shuffled:
        pass
    assert all(torch.equal(weight, before[name]) for name, weight in toy.named_parameters())
    with shuffled:  # and for the next one afterwards
        assert not all(torch.equal(weight, before[name]) for name, weight in toy.named_parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in toy.named_parameters())


def test_tied_weights_are_shuffled_under_another_default_device() -> None:
    plain, other = (_tied() for _ in range(2))
    with shuffled_weights(plain, seed=0):
        wanted = [weight.clone() for weight in plain.parameters()]
    with torch.device("meta"), shuffled_weights(other, seed=0):
        assert all(torch.equal(a, b) for a, b in zip(other.parameters(), wanted, strict=True))


def _tied() -> torch.nn.Module:
    first, second = torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False)
    first.weight = torch.nn.Parameter(torch.arange(16.0).view(4, 4))
    second.weight = torch.nn.Parameter(first.weight.detach()[:2])
    return torch.nn.Sequential(first, second)
