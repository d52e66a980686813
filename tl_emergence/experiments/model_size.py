"""The same prompts through several models: does emergence grow with their size?"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from tl_emergence.capture.spaces import Space
from tl_emergence.checks import integer
from tl_emergence.emergence import information_emergence
from tl_emergence.experiments.curves import curve, curve_rows, frame, runs
from tl_emergence.experiments.judging import judged
from tl_emergence.experiments.parts import (
    Models,
    Parts,
    named_models,
    number_of_parameters,
    space_names,
)
from tl_emergence.experiments.result import ExperimentResult
from tl_emergence.files import as_path
from tl_emergence.prompts import PromptSet, demonstrations
from tl_emergence.torch_state import with_torch_defaults

QUESTION = "Has a larger model more emergence on the same prompts, measured against the ceiling?"


@with_torch_defaults
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
        One part per model; tables `curves` and `sizes`; a conclusion on the claim "model size", which needs
        three models of at least 100 million parameters: the paper's smallest is GPT-2.

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
        "shots": shots, "n": n, "spaces": list(spaces), "estimator": "noise", "sigma": sigma, "seed": seed,
        "prepend_bos": prepend_bos, "bos_token_id": bos_token_id,
    }  # fmt: skip
    parts = Parts(None if workdir is None else as_path("workdir", workdir), settings, of)
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
        count = number_of_parameters(model)
        for space, of_run, one in runs(parts.results[name]):
            found = curve(one)
            share, error = (float(x[-1] / found.exact[-1]) for x in (found.values, found.stderr))
            row = {"model": name, "parameters": count, "space": space, "run": of_run}
            sizes.append({**row, "share": share, "stderr": error, "exact": float(found.exact[-1])})
    tables = {"curves": frame(curves), "sizes": frame(sizes)}
    return ExperimentResult(
        name="model size",
        question=QUESTION,
        parts=parts.results,
        tables=tables,
        settings=settings,
        **judged("model size", tables, settings),
    )
