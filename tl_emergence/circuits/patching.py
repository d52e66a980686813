"""Emergence as a metric for activation patching: read off the forward pass that was just run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.capture import compat
from tl_emergence.capture.checks import check_fits_model, indices
from tl_emergence.capture.forward import with_prefix
from tl_emergence.capture.preflight import preflight
from tl_emergence.capture.spaces import Reading, Space, check_space, chosen_by_default
from tl_emergence.capture.states import capture_states
from tl_emergence.checks import integer, seed_number
from tl_emergence.circuits.information import macro_bits, mean_micro_bits
from tl_emergence.circuits.metrics import noise_level
from tl_emergence.errors import HookError, SettingError, StateError
from tl_emergence.prompts.prompt_set import PromptSet, as_prompt_set
from tl_emergence.torch_state import torch_defaults, with_torch_defaults

_PROBE_ROWS = 3
_REDUCE = ("mean", "none")


class EmergenceMetric:
    """A function of logits that TransformerLens' patching takes, and that looks at the states instead.

    Call it after a forward pass of the whole prompt set in one batch, with the logits or with nothing. Each
    pass is read once: a second call without a pass in between is an error, since it would report the pass
    before as if it were the present one.
    """

    def __init__(
        self,
        prompts: PromptSet,
        layer: int,
        pos: int,
        reading: Reading,
        space: Space,
        sigma: float,
        seed: int,
        micro: Float[Tensor, " prompt"] | None,
        reduce: str,
        scales: dict[int, float],
        offset: int,
        device: torch.device,
    ) -> None:
        self._prompts, self._layer, self._pos = prompts, layer, pos
        self._reading, self._sigma, self._seed = reading, sigma, seed
        self._space: Space = space
        self._micro, self._reduce, self._scales = micro, reduce, scales
        self._offset, self._device = offset, device
        self._seen: dict[tuple[int, int], Tensor] = {}
        self._shape: tuple[int, ...] = ()

    @property
    def states(self) -> tuple[int, int]:
        """The numbers of the states that are read: input and output of the block."""
        return self._layer, self._layer + 1

    def see(self, state: int, stream: Float[Tensor, "batch pos d_model"]) -> None:
        """Take note of a state of the pass that is running."""
        self._shape = tuple(stream.shape[:2])
        place = self._offset + self._pos
        # A shorter pass has no such position: its shape is kept, and refused when the metric is asked.
        kept = stream[:, place : place + 1].flatten(1).detach().clone()
        self._seen[state, self._pos] = kept.to(torch.promote_types(kept.dtype, torch.float32))

    @with_torch_defaults
    def __call__(self, logits: Tensor | None = None) -> Tensor:
        """Return the value of the last forward pass, in bits: one number, or one a prompt.

        Raises:
            HookError: No forward pass since the last call.
            StateError: A pass of other prompts: another number of them, or of positions; NaN or infinity.
        """
        wanted = {(self._layer, self._pos), (self._layer + 1, self._pos)}
        if set(self._seen) != wanted:
            raise HookError(
                "no forward pass to read",
                seen="no pass of the hooked model since the last call",
                expected="one whole pass before each call",
                fix="Run the model inside the with-block, then call the metric once.",
            )
        states, self._seen = self._seen, {}
        n, length = len(self._prompts), self._offset + self._prompts.n_positions
        if self._shape != (n, length):
            raise StateError(
                "a forward pass of other prompts",
                seen=f"[batch, pos] = {list(self._shape)}",
                expected=f"all {n} prompts in one batch, {length} tokens each, BOS included",
                fix="Run circuits.model_tokens(model, prompts), the whole set at once.",
            )
        if not all(bool(torch.isfinite(x).all()) for x in states.values()):
            raise StateError(
                "states that are not finite",
                seen="NaN or infinity",
                expected="finite numbers",
                fix="Look at the patch: it may divide by zero or overflow.",
            )
        bits = macro_bits(
            states,
            [self._layer],
            [self._pos],
            reading=self._reading,
            space=self._space,
            scales=self._scales,
            sigma=self._sigma,
            seed=self._seed,
            device=self._device,
        )[0, 0]
        if self._micro is not None:
            bits = bits - self._micro
        bits = bits.float() if logits is None else bits.to(logits.device, torch.float32)
        return bits.mean() if self._reduce == "mean" else bits


@contextmanager
def emergence_metric(
    model: Any,
    prompts: PromptSet | Int[Tensor, "prompt pos"],
    *,
    layer: int,
    pos: int = -1,
    quantity: Literal["emergence", "macro"] = "emergence",
    space: Space | None = None,
    sigma: float = 0.5,
    reduce: Literal["mean", "none"] = "mean",
    prepend_bos: bool | None = None,
    bos_token_id: int | None = None,
    seed: int = 0,
) -> Iterator[EmergenceMetric]:
    """Hook the residual streams around a block; yield a metric for `transformer_lens.patching`.

    The value is the emergence of block `layer` at content position `pos` of the forward pass that was last
    run, over the rows of its batch as the prompt set,

        mean_i [ i(h_l ; h_{l+1}) of row i ] - mean micro,

    at resolution sigma (`noise`). Micro is that of the tokens of `prompts` run alone in the clean model. It
    must run the whole set in one batch, as `generic_activation_patch` does. The metric sees streams, not
    tokens: that the patched runs are of these prompts, and came to their end, is the caller's to see to.

    Args:
        model: A HookedTransformer or TransformerBridge.
        prompts: A `PromptSet`, or content tokens [prompt, pos] without BOS: those that the patched runs
            start from (the corrupted ones, where clean activations
            are patched into them).
        layer: The block; negative numbers count from the end.
        pos: The content position; negative numbers count from the end.
        quantity: "emergence", or "macro" without the tokens run alone.
        space: Coordinates of the states; the model's default for None.
        sigma: Noise level.
        reduce: "mean" gives a scalar: what TransformerLens 2.x and 3.x take, and 4.x with its
            `reduce="scalar"`; "none" gives pointwise bits [batch], for 4.x with `reduce="mean"` or "none".
        prepend_bos: Whether the tokens of the patched runs start with BOS; the model's own habit by default.
        bos_token_id: The BOS token, where the tokenizer does not say.
        seed: Seed of the noise draws: the same for every pass, so that a change is not one of draws.

    Raises:
        HookError: Not a TransformerLens model; from the metric: no forward pass since its last call.
        SettingError: A layer, position, space, quantity or reduction that is not there; sigma out of range.
        TokenError: Prompts that the model cannot run.
        StateError: From the metric: a pass of other prompts, NaN or infinity.

    Cost: for each call 2 (1 + draws) N^2 d operations a state. The hooks are gone after the with-block.

    Example:
        >>> prompts = from_tokens(tokens)
        >>> with emergence_metric(model, prompts, layer=-1, prepend_bos=False) as metric:
        ...     logits = model(tokens)
        ...     value = metric(logits)
        >>> value.shape
        torch.Size([])
    """
    with torch_defaults():
        metric = _prepared(
            model,
            as_prompt_set(prompts),
            layer=layer,
            pos=pos,
            quantity=quantity,
            space=space,
            sigma=noise_level(sigma),
            reduce=reduce,
            prepend_bos=prepend_bos,
            bos_token_id=bos_token_id,
            seed=seed_number(seed),
        )

    def note(state: int) -> Callable[[Tensor], None]:
        return lambda stream: metric.see(state, stream)

    # Last of all hooks: a patch of these very streams is put on later, and must be seen.
    reading_last = compat.read_last(model, [(compat.residual_hook(model, s), note(s)) for s in metric.states])
    try:
        with reading_last:
            yield metric
    finally:
        reading_last.undo()  # done, unless a signal raised between the caller's block and the way out


def _prepared(
    model: Any,
    prompts: PromptSet,
    *,
    layer: int,
    pos: int,
    quantity: str,
    space: Space | None,
    sigma: float,
    reduce: str,
    prepend_bos: bool | None,
    bos_token_id: int | None,
    seed: int,
) -> EmergenceMetric:
    """Check what was asked for, run the tokens alone, and return the metric without its hooks."""
    compat.check_model(model)
    for what, given, known in (("quantity", quantity, ("emergence", "macro")), ("reduce", reduce, _REDUCE)):
        if given not in known:
            raise SettingError(f"unknown {what}", seen=repr(given), expected=f"one of {known}", fix="Choose.")
    (block,) = indices("layer", [integer("layer", layer)], compat.n_layers(model))
    (t,) = indices("position", [integer("pos", pos)], prompts.n_positions)
    bos = compat.bos_token(model, prepend_bos, bos_token_id)
    check_fits_model(model, prompts, bos)
    probe = with_prefix(prompts.tokens[:_PROBE_ROWS], bos).to(compat.device(model))
    report = preflight(model, probe)
    reading = Reading(report.norms, report.reasons, report.folded)
    chosen = space or chosen_by_default(reading)
    check_space(chosen, reading, (block, block + 1))
    scales, micro, device = {}, None, compat.estimation_device(model)
    if quantity == "emergence" or chosen == "resid":
        alone = capture_states(
            model,
            prompts,
            layers=[block],
            positions=[t],
            prepend_bos=bos is not None,
            bos_token_id=bos,
            spaces=(chosen,),
        )
        scales = {s: alone.rms(s) for s in alone.states} if chosen == "resid" else {}
        if quantity == "emergence":
            micro = mean_micro_bits(
                alone, [block], [t], space=chosen, scales=scales, sigma=sigma, seed=seed, device=device
            )[0, 0]
    return EmergenceMetric(
        prompts=prompts,
        layer=block,
        pos=t,
        reading=reading,
        space=chosen,
        sigma=sigma,
        seed=seed,
        micro=micro,
        reduce=reduce,
        scales=scales,
        offset=0 if bos is None else 1,
        device=device,
    )


@with_torch_defaults
def model_tokens(
    model: Any,
    prompts: PromptSet | Int[Tensor, "prompt pos"],
    *,
    prepend_bos: bool | None = None,
    bos_token_id: int | None = None,
) -> Int[Tensor, "prompt input"]:
    """Return the tokens to run: the prompts behind BOS, where the model has one, on its device.

    Example:
        >>> model_tokens(model, from_tokens(tokens), prepend_bos=False).shape
        torch.Size([8, 3])
    """
    compat.check_model(model)
    bos = compat.bos_token(model, prepend_bos, bos_token_id)
    return with_prefix(as_prompt_set(prompts).tokens, bos).to(compat.device(model))
