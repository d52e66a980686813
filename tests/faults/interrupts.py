"""Interrupts the package at many moments and prints what came of it; `test_interrupts` runs it.

It has a process of its own: the shape checks of the test suite compile code whenever the package defines a
function, and a signal that comes then is lost in the compiler's own error.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

import tl_emergence as tle
from tests import toys
from tests.faults.counts import count, report
from tl_emergence.prompts import from_tokens

PACKAGE = str(Path(tle.__file__).parent)
CHANGES_MODELS = ("capture/", "controls.py", "circuits/patching.py")
PROMPTS = from_tokens(toys.TOKENS)
HELD_OUT = from_tokens(toys.TOKENS + 20)
SIGNALS = (signal.SIGINT, signal.SIGALRM)


class Alarm(Exception):
    """What the handler of an alarm raises, as those of time limits do."""


def ring(number: int, frame: FrameType | None) -> None:
    raise Alarm


def emergence(model: Any) -> torch.Tensor:
    found = tle.information_emergence(
        model, PROMPTS, layers=[1], positions=[2], controls=("shuffled_weights",), sigma=0.5, space="unit"
    )
    return torch.cat([found.macro.flatten(), found.controls["shuffled_weights"].macro.flatten()])


def half_blocks(model: Any) -> torch.Tensor:
    found = tle.half_block_emergence(model, PROMPTS, layers=[1], positions=[2], space="unit")
    return found.mlp.macro.flatten()


def ablation(model: Any) -> torch.Tensor:
    found = tle.ablate_heads(model, PROMPTS, "loss", kind="mean", reference=HELD_OUT, heads=["L1H0", "L1H1"])
    return found.effects["loss"].flatten()


def patching(model: Any) -> torch.Tensor:
    with tle.emergence_metric(model, PROMPTS, layer=1, pos=2, space="unit", prepend_bos=False) as metric:
        with torch.no_grad():
            model(PROMPTS.tokens)
        return metric().flatten()


def shuffled(model: Any) -> torch.Tensor:
    with tle.shuffled_weights(model), torch.no_grad():
        return model(PROMPTS.tokens).flatten()


PARTS = ("weights", "hooks", "process")
CALLS = (emergence, half_blocks, ablation, patching, shuffled)


def condition(model: Any) -> tuple[Any, ...]:
    """Return all that a call must leave alone: bits, hooks, flags, and the state of the process."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    weights = tuple(
        (
            name,
            t.dtype,
            t.data_ptr(),
            t.requires_grad,
            t.grad is None,
            t.detach().contiguous().numpy().tobytes(),
        )
        for name, t in tensors
    )
    modules = tuple(
        (
            name,
            module.training,
            tuple(module.__dict__),
            *(
                tuple(map(id, getattr(module, hooks).values()))
                for hooks in (
                    "_forward_hooks",
                    "_forward_pre_hooks",
                    "_backward_hooks",
                    "_backward_pre_hooks",
                )
            ),
            *(tuple(map(id, getattr(module, hooks, ()))) for hooks in ("fwd_hooks", "bwd_hooks")),
            id(module.__dict__.get("forward")),
            getattr(module, "context_level", 0),
        )
        for name, module in model.named_modules()
    )
    process = tuple(map(signal.getsignal, SIGNALS)), torch.is_grad_enabled(), torch.get_default_dtype()
    return weights, modules, process


