"""Changes of a model are taken back; signals wait for that, and threads for one another."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest
import torch

import tl_emergence as tle
from tests import toys
from tl_emergence.capture.protected import Edit, Step, during, uninterrupted
from tl_emergence.errors import HookError
from tl_emergence.prompts import from_tokens

PROMPTS = from_tokens(toys.TOKENS)


class First(Exception):
    pass


class Second(Exception):
    pass


@pytest.fixture
def handlers() -> Iterator[tuple[Callable[..., None], Callable[..., None]]]:
    """Install two handlers that raise, and put back what was there."""

    def first(number: int, frame: FrameType | None) -> None:
        raise First

    def second(number: int, frame: FrameType | None) -> None:
        raise Second

    before = signal.signal(signal.SIGUSR1, first), signal.signal(signal.SIGUSR2, second)
    yield first, second
    signal.signal(signal.SIGUSR1, before[0])
    signal.signal(signal.SIGUSR2, before[1])


def weights(model: Any) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(model: Any, before: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))


def test_a_signal_waits_for_the_end_of_an_uninterrupted_action(handlers: Any) -> None:
    steps: list[int] = []

    def action() -> None:
        steps.append(1)
        signal.raise_signal(signal.SIGUSR1)
        steps.append(2)

    with pytest.raises(First):
        uninterrupted(action)
    assert steps == [1, 2]
    assert signal.getsignal(signal.SIGUSR1) is handlers[0]


def test_every_signal_that_arrived_is_delivered(handlers: Any) -> None:
    def action() -> None:
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
            signal.raise_signal(number)

    with pytest.raises(Second) as raised:
        uninterrupted(action)
    assert isinstance(raised.value.__context__, First)
    assert (signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGUSR2)) == handlers


def test_nested_actions_deliver_at_the_end_of_the_outer_one(handlers: Any) -> None:
    steps: list[str] = []

    def outer() -> None:
        uninterrupted(lambda: signal.raise_signal(signal.SIGUSR1))
        steps.append("after the inner one")

    with pytest.raises(First):
        uninterrupted(outer)
    assert steps == ["after the inner one"]
    assert signal.getsignal(signal.SIGUSR1) is handlers[0]


def test_an_action_returns_its_value_and_its_exceptions(handlers: Any) -> None:
    assert uninterrupted(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        uninterrupted(lambda: 1 / 0)
    assert signal.getsignal(signal.SIGUSR1) is handlers[0]


def test_handlers_are_those_of_the_caller_between_change_and_repair(handlers: Any) -> None:
    edit = Edit(None, lambda steps: None)
    assert during(lambda: signal.getsignal(signal.SIGUSR1), edit) is handlers[0]


def test_every_part_is_restored_also_where_restoring_another_fails() -> None:
    restored: list[str] = []

    def change(steps: list[Step]) -> None:
        steps += [lambda: restored.append("first"), lambda: 1 / 0, lambda: restored.append("last")]

    with pytest.raises(ZeroDivisionError):
        during(lambda: None, Edit(None, change))
    assert restored == ["last", "first"]


def test_a_change_that_fails_half_way_is_taken_back() -> None:
    restored: list[str] = []

    def change(steps: list[Step]) -> None:
        steps.append(lambda: restored.append("first"))
        raise First

    with pytest.raises(First):
        during(lambda: None, Edit(None, change))
    assert restored == ["first"]


def test_a_context_that_was_never_left_is_taken_back_when_it_is_dropped(toy: Any) -> None:
    before = weights(toy)
    context = tle.shuffled_weights(toy)
    context.__enter__()
    assert not same(toy, before)
    del context
    gc.collect()
    assert same(toy, before)


def test_weights_that_were_changed_meanwhile_are_an_error() -> None:
    model = toys.make_model(toys.MODEL_KINDS[0])
    with pytest.raises(HookError, match="weights are not what they were"), tle.shuffled_weights(model):
        model.to(torch.bfloat16)


def test_threads_that_share_a_model_get_the_numbers_of_one_thread() -> None:
    """One shuffles its weights, one ablates its heads, one captures: each as if it were alone."""
    model = toys.make_model(toys.MODEL_KINDS[0])

    def emergence() -> torch.Tensor:
        found = tle.information_emergence(model, PROMPTS, controls=("shuffled_weights",), space="unit")
        return torch.stack([found.macro, found.controls["shuffled_weights"].macro])

    def ablation() -> torch.Tensor:
        return tle.ablate_heads(model, PROMPTS, "loss", kind="zero").effects["loss"]

    def states() -> torch.Tensor:
        return torch.stack([x.sum() for x in tle.capture_states(model, PROMPTS).macro])

    calls = [emergence, ablation, states]
    alone, before = [call() for call in calls], weights(model)
    hooks = [len(module._forward_hooks) for module in model.modules()]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda call: call(), calls * 6))
    for i, value in enumerate(together):
        assert torch.equal(value, alone[i % 3]), calls[i % 3].__name__
    assert same(model, before)
    assert [len(module._forward_hooks) for module in model.modules()] == hooks


def test_a_block_of_the_caller_is_an_error_in_another_thread_and_no_deadlock(toy: Any) -> None:
    def other() -> None:
        tle.capture_states(toy, PROMPTS)

    with ThreadPoolExecutor(1) as pool, tle.shuffled_weights(toy):
        tle.capture_states(toy, PROMPTS)  # in the same thread it is what the block is for
        with pytest.raises(HookError, match="by another thread"):
            pool.submit(other).result(timeout=60)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(other).result(timeout=60)


def test_another_thread_is_never_in_the_way_of_a_model_of_its_own(toy: Any) -> None:
    mine = toys.make_model(toys.MODEL_KINDS[0])
    with ThreadPoolExecutor(1) as pool, tle.shuffled_weights(toy):
        pool.submit(tle.capture_states, mine, PROMPTS).result(timeout=60)
