"""Every public function with arguments of every kind: a value or a typed error, and nothing else changes."""

from __future__ import annotations

import random
import re
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from tests.faults import jobs
from tests.faults.calls import Call, anything, right_calls
from tests.faults.counts import count, report
from tl_emergence.errors import EmergenceError

N_CALLS = count(500, 10_000)
SECONDS = 20
# These take seconds, and all but the first two a model with a tokenizer: they are called rarely, and wrongly.
COSTLY = {"models.load", "training", "model_size", "natural_text", "shots", "text_sources", "variance"}
# Python's own answer to a call with a missing, unknown or doubled argument.
WRONG_CALL = re.compile(r"(missing \d+ required|unexpected keyword|positional argument|multiple values)")


class TooSlowError(BaseException):
    """A call that took longer than any of these should."""


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return right_calls(tmp_path_factory.mktemp("calls"))


@contextmanager
def limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def made(call: Call, arguments: dict[str, Any]) -> Any:
    with warnings.catch_warnings(), limited():
        warnings.simplefilter("ignore")
        found = call.function(**arguments)
        if isinstance(found, AbstractContextManager):
            with found as inner:
                return inner
        return found


def surroundings() -> dict[str, Any]:
    """Return what no call may change: the model, and the state of the process."""
    model = jobs.model()
    return {
        "weights": jobs.digest({name: p.detach() for name, p in model.named_parameters()}),
        "buffers": jobs.digest(dict(model.named_buffers())),
        "hooks": [name for name, point in model.hook_dict.items() if point.fwd_hooks or point.bwd_hooks],
        "module hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()),
        "prompts": jobs.prompts().content_hash,
        "torch": (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()),
        "generators": jobs.digest([torch.get_rng_state()])
        + repr(random.getstate())[:200]
        + repr(np.random.get_state())[:200],  # noqa: NPY002
        "matplotlib": {key: mpl.rcParams[key] for key in ("figure.dpi", "font.size", "axes.grid")},
        "signals": signal.getsignal(signal.SIGINT),
    }


def is_wrong_call(error: TypeError) -> bool:
    return bool(WRONG_CALL.search(str(error)))


@pytest.mark.usefixtures("as_shipped")
def test_every_public_function_is_called_and_right_calls_succeed(calls: list[Call]) -> None:
    assert len(calls) > 60
    failed = {}
    for call in calls:
        if call.name in COSTLY:
            continue
        try:
            made(call, call.arguments)
        except Exception as error:
            failed[call.name] = repr(error)
        plt.close("all")
    assert not failed, "\n".join(f"{name}: {error}" for name, error in failed.items())


@pytest.mark.usefixtures("as_shipped")
def test_any_arguments_give_a_value_or_a_typed_error(
    calls: list[Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # some arguments are names of folders
    generator = random.Random(0)
    cheap = [call for call in calls if call.name not in COSTLY]
    compared = [call for call in cheap if call.name in ("information_emergence", "ablate_heads", "correlate")]
    before = {call.name: jobs.digest(made(call, call.arguments)) for call in compared}
    around = surroundings()
    outcomes: Counter[str] = Counter()
    bare: Counter[str] = Counter()
    for k in range(N_CALLS):
        call = generator.choice(calls if generator.random() < 0.05 else cheap)
        arguments = dict(call.arguments)
        options = [name for name in call.options() if name not in ("settings", "options")]
        changed = generator.sample(options, min(len(options), generator.choice([1, 1, 1, 2, 3])))
        for name in changed:
            arguments[name] = anything(generator, call.arguments.get(name))
        if generator.random() < 0.02:
            arguments["no_such_option"] = 1
        try:
            made(call, arguments)
        except EmergenceError:
            outcomes["typed errors"] += 1
        except TypeError as error:
            if is_wrong_call(error):
                outcomes["calls that Python refused"] += 1
            else:
                bare[_fault(call, changed, arguments, error)] += 1
        except (Exception, TooSlowError) as error:
            bare[_fault(call, changed, arguments, error)] += 1
        else:
            outcomes["values"] += 1
        plt.close("all")
        now = surroundings()
        assert now == around, f"call {k}, {call.name}({changed}): {[n for n in now if now[n] != around[n]]}"
    outcomes["bare errors"] += sum(bare.values())
    report("calls", outcomes)
    print("\n".join(f"{number} x {fault}" for fault, number in bare.most_common()))
    assert not bare
    assert {call.name: jobs.digest(made(call, call.arguments)) for call in compared} == before


def _fault(call: Call, changed: list[str], arguments: dict[str, Any], error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in last if "tl_emergence" in Path(frame.filename).parts] or list(last)
    where = f"{'/'.join(Path(own[-1].filename).parts[-2:])}:{own[-1].lineno}"
    given = ", ".join(f"{name}={arguments[name]!r:.60}" for name in changed)
    return f"{call.name}: {type(error).__name__}: {error!s:.90} at {where} [{given}]".replace("\n", " ")
