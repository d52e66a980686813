"""The same prompts through several models: does emergence grow with their size?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from tl_emergence.capture.spaces import Space
from tl_emergence.checks import integer
from tl_emergence.emergence import information_emergence
from tl_emergence.experiments.curves import curve, curve_rows, frame, runs
from tl_emergence.experiments.parts import Models, Parts, named_models, space_names
from tl_emergence.experiments.result import Conclusion, ExperimentResult, Finding, with_error
from tl_emergence.prompts import PromptSet, demonstrations

QUESTION = "Has a larger model more emergence on the same prompts, measured against the ceiling?"
_LEAST_MODELS = 3


def model_size(
    models: Any | Models,
    *,
    prompts: str | Sequence[str] | PromptSet = "country",
    shots: int | None = None,
    n: int = 1024,
    spaces: Space | Sequence[Space] = ("read", "unit"),
    sigma: float = 0.5,
    seed: int = 0,
    prepend_bos: bool | None = None,
    bos_token_id: int | None = None,
    batch_size: int = 64,
    workdir: str | PathLike[str] | None = None,
) -> ExperimentResult:
    """Measure emergence of the same prompts in several models, as a part of its exact value.

    Entities of a list are one token each in every model, and the seed draws the same rows for all, so that
    exact values are the same: share = emergence / exact emergence at the last position, both means over
    blocks 1 and up. Absolute bits at a given sigma depend on width and norm, and models of two families
    differ in more than size; the control with shuffled weights shows how much of a difference is of that
    kind.

    Args:
        models: Models by name, with tokenizers for lists; parameters are counted.
        prompts: "country", "animal", "color", entities, or a `PromptSet`, whose tokens every model reads as
            they are: for models of one vocabulary.
        shots: Entities a prompt; what the paper used by default.
        n: Prompts, for lists.
        spaces: Coordinates of the states.
        sigma: Noise level of the estimator `noise`.
        seed: Seed of prompts and noise.
        prepend_bos: As in `information_emergence`.
        bos_token_id: The BOS token, where the tokenizer does not say.
        batch_size: Prompts a forward pass.
        workdir: Keep finished parts there, so that an experiment that was stopped goes on.

    Returns:
        A part a model; tables `curves` and `sizes`; a conclusion on the claim "model size", which three
        models at least can bear.

    Raises:
        SettingError: A number out of range, a work folder of another experiment.
        TokenError: Entities that are not one token each in a model's tokenizer.
        HookError, StateError: As `information_emergence`.

    Cost: one `information_emergence` a model with the control `shuffled_weights`.
    """
    of = named_models(models)
    spaces = space_names(spaces)
    n, seed = integer("n", n, least=8), integer("seed", seed)
    if isinstance(prompts, PromptSet):
        sets, n = dict.fromkeys(of, prompts), len(prompts)
        described: Any = f"{prompts.name} ({prompts.content_hash})"
    else:
        sets = {
            name: demonstrations(prompts, model, shots=shots, n=n, seed=seed) for name, model in of.items()
        }
        described = prompts if isinstance(prompts, str) else list(prompts)
    settings = {
        "experiment": "model size", "models": list(of), "prompts": described,
        "shots": shots, "n": n, "spaces": list(spaces), "sigma": sigma, "seed": seed,
        "prepend_bos": prepend_bos, "bos_token_id": bos_token_id,
    }  # fmt: skip
    parts = Parts(None if workdir is None else Path(workdir), settings, of)
    curves, sizes = [], []
    for name, model in of.items():

        def run(work: Path | None, model: Any = model, drawn: PromptSet = sets[name]) -> Any:
            return information_emergence(
                model, drawn, space=tuple(spaces), sigma=sigma, seed=seed, batch_size=batch_size,
                controls=("shuffled_weights",), workdir=work,
                prepend_bos=prepend_bos, bos_token_id=bos_token_id,
            )  # fmt: skip

        parts.measure(name, run)
        curves += curve_rows(parts.results[name], {"model": name})
        count = sum({id(p): p.numel() for p in model.parameters()}.values())
        for space, of_run, one in runs(parts.results[name]):
            found = curve(one)
            share, error = (float(x[-1] / found.exact[-1]) for x in (found.values, found.stderr))
            row = {"model": name, "parameters": count, "space": space, "run": of_run}
            sizes.append({**row, "share": share, "stderr": error, "exact": float(found.exact[-1])})
    findings = tuple(_findings(sizes))
    return ExperimentResult(
        name="model size",
        question=QUESTION,
        parts=parts.results,
        tables={"curves": frame(curves), "sizes": frame(sizes)},
        findings=findings,
        conclusions=tuple(_conclusions(sizes)),
        settings=settings,
    )


def counted(parameters: float) -> str:
    """Return a number of parameters as people say it.

    Example:
        >>> counted(134_515_008), counted(20_832)
        ('135 M', '21 k')
    """
    return f"{parameters / 1e6:.0f} M" if parameters >= 1e6 else f"{parameters / 1e3:.0f} k"


def _findings(sizes: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    for row in sizes:
        what = "model" if row["run"] == "model" else "weights shuffled"
        where = f"{row['model']} ({counted(row['parameters'])} parameters), {row['space']}, {what}"
        yield with_error(
            "model size", where, "emergence as a part of exact", row["share"], row["stderr"], unit=""
        )


def _conclusions(sizes: Sequence[dict[str, Any]]) -> Iterator[Conclusion]:
    said, grows = [], []
    for space in dict.fromkeys(row["space"] for row in sizes):
        rows = [row for row in sizes if row["space"] == space and row["run"] == "model"]
        rows.sort(key=lambda row: row["parameters"])
        shares = [row["share"] for row in rows]
        far = [
            b["share"] - a["share"] > 1.96 * np.hypot(a["stderr"], b["stderr"])
            for a, b in itertools.pairwise(rows)
        ]
        grows.append(all(far))
        said.append(f"{space}: " + " to ".join(f"{share:.2f}" for share in shares))
    models = len({row["model"] for row in sizes})
    verdict = "holds" if all(grows) else "holds partly" if any(grows) else "does not hold"
    above = any(row["share"] > 1 for row in sizes if row["run"] == "model")
    control = {row["model"]: row["share"] for row in sizes if row["run"] != "model"}
    shuffled = f"; with weights shuffled {min(control.values()):.2f} to {max(control.values()):.2f}"
    over = "; above 1, tokens alone fall short of their exact value by more than prompts do" if above else ""
    one = "; one training run a model: the errors are of the estimate, not of training"
    few = f"; {models} model(s) make no trend, and they differ in more than size"
    yield Conclusion(
        "model size",
        "cannot be tested here" if models < _LEAST_MODELS else verdict,
        "from the smallest to the largest, emergence as a part of exact: "
        + "; ".join(said)
        + (shuffled if control else "")
        + over
        + (few if models < _LEAST_MODELS else one),
    )
