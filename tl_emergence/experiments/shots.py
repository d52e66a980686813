"""Lists of 1 to 10 entities: is the staircase the model's, or that of the prompts and their number?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tl_emergence.capture.spaces import Space
from tl_emergence.checks import integer, integers
from tl_emergence.emergence import information_emergence
from tl_emergence.errors import SettingError
from tl_emergence.experiments.curves import Curve, curve, curve_rows, frame, runs
from tl_emergence.experiments.judged_lists import knee
from tl_emergence.experiments.judging import judged
from tl_emergence.experiments.parts import Models, Parts, named_models, space_names
from tl_emergence.experiments.result import ExperimentResult
from tl_emergence.files import as_path
from tl_emergence.prompts import demonstrations
from tl_emergence.results import EmergenceResult
from tl_emergence.torch_state import with_torch_defaults

if TYPE_CHECKING:
    from tl_emergence.prompts import PromptSet

QUESTION = "Where does emergence rise along a list, and where does it stop, as the number of prompts varies?"


@with_torch_defaults
def shots(
    models: Any | Models,
    *,
    lists: Sequence[str | Sequence[str]] = ("country",),
    most: int = 10,
    n: int | Sequence[int] = (128, 512),
    spaces: Space | Sequence[Space] = ("read", "unit"),
    sigma: float = 0.5,
    seed: int = 0,
    batch_size: int = 64,
    workdir: str | PathLike[str] | None = None,
) -> ExperimentResult:
    """Measure emergence at every position of lists of `most` entities, for several numbers of prompts.

    One run of `most` shots holds all shorter lists: under causal attention the state at the j-th entity is
    that of a list of j. Curves are means over blocks 1 and up. The knee is the first shot at which macro at
    its separator reaches 0.95 of the largest macro at any separator. Beside it stand the knee of the exact
    curve at the same prompts, and the shot at which the entropy of a list, log2(K! / (K - j)!) of K entities,
    exceeds log2 N: from there on N is what any estimate can show.

    Args:
        models: A HookedTransformer or TransformerBridge with a tokenizer, or several by name.
        lists: "country", "animal", "color", or entities of your own.
        most: Entities a prompt, 3 at least.
        n: Numbers of prompts, one or several.
        spaces: Coordinates of the states.
        sigma: Noise level of the estimator `noise`.
        seed: Seed of prompts and noise.
        batch_size: Prompts a forward pass.
        workdir: Keep finished parts there, so that an experiment that was stopped goes on.

    Returns:
        Parts `model/list/N`; tables `curves`, `knees` and `blocks` (in how many blocks emergence is surely
        above 0 at the last separator, at the largest N); conclusions on the claims "positive", "staircase"
        and "seventh shot".

    Raises:
        SettingError: No list, a number out of range, a work folder of another experiment.
        TokenError: Entities that are not one token each in a model's tokenizer.
        HookError, StateError: As `information_emergence`.

    Cost: for each model, list and N one `information_emergence` with the control `shuffled_weights`.
    """
    of = named_models(models)
    if isinstance(lists, str):
        lists = [lists]
    names = [name if isinstance(name, str) else "own" for name in lists]
    most, seed = integer("most (shots a prompt)", most, least=3), integer("seed", seed)
    sizes = integers("n", [n] if isinstance(n, int) else n) or ()
    spaces = space_names(spaces)
    once = len(set(names)) == len(names) and len(set(sizes)) == len(sizes)
    if not names or not sizes or not once:
        raise SettingError(
            "a list or a number of prompts twice" if names and sizes else "nothing to measure",
            seen=f"lists {names}, n {list(sizes)}",
            expected="at least one list and one number of prompts, each once",
            fix="Pass lists=['country'], n=[1024]; one list of your own at a time.",
        )
    settings = {
        "experiment": "shots", "models": list(of),
        "lists": [name if isinstance(name, str) else list(name) for name in lists],
        "most": most, "n": list(sizes), "spaces": list(spaces), "estimator": "noise", "sigma": sigma,
        "seed": seed,
    }  # fmt: skip
    # Lists that cannot be drawn are refused before a model runs.
    sets = {
        (model_name, name, size): demonstrations(entities, model, shots=most, n=size, seed=seed)
        for model_name, model in of.items()
        for name, entities in zip(names, lists, strict=True)
        for size in sizes
    }
    parts = Parts(None if workdir is None else as_path("workdir", workdir), settings, of)
    curves, knees, blocks = [], [], []
    for (model_name, name, size), prompts in sets.items():

        def run(work: Path | None, model: Any = of[model_name], prompts: PromptSet = prompts) -> Any:
            return information_emergence(
                model, prompts, space=tuple(spaces), sigma=sigma, seed=seed, batch_size=batch_size,
                controls=("shuffled_weights",), workdir=work,
            )  # fmt: skip

        key = f"{model_name}/{name}/{size}"
        parts.measure(key, run)
        about = {"model": model_name, "list": name, "n": size}
        curves += curve_rows(parts.results[key], about)
        found = crossing(prompts, size)
        passed = math.nan if found is None else found
        population = prompts.population
        about_7 = float(population.prefix_bits[12]) if population and most >= 7 else math.nan
        for space, of_run, one in runs(parts.results[key]):
            row = {**about, "space": space, "run": of_run, "crossing": passed, "bits_of_7": about_7}
            knees.append({**row, **_knees(curve(one, "macro"), curve(one))})
            if of_run == "model" and size == max(sizes):
                blocks.append({**about, "space": space, **_blocks_above(one)})
    tables = {"curves": frame(curves), "knees": frame(knees), "blocks": frame(blocks)}
    return ExperimentResult(
        name="shots",
        question=QUESTION,
        parts=parts.results,
        tables=tables,
        settings=settings,
        **judged("shots", tables, settings),
    )


def crossing(prompts: PromptSet, n: int) -> int | None:
    """Return the first shot at which the entropy of a list of so many entities exceeds log2 N, if one does.

    Example:
        >>> lists = demonstrations("country", tokenizer, shots=3, n=64, seed=0)
        >>> crossing(lists, 16), crossing(lists, 64), crossing(lists, 10**6)  # 4.6, 9.2 and 13.8 bits
        (1, 2, None)
    """
    assert prompts.population is not None
    at_separators = prompts.population.prefix_bits[1::2]
    above = np.flatnonzero(at_separators.numpy() > math.log2(n))
    return int(above[0]) + 1 if len(above) else None


def _knees(macro: Curve, emergence: Curve) -> dict[str, int]:
    """Return the knees of the measured and of the exact curves, in shots, and how many shots there were."""
    return {
        "knee": knee(macro), "exact_knee": knee(macro.as_exact()),
        "emergence_knee": knee(emergence), "exact_emergence_knee": knee(emergence.as_exact()),
        "shots": len(macro.values) // 2,
    }  # fmt: skip


def _blocks_above(result: EmergenceResult) -> dict[str, int]:
    """Return in how many of the blocks 1 and up emergence at the last position is surely above 0."""
    rows = [i for i, layer in enumerate(result.layers) if layer > 0]
    sure = result.emergence[rows, -1] > 1.96 * result.stderr[rows, -1]
    return {"above": int(sure.sum()), "blocks": len(rows)}
