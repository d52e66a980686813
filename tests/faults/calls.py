"""Every public function, a right call of each, and arguments that may be wrong in every way."""

from __future__ import annotations

import importlib
import inspect
import random
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import tl_emergence as tle
from tests import toys
from tests.faults import jobs
from tl_emergence import circuits, prompts
from tl_emergence.geometry import GeometrySettings

PACKAGES = (
    "",
    ".capture",
    ".circuits",
    ".estimators",
    ".experiments",
    ".geometry",
    ".models",
    ".plots",
    ".prompts",
)
CONSTRUCTORS = ("PromptSet", "UnitValues", "GeometrySettings")
"""Classes that check what they are given; the others hold what functions return."""
LEFT_OUT = {
    "published_seconds": "measures the time of ten seconds of work",
    "packaged_checkpoint": "takes a packaged model, which is not the caller's to make",
    "preflight": "takes inputs that have been checked",
    "in_space": "takes states that have been checked",
}


@dataclass(frozen=True)
class Call:
    """A public function with arguments that are right."""

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]

    def options(self) -> list[str]:
        """Return the names of all arguments that the function takes."""
        return list(dict.fromkeys([*inspect.signature(self.function).parameters, *self.arguments]))


def public() -> dict[str, Any]:
    """Return every function and checked constructor in the `__all__` of the package and its subpackages."""
    found = {}
    for package in PACKAGES:
        module = importlib.import_module(f"tl_emergence{package}")
        for name in getattr(module, "__all__", ("load",)):
            value = getattr(module, name)
            if (inspect.isfunction(value) or name in CONSTRUCTORS) and name not in LEFT_OUT:
                found[name if package != ".models" else f"models.{name}"] = value
    return found