def traced(call: Callable[[], Any], on_line: Callable[[FrameType], None]) -> Any:
    """Call something, and `on_line(frame)` before every line of the package that it passes."""
    inside: dict[CodeType, bool] = {}

    def at_line(frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            on_line(frame)
        return at_line

    def at_call(frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if code not in inside:
            # What a finalizer raises goes nowhere.
            inside[code] = code.co_filename.startswith(PACKAGE) and code.co_name != "__del__"
        return at_line if inside[code] else None

    before = sys.gettrace()
    sys.settrace(at_call)
    try:
        return call()
    finally:
        sys.settrace(before)


@functools.cache
def lines_of(call: Callable[[Any], Any], model: Any) -> tuple[tuple[str, int], ...]:
    """Return every line of the package that a call passes, in order."""
    call(model)  # what is made once is made
    passed: list[tuple[str, int]] = []

    def note(frame: FrameType) -> None:
        passed.append((frame.f_code.co_filename[len(PACKAGE) + 1 :], frame.f_lineno))

    traced(lambda: call(model), note)
    return tuple(passed)


def moments(passed: tuple[tuple[str, int], ...], wanted: int) -> list[int]:
    """Return when to interrupt: at each line where models are changed, then at others, first passes first."""
    order: dict[tuple[bool, int, int], int] = {}
    times: Counter[tuple[str, int]] = Counter()
    for moment, line in enumerate(passed):
        order[(times[line] > 1 or not line[0].startswith(CHANGES_MODELS), times[line], moment)] = moment
        times[line] += 1
    # Of places that are alike as many as are asked for, spread evenly.
    chosen = [order[key] for key in sorted(order)]
    sure = [m for key, m in sorted(order.items()) if not key[0]]
    if len(sure) >= wanted:
        return [sure[i * len(sure) // wanted] for i in range(wanted)]
    rest = chosen[len(sure) :]
    more = min(wanted - len(sure), len(rest))
    return sure + [rest[i * len(rest) // more] for i in range(more)]


def interrupted(model: Any, call: Callable[[Any], Any], moment: int, fault: Callable[[], None]) -> str:
    """Let a fault happen at the moment-th line of a call; return what came of it."""
    left = moment

    def on_line(frame: FrameType) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            fault()

    try:
        traced(lambda: call(model), on_line)
    except (KeyboardInterrupt, Alarm):
        return "raised"
    return "passed" if left < 0 else "never reached"


def raise_interrupt() -> None:
    raise KeyboardInterrupt


def at_lines(model: Any, call: Callable[[Any], Any], kind: str) -> None:
    """Signals go by way of their handlers; an exception comes out of the line itself, also of a repair."""
    passed = lines_of(call, model)
    value, before = call(model), condition(model)
    outcomes: Counter[str] = Counter()
    for i, moment in enumerate(moments(passed, count(10, 400))):
        number = SIGNALS[i % 2]
        fault = functools.partial(signal.raise_signal, number) if kind == "signals" else raise_interrupt
        outcomes[interrupted(model, call, moment, fault)] += 1
        after = condition(model)
        if after != before:
            file, line = passed[moment]
            parts = [name for name, a, b in zip(PARTS, before, after, strict=True) if a != b]
            raise SystemExit(f"{parts} changed by {kind} at line {line} of {file} (moment {moment})")
    assert torch.equal(call(model), value)
    report(f"interrupts by {kind} during {call.__name__}, {len(passed):,} lines", outcomes)


def at_random_moments(model: Any) -> None:
    """True signals, between any two instructions; a second thread is alive, and takes most of them."""
    stop = threading.Event()
    second = threading.Thread(target=stop.wait)
    second.start()
    outcomes: Counter[str] = Counter()
    draw = random.Random(0)
    try:
        for call in (emergence, ablation):
            call(model)
            start = time.perf_counter()
            value, before = call(model), condition(model)
            seconds = time.perf_counter() - start
            for _ in range(count(25, 500)):
                try:
                    signal.setitimer(signal.ITIMER_REAL, max(draw.uniform(0, seconds), 1e-6))
                    call(model)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    outcomes["came too late"] += 1
                except Alarm:
                    outcomes["raised"] += 1
                assert condition(model) == before
            assert torch.equal(call(model), value)
    finally:
        stop.set()
        second.join()
    report("alarms at random moments", outcomes)


def ten_in_a_row(model: Any) -> None:
    """After ten interrupts, one upon the other, Ctrl-C is alive."""
    emergence(model)
    before = condition(model)
    inside = emergence.__code__
    outcomes: Counter[str] = Counter()

    def often(number: int, frame: FrameType | None) -> None:
        outcomes["arrived"] += 1
        if outcomes["arrived"] % 10 == 0:
            signal.setitimer(signal.ITIMER_REAL, 0)
        while frame is not None:
            if frame.f_code is inside:
                raise KeyboardInterrupt
            frame = frame.f_back

    signal.signal(signal.SIGALRM, often)
    try:
        handlers = tuple(map(signal.getsignal, SIGNALS))
        for i in range(count(10, 100)):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.005 + 0.001 * (i % 40), 0.0001)
                emergence(model)
            except KeyboardInterrupt:
                outcomes["raised"] += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert condition(model)[:2] == before[:2]
            assert tuple(map(signal.getsignal, SIGNALS)) == handlers
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            outcomes["Ctrl-C alive afterwards"] += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert outcomes["Ctrl-C alive afterwards"] == 1
    report("alarms ten in a row", outcomes)


def in_a_long_capture() -> None:
    """Ctrl-C ends a capture of shuffled weights that would take minutes, within a second."""
    model = toys.make_model(toys.MODEL_KINDS[0], n_layers=4, d_model=64)
    rows = torch.randint(1, toys.VOCABULARY, (20000, 12), generator=torch.Generator().manual_seed(0))
    tle.capture_states(model, PROMPTS)  # what is made once is made
    before, sent = condition(model), []

    def send() -> None:
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Timer(1, send).start()
    try:
        with tle.shuffled_weights(model):
            for _ in range(1000):
                tle.capture_states(model, from_tokens(rows), batch_size=256)
    except KeyboardInterrupt:
        waited = time.perf_counter() - sent[0]
    else:
        raise SystemExit("the capture ended by itself")
    assert condition(model) == before
    print(f"Ctrl-C in a long capture: answered after {waited:.2f} seconds")
    assert waited < 1


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
    signal.signal(signal.SIGALRM, ring)
    # Of models with folded gains.
    warnings.filterwarnings("ignore", "space='unit' was chosen")
    torch.set_num_threads(1)
    model = toys.make_model(toys.MODEL_KINDS[0])
    for kind in ("signals", "exceptions"):
        for call in CALLS:
            at_lines(model, call, kind)
    at_random_moments(model)
    ten_in_a_row(model)
    in_a_long_capture()


if __name__ == "__main__":
    main()
