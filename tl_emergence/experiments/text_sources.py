"""Texts by humans and by models, read by one model: whose tokens make the difference?"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tl_emergence.capture.spaces import Space
from tl_emergence.checks import integer
from tl_emergence.circuits.units import block_values
from tl_emergence.emergence import information_emergence
from tl_emergence.errors import SettingError
from tl_emergence.experiments.curves import curve, curve_rows, frame, runs
from tl_emergence.experiments.generation import continuations, up_to_full_stops
from tl_emergence.experiments.judged_sources import HUMAN
from tl_emergence.experiments.judging import judged
from tl_emergence.experiments.matching import alike, token_entropy
from tl_emergence.experiments.natural_text import drawn
from tl_emergence.experiments.parts import (
    Models,
    Parts,
    check_name,
    named_models,
    number_of_parameters,
    space_names,
)
from tl_emergence.experiments.result import ExperimentResult
from tl_emergence.experiments.spread import exact_pointwise
from tl_emergence.files import as_path
from tl_emergence.prompts import sentences
from tl_emergence.prompts.sources import DATASETS, read_texts
from tl_emergence.results import AnyResult, EmergenceResult
from tl_emergence.torch_state import with_torch_defaults

if TYPE_CHECKING:
    from tl_emergence.prompts import PromptSet

QUESTION = "Has text by models more emergence than text by humans, once their tokens are equally varied?"
_OPENING_TOKENS = 16
_CONTEXT_WORDS = 40
_MORE_TOKENS = 4  # what a writer writes in n + 4 tokens has n of the reader's, nearly always


@with_torch_defaults
def text_sources(
    models: Any | Models,
    *,
    reader: str | None = None,
    texts: str | PathLike[str] | Iterable[str] = "persuasion",
    written: Mapping[str, Sequence[str]] | None = None,
    n_texts: int | None = None,
    n_tokens: int = 8,
    n: int = 160,
    spaces: Space | Sequence[Space] = ("read", "unit"),
    sigma: float = 0.5,
    seed: int = 0,
    batch_size: int = 64,
    workdir: str | PathLike[str] | None = None,
) -> ExperimentResult:
    """Let models write after full stops of a human text; measure emergence on windows of each source.

    A window is the first `n_tokens` tokens after a full stop, of the human text (after any of its full
    stops) or of what a model writes after some of them; one that holds any of . : ? ; - or a newline is left
    out.

    Twice, with the same number of windows of the same length: *unmatched*, windows drawn at random;
    *matched*, drawn so that the mean entropy of their tokens, the exact micro, agrees between sources
    (`matching.alike`). With equal N and length the cap is the same, so that what the vocabulary alone does
    shows in the difference between the two. Emergence is that at the last token, the mean over blocks 1 and
    up. Errors of differences hold that of the estimate and that of the draw of windows, the standard
    deviation of pointwise emergence over root n: to first order what other windows of the same source would
    change. *Beyond exact* is a difference less the exact difference of the same windows, which no reader
    makes; its error is that of the estimate and of pointwise emergence less exact pointwise emergence. It is
    what says whether a difference survives the matching, which fixes the exact values.

    Args:
        models: The models that write, by name; one of them reads.
        reader: The name of the reader; the first by default.
        texts: Human text: "persuasion", a file, strings. No data set of the hub: models wrote those.
        written: More sources: texts by name, such as what large models wrote.
        n_texts: Full stops after which each model writes; 2 n by default.
        n_tokens: Tokens a window.
        n: Windows a source.
        spaces: Coordinates of the reader's states.
        sigma: Noise level of the estimator `noise`.
        seed: Seed of openings, sampling, draws and noise.
        batch_size: Prompts a forward pass, in reading.
        workdir: Keep texts and finished parts there, so that an experiment that was stopped goes on.

    Returns:
        Parts `source/unmatched` and `source/matched`; tables `curves` and `sources`; a conclusion on the
        claim "text sources", which is about large writers: models of at least 7 billion parameters and
        whatever was given as `written` count for it, smaller models do not.

    Raises:
        SettingError: A reader that is not among the models, two sources of one name, a number out of range,
            too few windows of a source, a data set that models wrote as human text.
        TokenError: A text source that is empty, too short, no text, or not UTF-8.
        HookError, StateError: As `information_emergence`.

    Cost: for each model n_texts samples of n_tokens + 4 tokens, a forward pass a token, most of the time; two
        `information_emergence` a source.
    """
    of = named_models(models)
    spaces = space_names(spaces)
    others = {check_name(name): list(texts) for name, texts in (written or {}).items()}
    twice = sorted(({HUMAN} & {*of, *others}) | (set(of) & set(others)))
    if twice:
        raise SettingError(
            "two sources of one name", seen=twice, expected=f"names that differ; {HUMAN!r} is the text given",
            fix="Rename them.",
        )  # fmt: skip
    who = next(iter(of)) if reader is None else reader
    if who not in of:
        raise SettingError(
            "no such reader", seen=repr(who), expected=f"one of {list(of)}", fix="Name one of the models."
        )
    n, seed = integer("n", n, least=16), integer("seed", seed)
    source = texts if isinstance(texts, str | PathLike) else list(texts)
    if isinstance(source, str) and source.lower() in DATASETS:
        raise SettingError(
            "texts that models wrote, as human text", seen=source, expected="text by humans",
            fix="Pass them as a source of their own: written={'gpt-4': texts}.",
        )  # fmt: skip
    human: PromptSet = sentences(source, of[who], n_tokens=n_tokens)  # type: ignore[arg-type]
    drawn(human, n, seed)  # too few are refused before a model writes
    wanted = 2 * n if n_texts is None else integer("n_texts", n_texts, least=1)
    openings = _openings(source, wanted, seed)
    sampled = n_tokens + _MORE_TOKENS
    settings = {
        "experiment": "text sources", "models": list(of), "reader": who,
        "texts": str(source) if isinstance(source, str | PathLike) else f"{len(source)} strings",
        "prompts": human.content_hash, "openings": _digest(openings), "sampled": sampled,
        "written": {name: _digest(texts) for name, texts in others.items()},
        "n_texts": len(openings), "n_tokens": n_tokens, "n": n,
        "spaces": list(spaces), "estimator": "noise", "sigma": sigma, "seed": seed,
    }  # fmt: skip
    parts = Parts(None if workdir is None else as_path("workdir", workdir), settings, of)
    pools = {HUMAN: human}
    by_models = {
        name: parts.keep(
            f"texts-{name}",
            lambda model=model: {
                "texts": continuations(
                    model, openings, n_tokens=sampled, opening_tokens=_OPENING_TOKENS, seed=seed
                )
            },
        )["texts"]
        for name, model in of.items()
    }
    for name, found in {**by_models, **others}.items():
        own = name in by_models  # they begin after a full stop, which is put back
        rows = [f".{text}" for text in found] if own else list(found)
        pools[name] = sentences(rows, of[who], n_tokens=n_tokens, min_tokens=n_tokens, min_stops=1)
    plain = {name: drawn(pool, n, seed) for name, pool in pools.items()}
    sets = {"unmatched": plain, "matched": alike(pools, n, seed)}
    sizes = {name: float(number_of_parameters(model)) for name, model in of.items()}
    curves, rows = [], []
    for name in pools:
        for how in sets:
            prompts = sets[how][name]

            def run(work: Path | None, prompts: PromptSet = prompts) -> Any:
                return information_emergence(
                    of[who], prompts, space=tuple(spaces), sigma=sigma, seed=seed, batch_size=batch_size,
                    controls=("shuffled_weights",), workdir=work,
                )  # fmt: skip

            def also(result: AnyResult, prompts: PromptSet = prompts) -> dict[str, Any]:
                return {f"{space}/{of_run}": _spreads(one, prompts) for space, of_run, one in runs(result)}

            key = f"{name}/{how}"
            sd = parts.measure(key, run, also)
            curves += curve_rows(parts.results[key], {"source": name, "how": how})
            for space, of_run, one in runs(parts.results[key]):
                found = curve(one)
                value, error, exact = (float(x[-1]) for x in (found.values, found.stderr, found.exact))
                rows.append(
                    {
                        "source": name, "how": how, "space": space, "run": of_run, "value": value,
                        "stderr": error, "exact": exact,
                        "sampling error": sd[f"{space}/{of_run}"][0] / n**0.5,
                        "sampling error beyond exact": sd[f"{space}/{of_run}"][1] / n**0.5,
                        "token entropy": token_entropy(prompts),
                        "windows": len(pools[name]), "n": n, "parameters": sizes.get(name, math.nan),
                    }
                )  # fmt: skip
    tables = {"curves": frame(curves), "sources": frame(rows)}
    return ExperimentResult(
        name="text sources",
        question=QUESTION,
        parts=parts.results,
        tables=tables,
        settings=settings | {"texts by models": {name: _digest(found) for name, found in by_models.items()}},
        **judged("text sources", tables, settings),
    )


def _spreads(result: EmergenceResult, prompts: PromptSet) -> list[float]:
    """Return the SD over windows of pointwise emergence at the last token, and of that less exact."""
    inner = [row for row, layer in enumerate(result.layers) if layer > 0]
    values = block_values(result, positions=result.positions[-1:]).values[inner].mean(dim=0)
    return [float(values.std()), float((values - exact_pointwise(prompts)[-1]).std())]


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _openings(source: Any, n: int, seed: int) -> list[str]:
    """Return the last words up to and with n full stops, drawn with a seed."""
    found = up_to_full_stops(read_texts(source, None), most_words=_CONTEXT_WORDS)
    long = [text for text in found if len(text.split()) >= _OPENING_TOKENS]
    order = np.random.default_rng(seed).permutation(len(long))
    return [long[i] for i in order[:n]]