def right_calls(folder: Path) -> list[Call]:
    """Return a call with right arguments of every public function, and of the methods of what they return."""
    model, generator = jobs.model(), torch.Generator().manual_seed(0)
    x, y = (torch.randn(24, 5, generator=generator) for _ in range(2))
    labels = torch.arange(24) % 2
    tokens = jobs.prompts()
    tokenizer = toys.save_tokenizer(folder / "tokenizer")
    drawn = prompts.demonstrations("country", tokenizer, shots=2, n=8)
    checkpoint = str(toys.save_checkpoint(folder / "checkpoint"))
    for kind in jobs.MADE:
        (folder / kind).mkdir(exist_ok=True)
        jobs.save(kind, "new", folder / kind)
    result, comparison, effects, report, experiment = (made(2) for made in jobs.MADE.values())
    sweep = jobs.emergence(sigma=(0.5, 1.0))
    halves = tle.half_block_emergence(model, tokens, space="unit")
    with torch.no_grad():
        caches = [model.run_with_cache(t)[1] for t in (toys.TOKENS, torch.arange(5, 10)[:, None])]
    shape = {"model": model, "prompts": tokens}
    ablation = {
        **shape,
        "metrics": ["loss"],
        "kind": "zero",
        "reference": None,
        "draws": 1,
        "batch_size": 4,
        "positions": [1, 2],
        "seed": 0,
        "workdir": None,
        "progress": False,
        "prepend_bos": None,
        "bos_token_id": None,
    }
    scored = {**shape, "prepend_bos": None, "bos_token_id": None, "batch_size": 4}
    words = ["alpha", "beta", "gamma"]
    text = [". ".join("France and Spain and Italy" for _ in range(6)) + "." for _ in range(12)]
    column = torch.rand(2, 3, generator=generator)
    given: dict[str, dict[str, Any]] = {
        "information_emergence": {
            **scored,
            "space": "unit",
            "sigma": 0.5,
            "estimator": "noise",
            "seed": 0,
            "controls": ("shuffled_weights",),
            "layers": [0, 1],
            "positions": [0, 2],
            "draws": 2,
            "micro": "alone",
            "geometry": False,
            "workdir": None,
        },
        "information_emergence_from_cache": {
            "cache": caches[0],
            "micro_cache": caches[1],
            "tokens": tokens,
            "micro_tokens": torch.arange(5, 10),
            "n_prefix": 0,
            "space": "unit",
        },
        "half_block_emergence": {**scored, "space": "unit", "sigma": 0.5, "controls": (), "layers": [0]},
        "ablate_heads": {**ablation, "heads": ["L1H0"]},
        "ablate_mlps": {**ablation, "layers": [1]},
        "ablate_blocks": {**ablation, "layers": [1]},
        "capture_states": {**scored, "spaces": ("unit",), "layers": [0], "positions": [2], "folder": None},
        "correlate": {
            "scores": effects.values("emergence"),
            "effects": effects.values("loss"),
            "permutations": 49,
            "resamples": 20,
            "seed": 0,
            "baselines": None,
        },
        "emergence_metric": {**shape, "layer": 1, "pos": -1, "space": "unit"},
        "exact_emergence": {"prompts": tokens, "layers": [0, 1], "positions": [2]},
        "exact_population": {"prompts": drawn, "layers": [0], "positions": None},
        "load_effects": {"folder": folder / "effects"},
        "load_result": {"folder": folder / "result"},
        "load_report": {"path": folder / "report" / "report.json"},
        "load_experiment": {"folder": folder / "experiment"},
        "mutual_information": {"x": x, "y": y, "estimator": "noise", "sigma": 0.5, "seed": 0, "null": False},
        "shuffled_weights": {"model": model, "seed": 0},
        "attention_entropies": scored,
        "previous_token_scores": scored,
        "induction_scores": {**scored, "prompts": toys.TOKENS.repeat(1, 2), "period": 3},
        "head_norms": {**scored, "at": "z"},
        "block_means": {"heads": effects.values("loss")},
        "block_values": {"result": jobs.emergence(), "positions": (-1,)},
        "emergence_at": {"layers": [1], "positions": [2], "sigma": 0.5, "space": "unit", "name": "e"},
        "information_at": {"layers": [1], "positions": [2], "sigma": 0.5, "space": "unit", "name": "i"},
        "kl_to_clean": {"positions": (-1,), "name": "kl"},
        "logit_difference": {"right": torch.arange(8), "wrong": torch.arange(8) + 9, "position": -1},
        "model_tokens": {**shape, "prepend_bos": None, "bos_token_id": 1},
        "next_token_loss": {"positions": None, "name": "loss"},
        "derangement": {"n_samples": 8, "seed": 0, "steps": 1},
        "entropy_bits": {"ids": labels},
        "miller_madow_bits": {"ids": labels},
        "get_estimator": {"name": "noise"},
        "option_defaults": {"estimator": tle.estimators.get_estimator("noise")},
        "takes_noise": {"estimator": tle.estimators.get_estimator("noise")},
        "usable_information": {
            "x": torch.randn(60, 4, generator=generator),
            "labels": torch.arange(60) % 2,
            "components": 2,
            "folds": 2,
            "seed": 0,
            "sigma": 0.0,
        },
        "training": {
            "checkpoints": {0: jobs.model},
            "prompts": tokens,
            "n": 8,
            "spaces": "unit",
            "sigma": 0.5,
        },
        "model_size": {"models": {"a": model, "b": model}, "prompts": tokens, "n": 8, "spaces": "unit"},
        "natural_text": {"models": {"toy": model}, "texts": text, "n": 4, "n_tokens": (2,), "spaces": "unit"},
        "shots": {"models": {"toy": model}, "lists": (words,), "most": 2, "n": 4, "spaces": "unit"},
        "text_sources": {
            "models": {"toy": model},
            "written": {"b": text},
            "texts": text,
            "n": 4,
            "n_tokens": 2,
            "spaces": "unit",
        },
        "variance": {"models": {"toy": model}, "prompts": words, "most": 2, "n": 4, "spaces": "unit"},
        "companion_geometry": {
            "states": tle.capture_states(model, tokens),
            "space": "unit",
            "settings": GeometrySettings(components=1),
        },
        "cosine_to_previous": {"x": x, "previous": y, "weights": torch.ones(24)},
        "discrete_criteria": {
            "x": torch.stack([labels, labels], 1),
            "x_next": torch.stack([labels, labels], 1),
            "v": labels,
            "v_next": labels,
            "weights": None,
        },
        "effective_rank": {"variances": torch.rand(5, generator=generator)},
        "participation_ratio": {"variances": torch.rand(5, generator=generator)},
        "gaussian_criteria": {
            "x": torch.randn(2, 60, 3, generator=generator),
            "sigma": 0.5,
            "components": 2,
            "x_next": torch.randn(2, 60, 3, generator=generator),
            "seed": 0,
        },
        "mean_norm": {"x": x, "weights": torch.ones(24)},
        "prompt_entropy": {"x": torch.randn(3, 4, 5, generator=generator)},
        "models.load": {"name_or_folder": checkpoint, "model_class": "auto", "device": "cpu"},
        "at_sigma": {"found": sweep, "sigma": 0.5},
        "curves": {"result": result, "metric": "emergence", "layers": [0]},
        "estimator_curves": {"results": comparison, "metric": "macro", "pos": -1, "sigma": 0.5},
        "experiment": {"result": experiment},
        "half_blocks": {"halves": halves, "metric": "emergence"},
        "head_effects": {"effects": effects, "metric": "loss"},
        "heatmap": {"result": result, "metric": "micro", "vmax": 1.0, "title": "t"},
        "overview": {"result": result, "metric": "emergence"},
        "scatter": {"report": report, "n_labels": 1},
        "side_by_side": {"results": jobs.emergence_in_two_spaces(), "metric": "emergence"},
        "sigma_curves": {"sweep": sweep, "metric": "emergence", "pos": -1},
        "demonstrations": {"name_or_list": "country", "model_or_tokenizer": tokenizer, "shots": 2, "n": 16},
        "from_tokens": {"tokens": toys.TOKENS, "labels": ["a", "b", "c"], "name": "toy", "details": {}},
        "sentences": {"texts": text, "model_or_tokenizer": tokenizer, "n_tokens": 2, "min_tokens": 2},
        "PromptSet": {"tokens": toys.TOKENS, "labels": ("a", "b", "c"), "name": "toy"},
        "UnitValues": {"name": "v", "values": column, "labels": ("L0", "L1"), "layers": (0, 1)},
        "GeometrySettings": {"components": 2, "whole": "mean", "sigma": 0.5},
    }
    calls = [Call(name, function, given.get(name, {})) for name, function in public().items()]
    values = effects.values("loss")
    for owner, methods in {
        "EmergenceResult": (result, {"at": {"layer": 0, "pos": 1}, "save": {"folder": folder / "again"}}),
        "HeadEffects": (
            effects,
            {
                "mean": {"metric": "loss"},
                "stderr": {"metric": "loss"},
                "values": {"metric": "loss"},
                "saturated": {"metric": "loss"},
                "ranked": {"metric": "loss", "n": 2},
                "summary": {"n": 2},
                "save": {"folder": folder / "again"},
            },
        ),
        "CorrelationReport": (
            report,
            {"save": {"path": folder / "again.json"}, "__getitem__": {"key": ("emergence", "loss")}},
        ),
        "ExperimentResult": (experiment, {"save": {"folder": folder / "again"}}),
        "SigmaSweep": (sweep, {"__getitem__": {"key": 0.5}, "save": {"folder": folder / "again"}}),
        "UnitValues": (values, {"take": {"prompts": [0, 1]}, "select": {"labels": ["L0H0"]}}),
        "PromptSet": (tokens, {"take": {"rows": [0, 1]}}),
    }.items():
        made, of_methods = methods
        for method, arguments in of_methods.items():
            if hasattr(made, method):
                calls.append(Call(f"{owner}.{method}", getattr(made, method), arguments))
    return calls


