"""Checkpoints of one model: how does emergence move over training?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_emergence.capture.fingerprint import model_fingerprint
from tl_emergence.capture.spaces import Space
from tl_emergence.checks import integer
from tl_emergence.emergence import information_emergence
from tl_emergence.errors import SettingError
from tl_emergence.experiments.curves import curve, curve_rows, frame, runs
from tl_emergence.experiments.judging import judged
from tl_emergence.experiments.parts import Parts, check_name, own_name, space_names
from tl_emergence.experiments.result import ExperimentResult
from tl_emergence.files import as_path
from tl_emergence.prompts import demonstrations
from tl_emergence.torch_state import with_torch_defaults

if TYPE_CHECKING:
    from tl_emergence.prompts import PromptSet

QUESTION = "How does emergence move over training, between a network of shuffled weights and the last step?"


@with_torch_defaults
def training(
    checkpoints: Mapping[int, Callable[[], Any]] | Mapping[str, Callable[[], Any]],
    *,
    prompts: str | Sequence[str] | PromptSet = "country",
    n: int = 512,
    spaces: Space | Sequence[Space] = ("read", "unit"),
    sigma: float = 0.5,
    seed: int = 0,
    prepend_bos: bool | None = None,
    bos_token_id: int | None = None,
    batch_size: int = 64,
    workdir: str | PathLike[str] | None = None,
) -> ExperimentResult:
    """Measure emergence of the same prompts at every checkpoint, one model in memory at a time.

    Curves are means over blocks 1 and up; the last checkpoint has the control `shuffled_weights`. High
    emergence is what a network has that has learned nothing: read every step beside the exact value.

    Args:
        checkpoints: By training step, a function that loads the model; by name where steps are not known,
            in the order of training.
        prompts: "country", "animal", "color", entities, or a `PromptSet` of your own.
        n: Prompts, for lists.
        spaces: Coordinates of the states.
        sigma: Noise level of the estimator `noise`.
        seed: Seed of prompts and noise.
        prepend_bos: As in `information_emergence`.
        bos_token_id: The BOS token, where the tokenizer does not say.
        batch_size: Prompts a forward pass.
        workdir: Keep finished steps there, so that an experiment that was stopped goes on.

    Returns:
        One part per checkpoint, `step-000200` or its name; tables `curves` and `checkpoints`, in which the
        step of a checkpoint that was given by name is NaN. The paper makes no claim about training.

    Raises:
        SettingError: No checkpoint, a step that is no whole number, steps and names mixed, a work folder of
            another experiment or of other weights.
        TokenError, HookError, StateError: As `information_emergence`.

    Cost: one `information_emergence` per checkpoint.
    """
    spaces = space_names(spaces)
    if not checkpoints:
        raise SettingError(
            "no checkpoint", seen="none", expected="at least one", fix="Pass {step: load} or {name: load}."
        )
    steps = _steps(checkpoints)
    described: Any = prompts if isinstance(prompts, str) else getattr(prompts, "content_hash", None)
    settings = {
        "experiment": "training", "checkpoints": list(steps), "steps": _known(steps),
        "n": n if isinstance(prompts, str) or not hasattr(prompts, "tokens") else len(prompts),
        "prompts": list(prompts) if described is None else described,  # type: ignore[arg-type]
        "spaces": list(spaces), "estimator": "noise", "sigma": sigma, "seed": seed,
        "prepend_bos": prepend_bos, "bos_token_id": bos_token_id,
    }  # fmt: skip
    parts = Parts(None if workdir is None else as_path("workdir", workdir), settings, {})
    curves, rows = [], []
    for key, step in steps.items():
        last = key == list(steps)[-1]
        # It is loaded also where it was measured: its weights must be those of before.
        model = checkpoints[key if step is None else step]()  # type: ignore[index]

        def run(work: Path | None, model: Any = model, last: bool = last) -> Any:
            lists = isinstance(prompts, str) or not hasattr(prompts, "tokens")
            drawn: Any = demonstrations(prompts, model, n=n, seed=seed) if lists else prompts  # type: ignore[arg-type]
            return information_emergence(
                model, drawn, space=tuple(spaces), sigma=sigma, seed=seed, batch_size=batch_size,
                controls=("shuffled_weights",) if last else (), workdir=work,
                prepend_bos=prepend_bos, bos_token_id=bos_token_id,
            )  # fmt: skip

        weights = model_fingerprint(model)
        kept = parts.measure(key, run, lambda _, weights=weights: {"weights": weights})
        if kept["weights"] != weights:
            raise SettingError(
                f"{key} is not the model that was measured before",
                seen="other weights",
                expected="the weights of the part that is kept",
                fix="Name another work folder, or delete this one.",
            )
        found = {"checkpoint": key, "step": math.nan if step is None else step}
        about = {"model": own_name(model), **found}
        del model, run  # one model in memory at a time
        curves += curve_rows(parts.results[key], found)
        for space, of_run, one in runs(parts.results[key]):
            of = curve(one)
            value, error, exact = (float(x[-1]) for x in (of.values, of.stderr, of.exact))
            rows.append(
                {**about, "space": space, "run": of_run, "value": value, "stderr": error, "exact": exact}
            )
    tables = {"curves": frame(curves), "checkpoints": frame(rows)}
    return ExperimentResult(
        name="training",
        question=QUESTION,
        parts=parts.results,
        tables=tables,
        settings=settings,
        **judged("training", tables, settings),
    )


def _steps(checkpoints: Mapping[Any, Any]) -> dict[str, int | None]:
    """Return the step of each checkpoint by the name of its part: in order, or None where they have names."""
    named = [check_name(key) for key in checkpoints if isinstance(key, str)]
    if named and len(named) < len(checkpoints):
        raise SettingError(
            "checkpoints by step and by name", seen=list(checkpoints), expected="one of the two for all",
            fix="Pass {step: load} where all steps are known, or {name: load}.",
        )  # fmt: skip
    if named:
        return dict.fromkeys(named)
    return {f"step-{step:06d}": step for step in sorted(integer("step", key, least=0) for key in checkpoints)}


def _known(steps: Mapping[str, int | None]) -> list[int] | None:
    known = [step for step in steps.values() if step is not None]
    return known or None
