"""Small jobs that write every kind of file that the package keeps, and what each of them comes to.

A job is a function of a folder. Those of `SAVES` put a new result where an old one is; those of `RUNS` keep
their parts in a work folder, and return what they measured.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import tl_emergence as tle
from tests import toys
from tl_emergence import experiments
from tl_emergence.geometry import GeometrySettings
from tl_emergence.prompts import from_tokens

GEOMETRY = GeometrySettings(components=2)
SEEDS = {"old": 1, "new": 2}


def digest(value: Any) -> str:
    """Return a hash of every number and word of a result, NaN included."""
    return hashlib.sha256(_described(value).encode()).hexdigest()


def _described(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{list(value.shape)}{value.double().numpy().tobytes().hex()}"
    if isinstance(value, pd.DataFrame):
        return value.to_csv(index=False)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key}: {_described(part)}" for key, part in value.items())
        return f"{type(value).__name__ if is_dataclass(value) else ''}{{{inner}}}"
    if is_dataclass(value):
        return type(value).__name__ + _described({f.name: getattr(value, f.name) for f in fields(value)})
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_described, value)) + "]"
    return repr(value)


@cache
def model() -> Any:
    """Return the toy model, once for each process and for all that are forked from it."""
    return toys.make_model(toys.MODEL_KINDS[0])


@cache
def prompts() -> Any:
    return from_tokens(toys.TOKENS, labels=["first", "comma", "last"], name="toy list")


def emergence(seed: int = 0, **settings: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tle.information_emergence(model(), prompts(), space="unit", seed=seed, **settings)


@cache
def _result(seed: int) -> Any:
    return emergence(seed, controls=("shuffled_tokens",))


@cache
def _comparison(seed: int) -> Any:
    return emergence(seed, estimator=("exact", "noise"), sigma=(0.5, 1.0), geometry=GEOMETRY)


@cache
def emergence_in_two_spaces() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tle.information_emergence(model(), prompts(), space=("read", "unit"))


@cache
def _effects(seed: int) -> Any:
    return tle.ablate_heads(model(), prompts(), ["loss", "emergence"], kind="zero", seed=seed)


@cache
def _report(seed: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        effects = _effects(seed)
        return tle.correlate(
            effects.values("emergence"), effects.values("loss"),
            permutations=99, resamples=20, seed=seed,
        )  # fmt: skip


@cache
def _experiment(seed: int) -> Any:
    return experiments.training({0: model, 10: model}, **_training(seed))


def _training(seed: int) -> dict[str, Any]:
    return {"prompts": prompts(), "n": 8, "spaces": ("unit",), "seed": seed}


MADE: dict[str, Callable[[int], Any]] = {
    "result": _result,
    "comparison": _comparison,
    "effects": _effects,
    "report": _report,
    "experiment": _experiment,
}
"""What is saved, by kind, from a seed."""


def save(kind: str, which: str, folder: Path) -> None:
    """Save the old or the new result of a kind."""
    MADE[kind](SEEDS[which]).save(folder / "report.json" if kind == "report" else folder)


def load(kind: str, folder: Path) -> Any:
    """Read a result of a kind again."""
    if kind == "report":
        return tle.load_report(folder / "report.json")
    readers = {"effects": tle.load_effects, "experiment": experiments.load_experiment}
    return readers.get(kind, tle.load_result)(folder)


def _emergence_run(folder: Path) -> Any:
    # Three batches and a shuffled control: a journal of several lines, several parts.
    return emergence(workdir=folder, batch_size=4, controls=("shuffled_weights",), geometry=GEOMETRY)


def _ablation_run(folder: Path) -> Any:
    return tle.ablate_heads(model(), prompts(), ["loss", "emergence"], kind="zero", workdir=folder)


def _experiment_run(folder: Path) -> Any:
    return experiments.training({0: model, 10: model}, workdir=folder, **_training(0))


RUNS: dict[str, Callable[[Path], Any]] = {
    "emergence in a work folder": _emergence_run,
    "ablation in a work folder": _ablation_run,
    "experiment in a work folder": _experiment_run,
}
"""What is measured with its parts kept, by kind, in a folder."""


def warm() -> None:
    """Make everything once, so that a forked process only writes, and imports nothing."""
    import filelock  # noqa: F401
    import safetensors.torch  # noqa: F401

    torch.set_num_threads(1)
    np.empty(0)
    for kind in MADE:
        for seed in SEEDS.values():
            MADE[kind](seed)
    with contextlib.suppress(OSError):
        import tempfile

        for run in RUNS.values():
            with tempfile.TemporaryDirectory() as folder:
                run(Path(folder))