def anything(generator: random.Random, right: Any) -> Any:
    """Return something to pass for an argument: often wrong, at times right in another form."""
    if right is not None and generator.random() < 0.2:
        return generator.choice(_other_forms(right))
    return generator.choice(_VALUES)()


def _other_forms(right: Any) -> list[Any]:
    if isinstance(right, torch.Tensor):
        forms = [
            right.numpy(),
            right.tolist(),
            right.double() if right.is_floating_point() else right.int(),
            right[:1],
        ]
        transposed = right.transpose(0, -1).contiguous().transpose(0, -1)
        return [
            *forms,
            transposed,
            right[..., :1],
            right[:0],
            right.clone().requires_grad_(right.is_floating_point()),
        ]
    if isinstance(right, bool):
        return [np.bool_(right), int(right), str(right)]
    if isinstance(right, int):
        return [np.int64(right), torch.tensor(right), float(right), str(right), right + 1, -right]
    if isinstance(right, float):
        return [np.float32(right), torch.tensor(right), [right], str(right), -right]
    if isinstance(right, str):
        return [right.upper(), [right], right.encode(), right + " "]
    if isinstance(right, list | tuple):
        return [
            list(right),
            tuple(right),
            set(map(str, right)),
            list(right) * 2,
            np.array(right, dtype=object),
            right[:0],
        ]
    return [right]


