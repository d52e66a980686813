"""Emergence of half-blocks: what attention carries of the whole prompt, and what the MLP carries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.answers import Scores, answer, scores_of
from tl_emergence.capture import compat
from tl_emergence.capture.halves import HALVES
from tl_emergence.capture.spaces import Reading, Space
from tl_emergence.capture.states import CapturedStates
from tl_emergence.ceiling import Ceiling
from tl_emergence.checkpoints import Workspace
from tl_emergence.checks import integer
from tl_emergence.controls import WITHOUT_MODEL, captured, check_controls
from tl_emergence.emergence import default_spaces
from tl_emergence.errors import SettingError
from tl_emergence.prompts.prompt_set import PromptSet, as_prompt_set
from tl_emergence.question import ask
from tl_emergence.results import EmergenceResult
from tl_emergence.torch_state import with_torch_defaults

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Part = Literal["attention", "mlp", "whole"]
"""A half of a block, or the block."""


@dataclass(frozen=True, eq=False)
class HalfBlocks:
    """Emergence of both halves of every scored block, and of the block, from one capture.

    Each part is an `EmergenceResult` with one row a block: macro, micro, emergence, their standard errors,
    ceiling, cap and saturation; `result.mlp.emergence` is [layer, pos], in bits. The parts do not add up:
    each is an information between two states, not a change from one to the next.

    Attributes:
        attention: From the input of the block to its middle (`hook_resid_pre` to `hook_resid_mid`).
        mlp: From the middle to the output (`hook_resid_mid` to `hook_resid_post`).
        whole: From the input to the output: what `information_emergence` gives.
    """

    attention: EmergenceResult
    mlp: EmergenceResult
    whole: EmergenceResult

    @property
    def layers(self) -> tuple[int, ...]:
        """Block numbers, one a row."""
        return self.whole.layers

    @property
    def positions(self) -> tuple[int, ...]:
        """Content positions, one a column."""
        return self.whole.positions

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the positions."""
        return self.whole.labels

    @property
    def settings(self) -> Mapping[str, Any]:
        """What was run and how: JSON values only, the same for all parts but for `part` and `by_chain`."""
        return {key: value for key, value in self.whole.settings.items() if key not in ("part", "by_chain")}

    def parts(self) -> Iterator[tuple[Part, EmergenceResult]]:
        """Yield the name and result of each part."""
        for name in get_args(Part):
            yield name, getattr(self, name)

    def to_dataframe(self) -> pd.DataFrame:
        """Return the rows of every part as `EmergenceResult` gives them, its name in the column `part`."""
        from tl_emergence.tables import joined_rows

        return joined_rows([found.to_dataframe().assign(part=name) for name, found in self.parts()])

    def summary(self) -> str:
        """Return emergence at the last scored position, a column a part, and what limits each part."""
        from tl_emergence.tables import halves_summary

        return halves_summary(self)

    def plot(self, **options: Any) -> Figure:
        """Return a heatmap a part, side by side; see `tl_emergence.plots.half_blocks`."""
        from tl_emergence import plots

        return plots.half_blocks(self, **options)

    def __repr__(self) -> str:
        return repr(self.whole).replace("EmergenceResult(", "HalfBlocks(", 1)


