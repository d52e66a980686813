"""The spread of emergence over prompts, against what the model gets wrong on the same prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_emergence.capture.spaces import Space
from tl_emergence.checks import integer, integers
from tl_emergence.circuits.units import block_values
from tl_emergence.emergence import information_emergence
from tl_emergence.errors import SettingError
from tl_emergence.experiments.curves import frame, runs
from tl_emergence.experiments.errors_of_lists import entity_tokens, list_errors
from tl_emergence.experiments.judging import judged
from tl_emergence.experiments.parts import Models, Parts, named_models, space_names
from tl_emergence.experiments.result import ExperimentResult
from tl_emergence.experiments.shots import crossing
from tl_emergence.experiments.spread import (
    correlation_rows,
    exact_pointwise,
    noise_rows,
    onset_rows,
    spread_rows,
)
from tl_emergence.files import as_path
from tl_emergence.prompts import LISTS, demonstrations
from tl_emergence.results import AnyResult
from tl_emergence.torch_state import with_torch_defaults

if TYPE_CHECKING:
    from tl_emergence.prompts import PromptSet

_OTHER_NOISE = 1_000_003  # added to a seed: no seed of anybody's list of seeds

QUESTION = "Does the spread of emergence over prompts follow the errors that the model makes on them?"


@with_torch_defaults
def variance(
    models: Any | Models,
    *,
    prompts: str | Sequence[str] = "country",
    most: int = 10,
    n: int = 512,
    seeds: Sequence[int] = (0, 1, 2),
    spaces: Space | Sequence[Space] = ("read", "unit"),
    sigma: float = 0.5,
    resamples: int = 1000,
    batch_size: int = 64,
    workdir: str | PathLike[str] | None = None,
) -> ExperimentResult:
    """Set the spread of pointwise emergence at each shot beside the model's errors there.

    For each seed, a set of n lists of its own. At the separator of shot j = 1..most-1, from which the model
    foretells entity j + 1: the standard deviation over prompts of the pointwise emergence (the mean over
    blocks 1 and up), that of the mean over prompts over blocks, and that of the mean over both over seeds;
    category errors, repetitions, category loss and next-item loss (`list_errors`). Correlations by Spearman:

    * over shots: each of the three spreads at j with the mean error at j, the mean over seeds; 95 % interval
      by resampling prompts, values held fixed. Shots are few and ordered: any two trends correlate. Over
      seeds the spread is one of means of n prompts, hardly more than their sampling error.
    * over prompts: how far a prompt's emergence lies from the mean, |e_i - mean|, with its error, within each
      shot; the mean over shots and seeds, its interval by resampling prompts.

    The exact spread stands beside each: prompts that share a prefix differ from others without any model; so
    does that of shuffled weights, for the first seed. A change with shots that these make alone is not the
    model's: where the spread peaks with the exact one, it does not count for the claim.

    The spread holds the noise of the estimator, prompt by prompt, too, which lowers correlations over
    prompts: the first seed's prompts are measured a second time with other noise. `noise sd` is the standard
    deviation of the differences over the square root of 2; the Spearman correlation of the distances
    |e_i - mean| of one measurement with those of the other, r, says how much is left: to first order,
    correlations over prompts come out lower by the factor sqrt(r).

    Where a model starts to err is read off each error by itself (`onset`): the first shot at which it rises,
    prompt by prompt, above an earlier one. An error that only falls from the first shot on has no such place.

    Args:
        models: A HookedTransformer or TransformerBridge with a tokenizer, or several by name.
        prompts: "country", "animal", "color", or entities.
        most: Entities a prompt, 4 at least.
        n: Prompts a seed.
        seeds: Seeds of prompts and noise.
        spaces: Coordinates of the states.
        sigma: Noise level of the estimator `noise`.
        resamples: Resamples of the prompts for intervals; a quarter of them for those over prompts.
        batch_size: Prompts a forward pass.
        workdir: Keep finished parts there, so that an experiment that was stopped goes on.

    Returns:
        Parts `model/seed-0`; tables `spread` (one row a shot, seed and space), `onsets` (one row an error,
        seed and space), `correlations` and `noise` (one row a shot and space, first seed); a conclusion on
        the claim "variance".

    Raises:
        SettingError: A number out of range, no seed, a work folder of another experiment.
        TokenError: Entities that are not one token each in a model's tokenizer.
        HookError, StateError: As `information_emergence`.

    Cost: one `information_emergence` and one forward pass a model and seed, and one `information_emergence`
        more a model; some seconds of resampling.
    """
    of = named_models(models)
    spaces = space_names(spaces)
    most, n, chosen = integer("most", most, least=4), integer("n", n, least=16), integers("seed", seeds) or ()
    if not chosen or len(set(chosen)) < len(chosen):
        raise SettingError(
            "a seed twice" if chosen else "no seed", seen=list(chosen) or "none",
            expected="one or several, each once", fix="Pass seeds=[0, 1, 2].",
        )  # fmt: skip
    entities = LISTS[prompts] if isinstance(prompts, str) and prompts in LISTS else prompts
    settings = {
        "experiment": "variance", "models": list(of),
        "prompts": prompts if isinstance(prompts, str) else list(prompts),
        "most": most, "n": n, "seeds": list(chosen), "spaces": list(spaces), "estimator": "noise",
        "sigma": sigma,
        "resamples": integer("resamples", resamples, least=20),
    }  # fmt: skip
    sets = {  # lists that cannot be drawn are refused before a model runs
        (name, seed): demonstrations(prompts, model, shots=most, n=n, seed=seed)
        for name, model in of.items()
        for seed in chosen
    }
    parts = Parts(None if workdir is None else as_path("workdir", workdir), settings, of)
    spread, onsets, correlations, noise = [], [], [], []
    for model_name, model in of.items():
        kept, exact = {}, {}
        for seed in chosen:
            drawn = sets[model_name, seed]

            def run(work: Path | None, model: Any = model, drawn: PromptSet = drawn, seed: int = seed) -> Any:
                return information_emergence(
                    model, drawn, space=tuple(spaces), sigma=sigma, seed=seed, batch_size=batch_size,
                    controls=("shuffled_weights",) if seed == chosen[0] else (), workdir=work,
                )  # fmt: skip

            def also(result: AnyResult, model: Any = model, drawn: PromptSet = drawn) -> Mapping[str, Any]:
                tokens = entity_tokens(entities, model)
                errors = list_errors(model, drawn, tokens, batch_size=batch_size)
                by_run = {"model": {}, "shuffled_weights": {}}
                for space, of_run, one in runs(result):
                    by_run[of_run][space] = _pointwise(one)
                return {
                    "emergence": by_run["model"],
                    "shuffled": by_run["shuffled_weights"],
                    "blocks": {
                        space: _by_block(one) for space, of_run, one in runs(result) if of_run == "model"
                    },
                    "errors": {name: values.tolist() for name, values in errors.items()},
                }

            exact[seed] = exact_spread(drawn)
            kept[seed] = parts.measure(f"{model_name}/seed-{seed}", run, also)

        first = sets[model_name, chosen[0]]

        def again(model: Any = model, drawn: PromptSet = first) -> Mapping[str, Any]:
            result = information_emergence(
                model, drawn, space=tuple(spaces), sigma=sigma, seed=chosen[0] + _OTHER_NOISE,
                batch_size=batch_size,
            )  # fmt: skip
            return {space: _pointwise(one) for space, _, one in runs(result)}

        other = parts.keep(f"other-noise-{model_name}", again)
        noise += noise_rows(model_name, kept[chosen[0]]["emergence"], other)
        passed = crossing(first, n)
        at = {"crossing": math.nan if passed is None else passed}
        for space in spaces:
            spread += spread_rows(model_name, space, kept, exact)
            onsets += [{**row, **at} for row in onset_rows(model_name, space, kept, exact)]
            correlations += correlation_rows(model_name, space, kept, resamples)
    tables = {
        "spread": frame(spread),
        "onsets": frame(onsets),
        "correlations": frame(correlations),
        "noise": frame(noise),
    }
    return ExperimentResult(
        name="variance",
        question=QUESTION,
        parts=parts.results,
        tables=tables,
        settings=settings,
        **judged("variance", tables, settings),
    )


def _pointwise(result: Any) -> list[list[float]]:
    """Return emergence at the separator of each shot but the last, prompt by prompt, the mean over blocks."""
    inner = [row for row, layer in enumerate(result.layers) if layer > 0]
    separators = result.positions[1:-1:2]
    return [block_values(result, positions=[t]).values[inner].mean(dim=0).tolist() for t in separators]


def exact_spread(prompts: PromptSet) -> list[float]:
    """Return the standard deviation over prompts of exact pointwise emergence at all separators but the last.

    That of `exact_pointwise`: prompts that share a prefix differ from others without any model.

    Example:
        >>> import torch
        >>> from tl_emergence.prompts import from_tokens
        >>> lists = from_tokens(torch.tensor([[5, 1, 6, 1], [5, 1, 7, 1], [8, 1, 6, 1]]))
        >>> [round(bits, 3) for bits in exact_spread(lists)]
        [0.289]
    """
    return exact_pointwise(prompts).std(dim=1)[1:-1:2].tolist()


def _by_block(result: Any) -> list[list[list[float]]]:
    """Return emergence [shot][block][prompt] at the separator of each shot but the last, to 4 decimals."""
    inner = [row for row, layer in enumerate(result.layers) if layer > 0]
    separators = result.positions[1:-1:2]
    values = [block_values(result, positions=[t]).values[inner] for t in separators]
    return [[[round(bits, 4) for bits in block] for block in of.tolist()] for of in values]