_VALUES: list[Callable[[], Any]] = [
    lambda: None,
    lambda: True,
    lambda: -1,
    lambda: 0,
    lambda: 1,
    lambda: 7,
    lambda: 10**30,
    lambda: -(2**63),
    lambda: 2.5,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: 1e-320,
    lambda: 1j,
    lambda: "",
    lambda: "x",
    lambda: "emergence",
    lambda: "\ud800",
    lambda: "a\0b",
    lambda: "x" * 5000,
    lambda: b"x",
    lambda: Path("/nonexistent/place"),
    lambda: "/dev/null/x",
    lambda: "/proc/self/mem",
    lambda: "/",
    lambda: "~nobody-here/x",
    list,
    lambda: (),
    dict,
    lambda: set(),
    lambda: [None],
    lambda: ["x"],
    lambda: [0, 0],
    lambda: [[1, 2], [3]],
    lambda: {"a": 1},
    lambda: {1, 2},
    lambda: range(3),
    lambda: iter([1, 2]),
    lambda: object(),
    lambda: int,
    lambda: len,
    lambda: [True, False, True],
    lambda: [1.5],
    lambda: [10**30],
    lambda: [float("nan")],
    lambda: np.array(3),
    lambda: np.arange(4),
    lambda: np.zeros((2, 2)),
    lambda: np.array(["x"]),
    lambda: np.int8(-3),
    lambda: np.array([{}], dtype=object),
    lambda: np.zeros((0, 3)),
    lambda: np.datetime64("2020-01-01"),
    lambda: pd.DataFrame({"a": [1]}),
    lambda: pd.Series([1, 2]),
    lambda: torch.tensor(1),
    lambda: torch.tensor(1.5),
    lambda: torch.zeros(0),
    lambda: torch.zeros(3),
    lambda: torch.zeros(24, 5),
    lambda: torch.full((24, 5), float("nan")),
    lambda: torch.full((24, 5), float("inf")),
    lambda: torch.ones(24, 5, dtype=torch.float16),
    lambda: torch.ones(24, 5, dtype=torch.complex64),
    lambda: torch.ones(24, 5).to_sparse(),
    lambda: torch.ones(24, 5, device="meta"),
    lambda: torch.zeros(8, 3).long(),
    lambda: torch.zeros(8, 3).to(torch.uint8),
    lambda: torch.zeros(8, 3).bool(),
    lambda: torch.ones(24, 5).to(torch.float8_e4m3fn),
    lambda: torch.full((24, 5), 1e38),
    lambda: torch.full((24, 5), 1e-40),
    lambda: torch.randn(2, 3, 4, 5, generator=torch.Generator()),
    lambda: _nested(),
    lambda: torch.nn.Identity(),
    lambda: toys.TOKENS + 10**6,
    lambda: -toys.TOKENS,
    lambda: toys.TOKENS.float(),
    lambda: jobs.model(),
    lambda: jobs.prompts(),
    lambda: jobs.MADE["result"](2),
    lambda: jobs.MADE["effects"](2),
    lambda: ["noise", "exact"],
    lambda: ("unit", "read"),
    lambda: (0.5, 1.0),
    lambda: ["loss", "kl"],
    lambda: lambda *_: torch.zeros(8),
    lambda: lambda *_: None,
    lambda: circuits.next_token_loss(),
    lambda: tempfile.gettempdir(),
]


def _nested() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