@with_torch_defaults
def half_block_emergence(
    model: Any,
    prompts: PromptSet | Int[Tensor, "prompt pos"],
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    space: Space | None = None,
    sigma: float = 0.5,
    controls: Sequence[str] = (),
    seed: int = 0,
    prepend_bos: bool | None = None,
    bos_token_id: int | None = None,
    batch_size: int = 64,
) -> HalfBlocks:
    """Measure the information emergence of the attention half and of the MLP half of every block.

    With a_l^t the residual stream in the middle of block l (`hook_resid_mid`), after attention wrote to it
    and before the MLP reads it, and b_l its value for a token run alone, in bits,

    attention[l,t] = I(h_l^t ; a_l^t) - mean over t' <= t of I(m_l(s_t') ; b_l(s_t')),
    mlp[l,t] = I(a_l^t ; h_{l+1}^t) - mean over t' <= t of I(b_l(s_t') ; m_{l+1}(s_t')),

    by the estimator `noise`: equation 3 of Chen et al. (arXiv 2405.12617), applied to each half. The two
    need not add up to the block's. All but the embedding h_0 have read the prefix, so the ceiling of all
    halves but the first attention is the prefix's entropy.

    Args:
        model: A HookedTransformer or TransformerBridge whose attention writes before the MLP reads. Hooks
            that you have put on it stay in force.
        prompts: A `PromptSet`, or content tokens [prompt, pos] without BOS.
        layers: Blocks, all by default; negative numbers count from the end.
        positions: Content positions, all by default; negative numbers count from the end.
        space: "read" (each state as what reads it sees it: the norm of attention, of the MLP, or the final
            one, gain included, RMS 1), "unit" (without the gain) or "resid" (raw, each state in units of its
            RMS over the set). By default "read", or "unit" with a warning where not all norms have gains.
        sigma: Noise level in units of the space.
        controls: As in `information_emergence`: "shuffled_weights", "shuffled_tokens", "deranged". Each
            part has its own: `result.mlp.controls["shuffled_weights"]`.
        seed: Seed of every random draw. Global random state is not touched.
        prepend_bos: Put BOS before every prompt and single token; the model's own habit by default.
        bos_token_id: The BOS token, where the tokenizer does not say.
        batch_size: Prompts a forward pass.

    Returns:
        A `HalfBlocks`. Its `whole` has the numbers of `information_emergence` with the same settings.

    Raises:
        HookError: Not a TransformerLens model; attention and MLP side by side (Pythia, GPT-J) or no MLP; a
            middle that is not the input plus attention, or from which the MLP does not lead to the output.
        TokenError: Prompts that the model cannot run, or with BOS or padding among the content.
        SettingError: Anything out of range or unknown; several sigmas or spaces; `read` where it cannot be
            had.
        StateError: NaN or infinity in a state.

    Cost: that of `information_emergence` for the same blocks, the states twice as many and the estimates
    three times. The model is left bit for bit as it was, whatever happens.

    Example:
        >>> halves = half_block_emergence(model, tokens)
        >>> halves
        HalfBlocks(native, 8 prompts, noise, space read, sigma 0.5, 2 layers x 3 positions)
        >>> halves.mlp.emergence.shape  # layers, positions
        torch.Size([2, 3])
    """
    compat.check_model(model)
    prompt_set = as_prompt_set(prompts)
    question = ask("noise", sigma, space, "alone", seed, {})
    measure = question.measures[0]
    if measure.sweep or question.several_spaces:
        raise SettingError(
            "several settings at once",
            seen=f"sigma={sigma!r}, space={space!r}",
            expected="one sigma and one space",
            fix="Call once for each.",
        )
    check_controls(controls)
    controls = tuple(dict.fromkeys(controls))
    capture_settings = {
        "layers": layers,
        "positions": positions,
        "prepend_bos": prepend_bos,
        "bos_token_id": None if bos_token_id is None else integer("bos_token_id", bos_token_id),
        "batch_size": batch_size,
        "cut": HALVES,
    }
    spaces, workspace = question.spaces, Workspace(None, {})
    of_halves: dict[str, Scores] = {}
    of_whole: dict[str, Scores] = {}
    for run in ("model", *(name for name in controls if name not in WITHOUT_MODEL)):
        settings = {**capture_settings, "spaces": spaces or ()}
        states = captured(model, prompt_set, run, question.seed, workspace, False, settings)
        if spaces is None:
            spaces = default_spaces(states)
        for part in (run, *(name for name in controls if run == "model" and name in WITHOUT_MODEL)):
            for found, cut in ((of_halves, states), (of_whole, _whole_blocks(states))):
                found[part] = scores_of(
                    cut,
                    question,
                    spaces,
                    run=part,
                    geometry=None,
                    workspace=workspace,
                    device=compat.estimation_device(model),
                    progress=False,
                )
        del states  # their memory and files, before the next run captures its own
    asked = ("model", *controls)
    halves, whole = (
        cast("EmergenceResult", answer({run: found[run] for run in asked}, question))
        for found in (of_halves, of_whole)
    )
    return HalfBlocks(
        attention=_every_other(halves, 0, "attention"),
        mlp=_every_other(halves, 1, "mlp"),
        whole=_named(whole),
    )


def _whole_blocks(states: CapturedStates) -> CapturedStates:
    """Leave the states in the middle of blocks out, and number the others by blocks.

    Draws are seeded by whether a state's number is even: by the old numbers input and output of a block would
    have the same, and other draws than those of `information_emergence`.
    """
    ends = [i for i, state in enumerate(states.states) if state % 2 == 0]
    even = slice(None, None, 2) if ends == list(range(0, len(states.states), 2)) else ends

    def kept(x: Float[Tensor, "state row d_model"]) -> Float[Tensor, "end row d_model"]:
        return x[even]

    return replace(
        states,
        layers=tuple(piece // 2 for piece in states.layers if piece % 2 == 0),
        states=tuple(states.states[i] // 2 for i in ends),
        macro=tuple(kept(x) for x in states.macro),
        micro=kept(states.micro),
        reading=Reading(states.reading.norms[::2], states.reading.reasons[::2], states.reading.folded),
        scales=None if states.scales is None else tuple(states.scales[i] for i in ends),
    )


def _named(whole: EmergenceResult) -> EmergenceResult:
    """Say of whole blocks, and of their controls, that they are whole."""
    controls = {name: _named(found) for name, found in whole.controls.items()}
    return replace(whole, controls=controls, settings={**whole.settings, "part": "whole"})


def _every_other(halves: EmergenceResult, first: int, part: Part) -> EmergenceResult:
    """Return the rows of one kind of half, numbered by blocks."""
    rows = slice(first, None, 2)
    exact = halves.exact

    def of(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[rows]

    return replace(
        halves,
        macro=halves.macro[rows],
        micro=halves.micro[rows],
        emergence=halves.emergence[rows],
        macro_stderr=halves.macro_stderr[rows],
        micro_stderr=halves.micro_stderr[rows],
        stderr=halves.stderr[rows],
        macro_saturated=halves.macro_saturated[rows],
        micro_saturated=halves.micro_saturated[rows],
        exact=Ceiling(exact.macro[rows], exact.micro[rows], exact.emergence[rows]),
        layers=tuple(piece // 2 for piece in halves.layers[rows]),
        closest=halves.closest[:, rows],
        subsamples=tuple(
            replace(found, macro=found.macro[rows], emergence=found.emergence[rows])
            for found in halves.subsamples
        ),
        macro_pointwise=of(halves.macro_pointwise),
        micro_pointwise=of(halves.micro_pointwise),
        controls={name: _every_other(found, first, part) for name, found in halves.controls.items()},
        settings={**halves.settings, "part": part},
    )
