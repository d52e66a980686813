"""Changes of a model that are taken back whatever happens: signals wait, and threads take turns.

Ctrl-C and other signals with a handler in Python raise in the main thread between any two instructions.
While hooks or weights are being changed or restored their handlers are therefore replaced, and what arrived
is delivered afterwards (`uninterrupted`). Between the change and its repair the caller's own handlers are in
force, so that Ctrl-C ends a long capture at once, and `during` repairs the model on the way out.
"""

from __future__ import annotations

import functools
import importlib
import signal
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from itertools import compress
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import torch

from tl_emergence.errors import HookError

Step = Callable[[], object]
"""Restores one part of a model. It does no harm where that part is as it was."""

Change = Callable[[list[Step]], object]
"""Changes a model; before each part, it adds to the list the step that restores it."""

_T = TypeVar("_T")
_Given = ParamSpec("_Given")

# What `signal` wraps. The wrappers turn handlers into members of an enumeration, which takes 30 times as long
# for the sixty signals, and there are several critical sections to a forward pass.
_signal: Any = importlib.import_module("_signal")
_SIGNALS = tuple(int(number) for number in signal.valid_signals())
_LONGEST_PAUSE = 0.02  # seconds between two looks at a model that another thread is using


def uninterrupted(action: Callable[[], _T]) -> _T:
    """Call a short action; signals that arrive meanwhile are delivered, once each, when it is done.

    `signal.pthread_sigmask` would not do: with a second thread alive, that thread takes the signal and its
    handler still runs in the main one. In other threads no handler runs, and there is nothing to hold back.
    Calls may be nested.
    """
    if threading.current_thread() is not threading.main_thread():
        return action()
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
    replaced: list[int] = []
    arrived: dict[int, FrameType | None] = {}
    try:
        try:
            for number in compress(_SIGNALS, map(callable, map(_signal.getsignal, _SIGNALS))):
                handlers[number] = _signal.getsignal(number)
                replaced.append(number)
                _signal.signal(number, arrived.setdefault)  # takes a number and a frame, as handlers do
            return action()
        finally:
            _put_back(handlers, replaced)
    finally:
        # Nothing is left to put back, unless a signal raised before its own handler was replaced.
        _put_back(handlers, replaced)
        _deliver([(handlers[number], number, frame) for number, frame in arrived.items()])


def _put_back(handlers: dict[int, Callable[[int, FrameType | None], Any]], replaced: list[int]) -> None:
    """Give every signal its own handler again; raise what a signal raised on the way when all have theirs."""
    raised: BaseException | None = None
    while replaced:
        try:
            _signal.signal(replaced[-1], handlers[replaced[-1]])
            replaced.pop()
        except (
            BaseException
        ) as error:  # of a handler that is back already: the others must follow all the same
            raised = error
    if raised is not None:
        raise raised


def _deliver(arrived: list[tuple[Callable[[int, FrameType | None], Any], int, FrameType | None]]) -> None:
    """Call the handlers of signals that were held back, all of them, also where the first ones raise."""
    if not arrived:
        return
    handler, number, frame = arrived[0]
    try:
        handler(number, frame)
    finally:
        _deliver(arrived[1:])


@dataclass(frozen=True, eq=False)
class _Ticket:
    """What an edit takes its turn with."""

    of_caller: bool


class _Turn:
    """Which thread may change a model: one at a time, for as many edits at once as it likes."""

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._owner = 0
        self._tickets: list[_Ticket] = []

    def take(self, ticket: _Ticket) -> bool:
        """Give the turn to this thread, unless another has it; return whether this thread has it.

        Raises:
            HookError: Another thread has it for a block of the caller's own.
        """
        with self._guard:
            if self._tickets and self._owner != threading.get_ident():
                if any(other.of_caller for other in self._tickets):
                    raise _changed_elsewhere()
                return False
            self._owner = threading.get_ident()
            self._tickets.append(ticket)
            return True

    def give_back(self, ticket: _Ticket) -> None:
        """End the turn of a ticket; nothing happens where it has ended."""
        with self._guard:
            self._tickets = [other for other in self._tickets if other is not ticket]


