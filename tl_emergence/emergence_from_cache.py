"""Information emergence of activation caches that the caller already has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack, overload

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tl_emergence.answers import answer, scores_of
from tl_emergence.capture.cached import CacheNorms, StateCache, states_from_cache
from tl_emergence.capture.spaces import Space
from tl_emergence.ceiling import Micro
from tl_emergence.checkpoints import Workspace
from tl_emergence.checks import truth
from tl_emergence.controls import WITHOUT_MODEL, check_controls
from tl_emergence.emergence import Settings, default_spaces
from tl_emergence.geometry.settings import GeometrySettings, asked_geometry
from tl_emergence.prompts.prompt_set import PromptSet, as_prompt_set
from tl_emergence.question import ask
from tl_emergence.results import (
    AnyResult,
    EmergenceResult,
    EstimatorComparison,
    SigmaSweep,
    SpaceComparison,
)
from tl_emergence.torch_state import with_torch_defaults


class _CacheSettings(Settings, total=False):
    n_prefix: int
    norms: CacheNorms | None
    attention_mask: Tensor | None


@overload
def information_emergence_from_cache(
    cache: StateCache,
    micro_cache: StateCache,
    *,
    tokens: PromptSet | Tensor,
    micro_tokens: Tensor,
    estimator: list[str] | tuple[str, ...],
    sigma: float | Sequence[float] | None = None,
    space: Space | Sequence[Space] | None = None,
    **settings: Unpack[_CacheSettings],
) -> EstimatorComparison: ...
@overload
def information_emergence_from_cache(
    cache: StateCache,
    micro_cache: StateCache,
    *,
    tokens: PromptSet | Tensor,
    micro_tokens: Tensor,
    estimator: str = ...,
    sigma: float | None = None,
    space: Space | None = None,
    **settings: Unpack[_CacheSettings],
) -> EmergenceResult: ...
@overload
def information_emergence_from_cache(
    cache: StateCache,
    micro_cache: StateCache,
    *,
    tokens: PromptSet | Tensor,
    micro_tokens: Tensor,
    estimator: str = ...,
    sigma: Sequence[float],
    space: Space | None = None,
    **settings: Unpack[_CacheSettings],
) -> SigmaSweep: ...
@overload
def information_emergence_from_cache(
    cache: StateCache,
    micro_cache: StateCache,
    *,
    tokens: PromptSet | Tensor,
    micro_tokens: Tensor,
    estimator: str = ...,
    sigma: float | Sequence[float] | None = None,
    space: Sequence[Space],
    **settings: Unpack[_CacheSettings],
) -> SpaceComparison: ...
@with_torch_defaults
def information_emergence_from_cache(
    cache: StateCache,
    micro_cache: StateCache,
    *,
    tokens: PromptSet | Int[Tensor, "prompt pos"],
    micro_tokens: Int[Tensor, " token"],
    n_prefix: int = 1,
    norms: CacheNorms | None = None,
    attention_mask: Int[Tensor, "prompt cached"] | Bool[Tensor, "prompt cached"] | None = None,
    estimator: str | Sequence[str] = "noise",
    sigma: float | Sequence[float] | None = None,
    space: Space | Sequence[Space] | None = None,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    controls: Sequence[str] = (),
    micro: Micro = "alone",
    geometry: bool | GeometrySettings = False,
    seed: int = 0,
    progress: bool = False,
    **options: Any,
) -> AnyResult:
    """Measure information emergence from activation caches that you already have.

    Args:
        cache: Any mapping from TransformerLens hook names to [prompt, pos, d_model], such as an
            ActivationCache, with `blocks.{l}.hook_resid_pre` of every block scored and
            `blocks.{L-1}.hook_resid_post`.
        micro_cache: The same hooks for distinct tokens run alone: [token, n_prefix + 1, d_model].
        tokens: Content tokens of the prompts (no BOS), or a `PromptSet`.
        micro_tokens: The token of each row of `micro_cache`, each once.
        n_prefix: Leading cache positions that are no content (1 for BOS).
        norms: The norm that reads each state: first norm of every block, then the final norm. Required
            for space="read"; without it the default is "unit", with a warning.
        attention_mask: The mask of a padded run, BOS included: padding may stand on either side.
        estimator: As in `information_emergence`, like all that follow.
        sigma: Noise level or levels.
        space: Coordinates.
        layers: Blocks.
        positions: Content positions.
        controls: "deranged", the one that needs no model.
        micro: "alone" or "first".
        geometry: True or `GeometrySettings` for the geometry of the states beside their information.
        seed: Seed of every random draw.
        progress: Show progress bars.
        options: What the estimators take besides.

    Raises:
        StateError: Hooks missing, shapes that do not fit the tokens, tokens without a micro state,
            prompts with the same prefix but different states, NaN or infinity.
        TokenError: Tokens of a wrong shape or dtype.
        SettingError: Anything out of range or unknown.

    Example:
        >>> _, cache = model.run_with_cache(tokens)
        >>> distinct = tokens.unique()
        >>> _, micro_cache = model.run_with_cache(distinct[:, None])
        >>> information_emergence_from_cache(
        ...     cache, micro_cache, tokens=tokens, micro_tokens=distinct, n_prefix=0, space="unit"
        ... )
        EmergenceResult(from cache, 8 prompts, noise, space unit, sigma 0.5, 2 layers x 3 positions)
    """
    prompt_set, progress = as_prompt_set(tokens), truth("progress", progress)
    question = ask(estimator, sigma, space, micro, seed, options)
    check_controls(controls, WITHOUT_MODEL)
    controls = tuple(dict.fromkeys(controls))
    described = asked_geometry(geometry, len(prompt_set))
    states = states_from_cache(
        cache,
        micro_cache,
        prompt_set,
        micro_tokens,
        n_prefix=n_prefix,
        norms=norms,
        layers=layers,
        positions=positions,
        attention_mask=attention_mask,
        spaces=question.spaces or (),
    )
    spaces = question.spaces or default_spaces(states)
    runs = {
        run: scores_of(
            states,
            question,
            spaces,
            run=run,
            geometry=described,
            workspace=Workspace(None, {}),
            device=torch.device("cpu"),
            progress=progress,
        )
        for run in ("model", *controls)
    }
    return answer(runs, question)
