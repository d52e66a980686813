"""Windows of natural text: does emergence rise with every token, and faster or slower than in lists?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tl_emergence.capture.spaces import Space
from tl_emergence.checks import integer, integers
from tl_emergence.emergence import information_emergence
from tl_emergence.errors import SettingError
from tl_emergence.experiments.curves import curve, curve_rows, frame, runs
from tl_emergence.experiments.judged_text import counts
from tl_emergence.experiments.judging import judged
from tl_emergence.experiments.parts import Models, Parts, named_models, space_names
from tl_emergence.experiments.result import ExperimentResult
from tl_emergence.files import as_path
from tl_emergence.prompts import demonstrations, sentences
from tl_emergence.prompts.sources import DATASETS
from tl_emergence.torch_state import with_torch_defaults

HUB_WINDOWS = 20_000
"""Windows that are read of a source on the hub, which has millions."""

if TYPE_CHECKING:
    from tl_emergence.prompts import PromptSet

QUESTION = "How does emergence grow over the tokens of natural text, and how over those of a list?"


@with_torch_defaults
def natural_text(
    models: Any | Models,
    *,
    texts: str | PathLike[str] | Iterable[str] = "persuasion",
    n: int = 512,
    n_tokens: int | Sequence[int] = (8, 16),
    anchors: str | Sequence[str] = ("start", "end"),
    beside: str | Sequence[str] = "country",
    spaces: Space | Sequence[Space] = ("read", "unit"),
    sigma: float = 0.5,
    seed: int = 0,
    batch_size: int = 64,
    workdir: str | PathLike[str] | None = None,
) -> ExperimentResult:
    """Measure emergence at every token of text windows, and of lists, with the same number of prompts.

    Windows are cut by the rules of the paper (`prompts.sentences`); of those that the text has, `n` are
    drawn. Curves are means over blocks 1 and up. With N prompts exact macro ends at log2 N once all prefixes
    differ, in natural text after a few tokens: exact emergence then moves with micro alone.

    Args:
        models: A HookedTransformer or TransformerBridge with a tokenizer, or several by name.
        texts: What `prompts.sentences` takes: "persuasion" (a novel that comes with the package), a file,
            strings, "openorca", "openhermes" (their first 20,000 windows).
        n: Prompts a set, the same for all.
        n_tokens: Lengths of windows.
        anchors: Where windows lie: "start" (after a full stop), "end" (before one).
        beside: The list to set beside them: a name or entities.
        spaces: Coordinates of the states.
        sigma: Noise level of the estimator `noise`.
        seed: Seed of the draws and of the noise.
        batch_size: Prompts a forward pass.
        workdir: Keep finished parts there, so that an experiment that was stopped goes on.

    Returns:
        Parts `model/start-8` and so on, and `model/list`; tables `curves` and `tokens`; conclusions on the
        claims "every token" and "positive".

    Raises:
        SettingError: A number or anchor out of range, no text source, fewer windows than n, a work folder of
            another experiment.
        TokenError: Hardly a window in the texts; text that is not UTF-8; rows without text.
        HookError, StateError: As `information_emergence`.

    Cost: for each model five times `information_emergence` with the control `shuffled_weights`, by default.
    """
    of = named_models(models)
    spaces = space_names(spaces)
    lengths = integers("n_tokens", [n_tokens] if isinstance(n_tokens, int) else n_tokens) or ()
    anchors = [anchors] if isinstance(anchors, str) else list(anchors)
    n, seed = integer("n", n, least=8), integer("seed", seed)
    if not lengths or not anchors:
        raise SettingError(
            "nothing to measure", seen="no length or no anchor", expected="one of each", fix="Name one."
        )
    source = texts if isinstance(texts, str | PathLike) else list(texts)
    settings = {
        "experiment": "natural text", "models": list(of),
        "texts": str(source) if isinstance(source, str | PathLike) else f"{len(source)} strings",
        "n": n, "n_tokens": list(lengths), "anchors": list(anchors),
        "beside": beside if isinstance(beside, str) else list(beside),
        "spaces": list(spaces), "estimator": "noise", "sigma": sigma, "seed": seed,
    }  # fmt: skip
    # Everything that can be refused is refused before a model runs.
    sets: dict[str, PromptSet] = {}
    number = most(source)
    for model_name, model in of.items():
        for anchor in anchors:
            for length in lengths:
                whole = sentences(source, model, n_tokens=length, anchor=anchor, n=number)  # type: ignore[arg-type]
                sets[f"{model_name}/{anchor}-{length}"] = drawn(whole, n, seed)
        sets[f"{model_name}/list"] = demonstrations(beside, model, n=n, seed=seed)
    settings["prompts"] = {key: prompts.content_hash for key, prompts in sets.items()}
    parts = Parts(None if workdir is None else as_path("workdir", workdir), settings, of)
    curves, tokens = [], []
    for key, prompts in sets.items():
        model_name, kind = key.rsplit("/", 1)

        def run(work: Path | None, model: Any = of[model_name], prompts: PromptSet = prompts) -> Any:
            return information_emergence(
                model, prompts, space=tuple(spaces), sigma=sigma, seed=seed, batch_size=batch_size,
                controls=("shuffled_weights",), workdir=work,
            )  # fmt: skip

        parts.measure(key, run)
        curves += curve_rows(parts.results[key], {"model": model_name, "kind": kind})
        for space, of_run, one in runs(parts.results[key]):
            if of_run == "model":
                about = {"model": model_name, "kind": kind, "space": space}
                tokens.append({**about, **counts(curve(one))})
    tables = {"curves": frame(curves), "tokens": frame(tokens)}
    return ExperimentResult(
        name="natural text",
        question=QUESTION,
        parts=parts.results,
        tables=tables,
        settings=settings,
        **judged("natural text", tables, settings),
    )


def most(source: Any) -> int | None:
    """Return how many windows to read: all of a text, of a source on the hub the first `HUB_WINDOWS`."""
    return HUB_WINDOWS if isinstance(source, str) and source.lower() in DATASETS else None


def drawn(prompts: PromptSet, n: int, seed: int) -> PromptSet:
    """Return n prompts of a set, drawn without replacement.

    Raises:
        SettingError: The set has fewer.
    """
    if len(prompts) < n:
        raise SettingError(
            "too few windows",
            seen=f"{len(prompts)} windows of {prompts.n_positions} tokens",
            expected=f"{n}, as in the other sets",
            fix="Pass a smaller n, or more text. A window crosses no newline: join lines that are wrapped.",
        )
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed), device="cpu")
    return prompts.take(order[:n].tolist())