class Edit:
    """A change of a model, with the steps that take it back; a context manager.

    One thread at a time changes a model or runs it through this package; another thread waits.

    Args:
        model: The model, or None where an edit around this one has its turn.
        change: Changes it.
        verify: Called when the change was taken back; raises where the model is not what it was.
    """

    of_caller = False

    def __init__(self, model: Any, change: Change, *, verify: Step | None = None) -> None:
        self._steps: list[Step] = []
        self._turn = None if model is None else _turn_of(model)
        self._change = change
        self._verify = verify

    def __enter__(self) -> None:
        try:
            self._wait_for_turn()
            self._change(self._steps)
        except BaseException:
            self.undo()
            raise

    def __exit__(self, *error: object) -> None:
        try:
            self.undo()
        finally:
            # Nothing to undo, unless a signal raised before the handlers were replaced.
            self.undo()
            if self._verify is not None and not self._steps:
                self._verify()

    def undo(self) -> None:
        """Take the change back; nothing happens where that is done."""
        if self._steps:
            uninterrupted(self._undo)

    def _wait_for_turn(self) -> None:
        pause = 0.0005
        while self._turn is not None and not uninterrupted(self._take_turn):
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _take_turn(self) -> bool:
        assert self._turn is not None
        # The turn keeps the ticket and not the edit: an edit that nobody holds must come to its __del__.
        turn, ticket = self._turn, _Ticket(self.of_caller)
        self._steps.append(lambda: turn.give_back(ticket))
        if turn.take(ticket):
            return True
        self._steps.clear()
        return False

    def _undo(self) -> None:
        raised: BaseException | None = None
        for step in reversed(self._steps.copy()):
            try:
                step()
                self._steps.remove(step)
            except BaseException as error:  # the other parts of the model must be restored all the same
                raised = error
        if raised is not None:
            raise raised


class CallersEdit(Edit):
    """A change of a model that lasts for a `with` block of the caller's own.

    Such a block may be waiting for another thread, so that thread does not wait for the block: where it
    would have to, it gets a HookError. A change that was never taken back is so when nothing refers to it.
    """

    of_caller = True

    def __del__(self) -> None:
        # A signal can raise at the very entry of __exit__, before its first line. Then only this is left.
        if self._steps:
            self.undo()


def during(body: Callable[[], _T], *edits: Edit) -> _T:
    """Make some edits, call `body`, and take the edits back, the last one first, whatever happens."""
    if not edits:
        return body()
    try:
        with edits[0]:
            return during(body, *edits[1:])
    finally:
        # Done already, unless a signal raised between the end of the body and the first line of __exit__.
        edits[0].undo()


def no_grad(function: Callable[_Given, _T]) -> Callable[_Given, _T]:
    """Run a function as `torch.no_grad` does; the caller's mode is back also after a signal.

    The way out of `torch.no_grad` is Python code, at whose entry a signal can raise.
    """

    @functools.wraps(function)
    def without(*args: _Given.args, **kwargs: _Given.kwargs) -> _T:
        return during(lambda: function(*args, **kwargs), Edit(None, _without_gradients))

    return without


def _without_gradients(steps: list[Step]) -> None:
    before = torch.is_grad_enabled()
    steps.append(lambda: torch.set_grad_enabled(before))
    torch.set_grad_enabled(False)


def in_turn(model: Any, body: Callable[[], _T]) -> _T:
    """Call `body`, which reads a model, while no other thread changes it."""
    return during(body, Edit(model, lambda steps: None))


_turns: weakref.WeakKeyDictionary[Any, _Turn] = weakref.WeakKeyDictionary()
_turns_guard = threading.RLock()


def _turn_of(model: Any) -> _Turn:
    """Return the turn of a model; two bridges around one model share it, since they share the weights."""
    shared = getattr(model, "original_model", None)
    with _turns_guard:
        return _turns.setdefault(model if shared is None else shared, _Turn())


def _changed_elsewhere() -> HookError:
    return HookError(
        "the model is changed by another thread",
        seen="a with block of another thread that changes this model (shuffled_weights, emergence_metric)",
        expected="a model that one thread at a time changes",
        fix="Leave that block first, or give each thread a model of its own.",
    )
