"""Macro and micro residual streams of a prompt set, each distinct prefix and each distinct token once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from tl_emergence.capture import compat
from tl_emergence.capture.checks import (
    check_finite,
    check_fits_model,
    indices,
    not_finite,
)
from tl_emergence.capture.cuts import BLOCKS, Cut
from tl_emergence.capture.fingerprint import model_fingerprint
from tl_emergence.capture.forward import stream_residuals, with_prefix
from tl_emergence.capture.spaces import Reading, Space, check_space
from tl_emergence.capture.storage import BatchJournal, StateStore
from tl_emergence.checks import integer, sequence, truth
from tl_emergence.errors import SettingError, TokenError
from tl_emergence.files import as_path
from tl_emergence.prompts.prefixes import first_rows, number_by_appearance, prefix_ids
from tl_emergence.prompts.prompt_set import PromptSet
from tl_emergence.torch_state import with_torch_defaults

_PREFLIGHT_ROWS = 3


@dataclass(frozen=True, eq=False)
class CapturedStates:
    """The residual streams that a score needs, once for each distinct prefix and token.

    Attributes:
        prompts: The prompt set.
        layers: The blocks to score; block l needs h_l and h_{l+1}.
        positions: The content positions to score.
        states: The numbers l of the states held, ascending.
        macro: For each position, h_l of its distinct prefixes.
        prefix_rows: For each position, which row of `macro` each prompt has.
        micro: h_l of the distinct tokens at positions 0..max(positions), each run alone.
        token_rows: Which row of `micro` each prompt has, at each position 0..max(positions).
        reading: The norms that read the states.
        scales: The root mean square of each state over all prompts and all their content positions, where
            the space `resid`, which divides by it, was announced; else None.
        provenance: What was run and how: JSON values only.
    """

    prompts: PromptSet
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    states: tuple[int, ...]
    macro: tuple[Float[Tensor, "state _row d_model"], ...]
    prefix_rows: tuple[Int[Tensor, " prompt"], ...]
    micro: Float[Tensor, "state token d_model"]
    token_rows: Int[Tensor, "pos prompt"]
    reading: Reading
    scales: tuple[float, ...] | None
    provenance: Mapping[str, Any]
    keep_alive: object = None  # the store, whose temporary files last as long as the states

    def __repr__(self) -> str:
        what = f"blocks {list(self.layers)}, positions {list(self.positions)}"
        return f"CapturedStates({len(self.prompts):,} prompts of {self.prompts.name!r}, {what})"

    def rms(self, state: int) -> float:
        """Return the root mean square of h_l over all prompts and all their content positions.

        Raises:
            SettingError: The states were captured without it.
        """
        if self.scales is None:
            raise SettingError(
                "the scale of the raw stream was not captured",
                seen="states captured without spaces=('resid',)",
                expected="the space 'resid' announced to the capture, which then runs whole prompts",
                fix="Capture again with spaces=('resid',).",
            )
        scale = self.scales[self.states.index(state)]
        if not math.isfinite(scale):
            raise not_finite(f"h_{state}, at some position")
        return scale


@with_torch_defaults
def capture_states(
    model: Any,
    prompts: PromptSet,
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    prepend_bos: bool | None = None,
    bos_token_id: int | None = None,
    batch_size: int = 128,
    spaces: Sequence[Space] = (),
    folder: str | PathLike[str] | None = None,
    progress: bool = False,
    cut: Cut = BLOCKS,
) -> CapturedStates:
    """Run a model over a prompt set and keep the residual streams that emergence needs.

    Each distinct prompt runs once and each distinct prefix is kept once; each distinct token runs once,
    alone (behind BOS, where the model has one). The forward pass ends at the last state needed and
    starts nothing after it. States are kept in float32 (float64 for float64 models), in memory up to
    512 MiB and memory-mapped on disk above.

    Args:
        model: A HookedTransformer or TransformerBridge. Hooks that you have put on it stay in force.
        prompts: The prompt set.
        layers: Blocks to score, all by default; negative numbers count from the end.
        positions: Content positions to score, all by default; negative numbers count from the end.
        prepend_bos: Put BOS before every prompt and every single token; the model's own habit by default.
        bos_token_id: The BOS token, where the tokenizer does not say.
        batch_size: Prompts a forward pass.
        spaces: The spaces in which the states will be seen, so that one that cannot be had is refused
            before anything runs. For "resid" prompts are run to their end: it needs the overall RMS.
        folder: Keep states and a journal there, so that a run that was stopped goes on.
        progress: Show progress bars on standard error.
        cut: Where the stream is cut. With `halves.HALVES` the `layers` and `states` of what is returned are
            numbered by half-blocks.

    Raises:
        HookError: Not a TransformerLens model, or one whose hooks do not mean what they should.
        TokenError: Tokens outside the vocabulary, BOS or padding among them, prompts too long.
        SettingError: A layer or position out of range, a batch size below 1, a space that cannot be had, a
            folder of another capture, a folder together with hooks of your own.
        StateError: NaN or infinity in a state.
        ResultFileError: A folder that cannot be written.

    Cost: one forward pass without unembedding over the distinct prompts, and one over the distinct
    tokens; states x distinct prefixes x d_model numbers of storage.

    Example:
        >>> states = capture_states(model, from_tokens(tokens), positions=[2])
        >>> states.states, states.macro[0].shape  # h_0, h_1, h_2 of eight distinct prompts
        ((0, 1, 2), torch.Size([3, 8, 16]))
    """
    compat.check_model(model)
    progress, spaces = truth("progress", progress), sequence("spaces", spaces, "names")
    folder = None if folder is None else as_path("folder", folder)
    if not isinstance(prompts, PromptSet):
        raise TokenError(
            "not a prompt set",
            seen=type(prompts).__name__,
            expected="a PromptSet",
            fix="Pass prompts.from_tokens(tokens).",
        )
    n_layers = compat.n_layers(model)
    blocks = indices("layer", layers, n_layers)
    wanted = indices("position", positions, prompts.n_positions)
    batch_size = integer("batch size", batch_size, least=1)
    bos = compat.bos_token(model, prepend_bos, bos_token_id)
    check_fits_model(model, prompts, bos)
    tokens = prompts.tokens[:, : max(wanted) + 1]
    pieces = cut.pieces(blocks)
    held = tuple(sorted({state for piece in pieces for state in (piece, piece + 1)}))
    device = compat.device(model)
    probe = with_prefix(tokens[:_PREFLIGHT_ROWS], bos).to(device)
    report = cut.preflight(model, probe)
    reading = Reading(report.norms, report.reasons, report.folded)
    for space in spaces:
        check_space(space, reading, held)

    prefixes = prefix_ids(prompts.tokens if "resid" in spaces else tokens)
    runs = prompts.tokens[first_rows(prefixes[-1]), : len(prefixes)]
    repeats = torch.bincount(prefixes[-1]) if "resid" in spaces else None
    run_prefixes = prefix_ids(runs)
    token_rows = number_by_appearance(tokens.t().reshape(-1)).view(tokens.shape[1], -1)
    vocabulary = tokens.t().reshape(-1)[first_rows(token_rows.reshape(-1))]

    dtype = torch.promote_types(next(model.parameters()).dtype, torch.float32)
    provenance = {
        **compat.describe(model),
        "gains_folded": report.folded,
        "centred": report.centred,
        "bos_token_id": bos,
        "batch_size": batch_size,
        "state_dtype": str(dtype).removeprefix("torch."),
    }
    # Before any file is made or resized: a folder of another capture must stay as it is.
    if folder is None:
        journal = BatchJournal(None, {})
    else:
        request = {
            **provenance,
            "model_fingerprint": model_fingerprint(model),
            "tl_emergence": compat.package_version("tl-emergence"),
            "prompts": prompts.content_hash,
            "states": held,
            "pieces_per_block": cut.per_block,
            "positions": wanted,
            "tokens_run": len(prefixes),
            "scales": repeats is not None,
        }
        journal = BatchJournal(folder / "journal.jsonl", request)
    width = compat.d_model(model)
    rows = [int(run_prefixes[t].max()) + 1 for t in wanted]
    size = len(held) * (sum(rows) + len(vocabulary)) * width * dtype.itemsize
    store = StateStore(size, folder)
    macro = tuple(
        store.tensor(f"position-{t}", (len(held), n, width), dtype) for t, n in zip(wanted, rows, strict=True)
    )
    micro = store.tensor("micro", (len(held), len(vocabulary), width), dtype)
    offset = 0 if bos is None else 1
    passes = [
        *_batches("micro", vocabulary[:, None], batch_size, [(offset, torch.arange(len(vocabulary)), micro)]),
        *_batches(
            "macro",
            runs,
            batch_size,
            [(offset + t, first_rows(run_prefixes[t]), macro[i]) for i, t in enumerate(wanted)],
            repeats,
        ),
    ]
    with tqdm(total=len(passes), desc="residual streams", unit="batch", disable=not progress) as bar:
        for name, batch, targets, counts in passes:
            written = [target for _, _, target in targets]
            if not journal.has(name, written):
                energy: list[float] = []
                writer = _writer(held, targets, offset, counts, energy)
                stream_residuals(model, with_prefix(batch, bos).to(device), held, writer, cut.hook)
                check_finite(held, [(position - offset, t) for position, _, t in targets], cut.name)
                journal.add(name, written, energy)
            bar.update()
    scales = tuple((total / prompts.tokens.numel()) ** 0.5 for total in journal.energy())
    return CapturedStates(
        prompts=prompts,
        layers=pieces,
        positions=wanted,
        states=held,
        macro=macro,
        prefix_rows=tuple(prefixes[t] for t in wanted),
        micro=micro,
        token_rows=token_rows,
        reading=reading,
        scales=scales or None,
        provenance=provenance,
        keep_alive=store,
    )


Target = tuple[int, Int[Tensor, " _row"], Float[Tensor, "state _row d_model"]]
"""Where a batch's states go: position in the input, rows of the batch, slice of the store."""


