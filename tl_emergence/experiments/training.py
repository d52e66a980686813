"""Checkpoints of one model: how does emergence move over training?"""

from __future__ import annotations

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
from tl_emergence.experiments.parts import Parts, space_names
from tl_emergence.experiments.result import ExperimentResult, with_error
from tl_emergence.prompts import demonstrations

if TYPE_CHECKING:
    from tl_emergence.prompts import PromptSet

QUESTION = "How does emergence move over training, between a network of shuffled weights and the last step?"


def training(
    checkpoints: Mapping[int, Callable[[], Any]],
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
        checkpoints: By training step, a function that loads the model.
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
        A part a step, `step-00200`; tables `curves` and `steps`. The paper makes no claim about training.

    Raises:
        SettingError: No checkpoint, a step that is no whole number, a work folder of another experiment
            or of other weights.
        TokenError, HookError, StateError: As `information_emergence`.

    Cost: one `information_emergence` a step.
    """
    spaces = space_names(spaces)
    if not checkpoints:
        raise SettingError("no checkpoint", seen="none", expected="at least one", fix="Pass {step: load}.")
    steps = sorted(integer("step", step, least=0) for step in checkpoints)
    described: Any = prompts if isinstance(prompts, str) else getattr(prompts, "content_hash", None)
    settings = {
        "experiment": "training", "steps": steps,
        "n": n if isinstance(prompts, str) or not hasattr(prompts, "tokens") else len(prompts),
        "prompts": list(prompts) if described is None else described,  # type: ignore[arg-type]
        "spaces": list(spaces), "sigma": sigma, "seed": seed,
        "prepend_bos": prepend_bos, "bos_token_id": bos_token_id,
    }  # fmt: skip
    parts = Parts(None if workdir is None else Path(workdir), settings, {})
    curves, rows, findings = [], [], []
    for step in steps:
        key, last = f"step-{step:06d}", step == steps[-1]

        model = checkpoints[step]()  # also of a step that is done: its weights must be those of before

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
                f"step {step:,} is not the model that was measured before",
                seen="other weights",
                expected="the weights of the part that is kept",
                fix="Name another work folder, or delete this one.",
            )
        del model, run  # one model in memory at a time
        curves += curve_rows(parts.results[key], {"step": step})
        for space, of_run, one in runs(parts.results[key]):
            found = curve(one)
            value, error, exact = (float(x[-1]) for x in (found.values, found.stderr, found.exact))
            rows.append(
                {"step": step, "space": space, "run": of_run, "value": value, "stderr": error, "exact": exact}
            )
            where = f"step {step:,}, {space}" + ("" if of_run == "model" else ", weights shuffled")
            what = f"emergence at the last position (exact: {exact:.2f})"
            findings.append(with_error("positive", where, what, value, error))
    return ExperimentResult(
        name="training",
        question=QUESTION,
        parts=parts.results,
        tables={"curves": frame(curves), "steps": frame(rows)},
        findings=tuple(findings),
        conclusions=(),
        settings=settings,
    )
