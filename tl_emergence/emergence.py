"""Information emergence: what a block carries of the whole prompt, minus what it carries of single tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from os import PathLike
from typing import Any, TypedDict, Unpack, overload

from jaxtyping import Int
from torch import Tensor

from tl_emergence.answers import Scores, answer, scores_of
from tl_emergence.capture import compat
from tl_emergence.capture.checks import indices
from tl_emergence.capture.fingerprint import model_fingerprint
from tl_emergence.capture.spaces import Space, chosen_by_default
from tl_emergence.capture.states import CapturedStates
from tl_emergence.ceiling import Micro
from tl_emergence.checkpoints import Workspace
from tl_emergence.checks import integer, truth
from tl_emergence.controls import WITHOUT_MODEL, captured, check_controls
from tl_emergence.files import as_path
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


class Settings(TypedDict, total=False):
    """What both functions take besides estimator, sigma and space; for type checkers."""

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


class _RunSettings(Settings, total=False):
    prepend_bos: bool | None
    bos_token_id: int | None
    batch_size: int
    workdir: str | PathLike[str] | None


@overload
def information_emergence(
    model: Any,
    prompts: PromptSet | Tensor,
    *,
    estimator: list[str] | tuple[str, ...],
    sigma: float | Sequence[float] | None = None,
    space: Space | Sequence[Space] | None = None,
    **settings: Unpack[_RunSettings],
) -> EstimatorComparison: ...
@overload
def information_emergence(
    model: Any,
    prompts: PromptSet | Tensor,
    *,
    estimator: str = ...,
    sigma: float | None = None,
    space: Space | None = None,
    **settings: Unpack[_RunSettings],
) -> EmergenceResult: ...
@overload
def information_emergence(
    model: Any,
    prompts: PromptSet | Tensor,
    *,
    estimator: str = ...,
    sigma: Sequence[float],
    space: Space | None = None,
    **settings: Unpack[_RunSettings],
) -> SigmaSweep: ...
@overload
def information_emergence(
    model: Any,
    prompts: PromptSet | Tensor,
    *,
    estimator: str = ...,
    sigma: float | Sequence[float] | None = None,
    space: Sequence[Space],
    **settings: Unpack[_RunSettings],
) -> SpaceComparison: ...
@with_torch_defaults
def information_emergence(
    model: Any,
    prompts: PromptSet | Int[Tensor, "prompt pos"],
    *,
    estimator: str | Sequence[str] = "noise",
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
    Macro and micro share estimator, sigma, space, sample size and seed, and every option of the estimator.

    Args:
        model: A HookedTransformer or TransformerBridge. Hooks that you have put on it stay in force.
        prompts: A `PromptSet`, or content tokens [prompt, pos] without BOS.
        estimator: A name from `tl_emergence.estimators.ESTIMATORS`; several give an `EstimatorComparison`,
            from one capture of the states.
        sigma: Noise level in units of the space; several give a `SigmaSweep`. Each estimator's own default
            unless given; then it goes to every estimator that takes noise (`exact` takes none).
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
            space, once for all estimators: `result.geometry`, and columns of the data frame (empty for
            "deranged", whose states are those of the model). `GeometrySettings` to change how.
        prepend_bos: Put BOS before every prompt and single token; the model's own habit by default.
        bos_token_id: The BOS token, where the tokenizer does not say.
        batch_size: Prompts a forward pass.
        seed: Seed of every random draw. Global random state is not touched.
        workdir: Keep finished parts there, so that a run that was stopped goes on; delete it afterwards.
            Not together with hooks of your own: no record could tell whether they are still the same.
        progress: Show progress bars on standard error.
        options: What the estimator takes besides (`draws` for `noise`, `components` for `gaussian`,
            `components` and `folds` for `nce` and `vinfo`, `steps`, `segment` and `rows` for `mine_paper`).
            Of several estimators, those that have it get it.

    Returns:
        An `EmergenceResult`; a `SigmaSweep` for several sigmas; a `SpaceComparison` for several spaces, of
        either; an `EstimatorComparison` for several estimators, of what a call for each alone would return.

    Raises:
        HookError: Not a TransformerLens model, or hooks that do not mean what their names say.
        TokenError: Prompts that the model cannot run, or with BOS or padding among the content.
        SettingError: Anything out of range or unknown; an option that no estimator asked for has; `read`
            where it cannot be had.
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
        >>> information_emergence(model, tokens, estimator=("exact", "noise"))["noise"]
        EmergenceResult(native, 8 prompts, noise, space read, sigma 0.5, 2 layers x 3 positions)
    """
    compat.check_model(model)
    progress = truth("progress", progress)
    prompt_set = as_prompt_set(prompts)
    question = ask(estimator, sigma, space, micro, seed, options)
    described = asked_geometry(geometry, len(prompt_set))
    check_controls(controls)
    controls = tuple(dict.fromkeys(controls))
    capture_settings = {
        "layers": indices("layer", layers, compat.n_layers(model)),
        "positions": indices("position", positions, prompt_set.n_positions),
        "prepend_bos": None if prepend_bos is None else truth("prepend_bos", prepend_bos),
        "bos_token_id": None if bos_token_id is None else integer("bos_token_id", bos_token_id),
        "batch_size": integer("batch size", batch_size, least=1),
    }
    workspace = Workspace(None, {})
    if workdir is not None:
        request = {
            "model": compat.describe(model),
            "model_fingerprint": model_fingerprint(model),
            "prompts": prompt_set.content_hash,
            **question.settings(),
            "controls": sorted(controls),
            "geometry": None if described is None else asdict(described),
            "tl_emergence": compat.package_version("tl-emergence"),
            **capture_settings,
        }
        workspace = Workspace(as_path("workdir", workdir), request)
    spaces = question.spaces
    device = compat.estimation_device(model)
    runs: dict[str, Scores] = {}
    for run in ("model", *(name for name in controls if name not in WITHOUT_MODEL)):
        settings = {**capture_settings, "spaces": spaces or ()}
        states = captured(model, prompt_set, run, question.seed, workspace, progress, settings)
        if spaces is None:
            spaces = default_spaces(states)
        for part in (run, *(name for name in controls if run == "model" and name in WITHOUT_MODEL)):
            runs[part] = scores_of(
                states,
                question,
                spaces,
                run=part,
                geometry=described,
                workspace=workspace,
                device=device,
                progress=progress,
            )
        del states  # their memory and files, before the next run captures its own
    return answer({run: runs[run] for run in ("model", *controls)}, question)


def default_spaces(states: CapturedStates) -> tuple[Space, ...]:
    """Return the space in which states are seen unless another is asked for; warn where it is not "read"."""
    return (chosen_by_default(states.reading),)