def _batches(
    name: str,
    tokens: Int[Tensor, "row pos"],
    batch_size: int,
    kept: list[Target],
    repeats: Int[Tensor, " row"] | None = None,
) -> Iterator[tuple[str, Int[Tensor, "row pos"], list[Target], Int[Tensor, " row"] | None]]:
    """Cut a run into batches; each prefix is taken from the first prompt that has it.

    Prefixes are numbered by first appearance, so those that a batch brings are one slice of the store.
    """
    for start in range(0, len(tokens), batch_size):
        end = min(start + batch_size, len(tokens))
        targets: list[Target] = []
        for position, first, store in kept:
            low, high = torch.searchsorted(first, torch.tensor([start, end])).tolist()
            if high > low:
                targets.append((position, first[low:high] - start, store[:, low:high]))
        counts = None if repeats is None else repeats[start:end]
        yield f"{name}-{start}-{end}", tokens[start:end], targets, counts


def _writer(
    held: tuple[int, ...],
    targets: list[Target],
    offset: int,
    counts: Int[Tensor, " batch"] | None,
    energy: list[float],
) -> Callable[[int, Tensor], None]:
    """Return what is done with each state of a batch: its rows kept, and its mean squares added up.

    `energy` gets, state by state, the sum over content positions and prompts (each counted as often as the
    set holds it) of the mean square of the state; nothing where there are no counts.
    """
    place = {state: index for index, state in enumerate(held)}

    def write(state: int, tensor: Float[Tensor, "batch pos d_model"]) -> None:
        by_position = rearrange(tensor, "batch pos d_model -> pos batch d_model")
        for position, rows, store in targets:
            store[place[state]].copy_(by_position[position][rows.to(tensor.device)])
        if counts is not None:
            content = tensor[:, offset:].to(torch.promote_types(tensor.dtype, torch.float32))
            by_prompt = content.square().mean(dim=-1).sum(dim=1).cpu().double()
            energy.append(float(by_prompt @ counts.double()))

    return write
