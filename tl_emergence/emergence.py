"""Information emergence: what a block carries of the whole prompt, minus what it carries of single tokens."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tl_emergence.capture import compat
from tl_emergence.capture.cached import CacheNorms, StateCache, states_from_cache
from tl_emergence.capture.checks import indices
from tl_emergence.capture.fingerprint import model_fingerprint
from tl_emergence.capture.spaces import Space
from tl_emergence.capture.states import CapturedStates
from tl_emergence.ceiling import Micro, exact_deranged
from tl_emergence.checkpoints import Workspace
from tl_emergence.checks import integer
from tl_emergence.controls import WITHOUT_MODEL, captured, check_controls
from tl_emergence.estimators.deranged import DerangedEstimator
from tl_emergence.geometry.settings import GeometrySettings, asked_geometry
from tl_emergence.prompts.prompt_set import PromptSet, from_tokens
from tl_emergence.question import Question, ask, is_one_number
from tl_emergence.results import AnyResult, EmergenceResult, SigmaSweep, SpaceComparison
from tl_emergence.scoring import score


class EmergenceWarning(UserWarning):
    """Something was decided for the caller that changes what the numbers mean."""


class _Settings(TypedDict, total=False):
    """What both functions take besides sigma and space; for type checkers."""

    estimator: str
    controls: Sequence[str]
    layers: Sequence[int] | None
    positions: Sequence[int] | None
    micro: Micro
    geometry: bool | GeometrySettings
    seed: int
    progress: bool
    draws: int | None
    components: int | None
    folds: int
    steps: int
    segment: int
    rows: int | None


class _RunSettings(_Settings, total=False):
    prepend_bos: bool | None
    bos_token_id: int | None
    batch_size: int
    workdir: str | PathLike[str] | None


class _CacheSettings(_Settings, total=False):
    n_prefix: int
    norms: CacheNorms | None
    attention_mask: Tensor | None


@overload
def information_emergence(
    model: Any,
    prompts: PromptSet | Tensor,
    *,
    sigma: float | None = None,
    space: Space | None = None,
    **settings: Unpack[_RunSettings],
) -> EmergenceResult: ...
@overload
def information_emergence(
    model: Any,
    prompts: PromptSet | Tensor,
    *,
    sigma: Sequence[float],
    space: Space | None = None,
    **settings: Unpack[_RunSettings],
) -> SigmaSweep: ...
@overload
def information_emergence(
    model: Any,
    prompts: PromptSet | Tensor,
    *,
    sigma: float | Sequence[float] | None = None,
    space: Sequence[Space],
    **settings: Unpack[_RunSettings],
) -> SpaceComparison: ...
def information_emergence(
    model: Any,
    prompts: PromptSet | Int[Tensor, "prompt pos"],
    *,
    estimator: str = "noise",
    sigma: float | Sequence[float] | None = None,
    space: Space | Sequence[Space] | None = None,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    controls: Sequence[str] = (),
    micro: Micro = "alone",
    geometry: bool | GeometrySettings = False,
    prepend_bos: bool | None = None,
    bos_token_id: int | None = None,
    batch_size: int = 128,
    seed: int = 0,
    workdir: str | PathLike[str] | None = None,
    progress: bool = False,
    **options: Any,
) -> AnyResult:
    """Measure the information emergence of every block and position of a model.

    emergence[l,t] = I(h_l^t ; h_{l+1}^t) - mean over t' <= t of I(m_l(s_t') ; m_{l+1}(s_t'))   in bits,

    the information between a block's input and output in the whole prompt, minus the mean of its tokens
    run alone (Chen et al., arXiv 2405.12617, equation 3; the paper's E(l) is the last position).
    Macro and micro share estimator, sigma, space, sample size and seed.

    Args:
        model: A HookedTransformer or TransformerBridge. Hooks that you have put on it stay in force.
        prompts: A `PromptSet`, or content tokens [prompt, pos] without BOS.
        estimator: A name from `tl_emergence.estimators.ESTIMATORS`.
        sigma: Noise level in units of the space; several give a `SigmaSweep`.
        space: "read" (as the reading block's norm sees the state, gain included, RMS 1), "unit" (without
            the gain) or "resid" (raw, in units of its RMS over the set); several give a `SpaceComparison`.
            By default "read", or "unit" with a warning where the gains are folded into the weights.
        layers: Blocks, all by default; negative numbers count from the end.
        positions: Content positions, all by default; negative numbers count from the end.
        controls: "shuffled_weights" (entries of every weight matrix permuted, restored afterwards) and
            "shuffled_tokens" (tokens of each position permuted across prompts). Neither is expected to be
            0; each result carries its own ceiling. "deranged" pairs each state with the next one of another
            prompt, from the same states: what to expect is in its `settings["null_means"]`.
        micro: "alone" runs each token behind BOS alone; "first" takes micro[l,t] = macro[l,0], as the
            reference implementation of the paper does.
        geometry: Also measure effective rank, participation ratio, prompt entropy, norm, cosine to the
            previous layer and the criteria Psi, Delta and Gamma of every block and position, in the same
            space: `result.geometry`, and columns of the data frame. `GeometrySettings` to change how.
        prepend_bos: Put BOS before every prompt and single token; the model's own habit by default.
        bos_token_id: The BOS token, where the tokenizer does not say.
        batch_size: Prompts a forward pass.
        seed: Seed of every random draw. Global random state is not touched.
        workdir: Keep finished parts there, so that a run that was stopped goes on; delete it afterwards.
            Not together with hooks of your own: no record could tell whether they are still the same.
        progress: Show progress bars on standard error.
        options: What the estimator takes besides (`draws` for `noise`, `components` for `gaussian`,
            `components` and `folds` for `vinfo`, `steps`, `segment` and `rows` for `mine_paper`).

    Returns:
        An `EmergenceResult`; a `SigmaSweep` for several sigmas; a `SpaceComparison` for several spaces.

    Raises:
        HookError: Not a TransformerLens model, or hooks that do not mean what their names say.
        TokenError: Prompts that the model cannot run, or with BOS or padding among the content.
        SettingError: Anything out of range or unknown; `read` where it cannot be had.
        StateError: NaN or infinity in a state.
        ResultFileError: A work folder that cannot be written.

    Cost: one forward pass without unembedding over the distinct prompts (and one more a control), then
    the estimator's: for `noise` with N distinct prefixes 2 (1 + draws) N^2 d operations a state and
    position. That of the geometry is said by `tl_emergence.geometry.companion_geometry`. The model is left
    bit for bit as it was, whatever happens.

    Example:
        >>> result = information_emergence(model, tokens, seed=0)
        >>> result
        EmergenceResult(native, 8 prompts, noise, space read, sigma 0.5, 2 layers x 3 positions)
    """
    compat.check_model(model)
    prompt_set = prompts if isinstance(prompts, PromptSet) else from_tokens(prompts)
    question = ask(estimator, sigma, space, micro, seed, options)
    described = asked_geometry(geometry, len(prompt_set))
    check_controls(controls)
    controls = tuple(dict.fromkeys(controls))
    capture_settings = {
        "layers": indices("layer", layers, compat.n_layers(model)),
        "positions": indices("position", positions, prompt_set.n_positions),
        "prepend_bos": prepend_bos,
        "bos_token_id": None if bos_token_id is None else integer("bos_token_id", bos_token_id),
        "batch_size": integer("batch size", batch_size, least=1),
    }
    workspace = Workspace(None, {})
    if workdir is not None:
        request = {
            "model": compat.describe(model),
            "weights": model_fingerprint(model),
            "prompts": prompt_set.content_hash,
            **question.settings(),
            "controls": sorted(controls),
            "geometry": None if described is None else asdict(described),
            "tl_emergence": compat.package_version("tl-emergence"),
            **capture_settings,
        }
        workspace = Workspace(Path(workdir), request)
    spaces = question.spaces
    device = compat.estimation_device(model)
    runs: dict[str, dict[str, list[EmergenceResult]]] = {}
    for run in ("model", *(name for name in controls if name not in WITHOUT_MODEL)):
        settings = {**capture_settings, "spaces": spaces or ()}
        states = captured(model, prompt_set, run, question.seed, workspace, progress, settings)
        if spaces is None:
            spaces = _default_spaces(states, stacklevel=3)
        for part in (run, *(name for name in controls if run == "model" and name in WITHOUT_MODEL)):
            runs[part] = _scored(states, question, spaces, workspace, part, device, progress, described)
        del states  # their memory and files, before the next run captures its own
    runs = {run: runs[run] for run in ("model", *controls)}
    return _assembled(runs, question.sigmas, sigma, space)


@overload
def information_emergence_from_cache(
    cache: StateCache,
    micro_cache: StateCache,
    *,
    tokens: PromptSet | Tensor,
    micro_tokens: Tensor,
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
    sigma: float | Sequence[float] | None = None,
    space: Sequence[Space],
    **settings: Unpack[_CacheSettings],
) -> SpaceComparison: ...
def information_emergence_from_cache(
    cache: StateCache,
    micro_cache: StateCache,
    *,
    tokens: PromptSet | Int[Tensor, "prompt pos"],
    micro_tokens: Int[Tensor, " token"],
    n_prefix: int = 1,
    norms: CacheNorms | None = None,
    attention_mask: Int[Tensor, "prompt cached"] | Bool[Tensor, "prompt cached"] | None = None,
    estimator: str = "noise",
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
        options: What the estimator takes besides.

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
    prompt_set = tokens if isinstance(tokens, PromptSet) else from_tokens(tokens)
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
    spaces = question.spaces or _default_spaces(states, stacklevel=3)
    runs = {
        part: _scored(
            states, question, spaces, Workspace(None, {}), part, torch.device("cpu"), progress, described
        )
        for part in ("model", *controls)
    }
    return _assembled(runs, question.sigmas, sigma, space)


def _scored(
    states: CapturedStates,
    question: Question,
    spaces: Sequence[Space],
    workspace: Workspace,
    part: str,
    device: torch.device,
    progress: bool,
    geometry: GeometrySettings | None,
) -> dict[str, list[EmergenceResult]]:
    """Score the states of one run in every space: as they are, or deranged."""
    estimator, exact = question.estimator, None
    if part == "deranged":
        estimator = DerangedEstimator(estimator)
        exact = exact_deranged(
            states.prompts,
            seed=question.seed,
            layers=states.layers,
            positions=states.positions,
            micro=question.micro,
        )
    scored = {
        name: score(
            states,
            estimator=estimator,
            sigmas=question.sigmas,
            space=name,
            seed=question.seed,
            micro=question.micro,
            options=question.options,
            workspace=workspace,
            part=part,
            device=device,
            progress=progress,
            geometry=geometry if part != "deranged" else None,  # its states are those of the model
        )
        for name in spaces
    }
    if exact is None:
        return scored
    return {name: [replace(found, exact=exact) for found in results] for name, results in scored.items()}


def _assembled(
    runs: Mapping[str, Mapping[str, list[EmergenceResult]]],
    sigmas: tuple[float, ...],
    sigma: float | Sequence[float] | None,
    space: str | Sequence[str] | None,
) -> AnyResult:
    """Give each result its controls, and the caller the shape that was asked for."""
    by_space: dict[str, EmergenceResult | SigmaSweep] = {}
    for name, results in runs["model"].items():
        complete = [
            replace(found, controls={c: runs[c][name][s] for c in runs if c != "model"})
            for s, found in enumerate(results)
        ]
        several = sigma is not None and not is_one_number(sigma)
        by_space[name] = SigmaSweep(dict(zip(sigmas, complete, strict=True))) if several else complete[0]
    if space is None or isinstance(space, str):
        return next(iter(by_space.values()))
    return SpaceComparison(by_space)


def _default_spaces(states: CapturedStates, stacklevel: int) -> tuple[Space, ...]:
    default = states.reading.default_space
    if default != "read":
        why = (
            "its norm gains are folded into the weights"
            if states.reading.folded
            else "not every norm is known"
        )
        warnings.warn(
            f"space='unit' was chosen, not 'read': {why}. Bits depend on the space: compare at equal space "
            "only. Pass space= to choose, and to silence this.",
            EmergenceWarning,
            stacklevel=stacklevel,
        )
    return (default,)
