"""From captured states to scores: macro and micro through one estimator, with one set of settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from tl_emergence.capture.protected import no_grad
from tl_emergence.capture.spaces import Space, check_space, in_space
from tl_emergence.capture.states import CapturedStates
from tl_emergence.ceiling import Micro, exact_emergence
from tl_emergence.checkpoints import Workspace
from tl_emergence.estimators.exact import closest_distance
from tl_emergence.estimators.folds import distinct_rows
from tl_emergence.estimators.interface import ChainEstimate, Estimator, StateChain
from tl_emergence.estimators.jackknife import jackknife_stderr
from tl_emergence.results import EmergenceResult, Subsample

# A first position whose macro state is the token's own (nothing came before it but BOS) shares its value
# with micro, so that emergence there is exactly 0. The two are compared up to this, relative to their RMS.
_SAME_STATE = {"float64": 1e-9, "float32": 1e-3, "float16": 5e-2, "bfloat16": 1e-1}
_STATES_IN_MEMORY = 512 * 2**20


@no_grad
def score(
    states: CapturedStates,
    *,
    estimator: Estimator,
    sigmas: Sequence[float],
    space: Space,
    seed: int,
    micro: Micro,
    options: Mapping[str, Any],
    workspace: Workspace,
    part: str,
    device: torch.device,
    progress: bool,
) -> list[EmergenceResult]:
    """Score captured states, one result a sigma.

    Every (part, position) is kept in the workspace when it is done and not computed again.
    """
    check_space(space, states.reading, states.states)
    scales = [states.rms(s) if space == "resid" else 1.0 for s in states.states]
    prompts = distinct_rows(states.prompts.tokens)  # copies of one prompt stay in one fold
    pairs = [(states.states.index(layer), states.states.index(layer + 1)) for layer in states.layers]

    def view_of(raw: Float[Tensor, "state row d_model"]) -> _SpaceView:
        return _SpaceView(raw, states, space, scales, device)

    def measure(
        name: str, raw: Float[Tensor, "state row d_model"], rows: Int[Tensor, "series sample"]
    ) -> ChainEstimate:
        found = workspace.load(f"{part}-{space}-{name}")
        if found is None:
            view = view_of(raw)
            chain = StateChain(name, view.held(), states.states, pairs, rows, prompts)
            found = estimator.chain(chain, sigmas=sigmas, seed=seed, **options)
            workspace.save(f"{part}-{space}-{name}", found)
        return found

    with tqdm(
        total=1 + len(states.positions), desc=f"{estimator.name} ({space})", unit="pos", disable=not progress
    ) as bar:
        token_rows = states.token_rows if micro == "alone" else states.token_rows[:1]
        alone = measure("micro", states.micro, token_rows)
        bar.update()
        macro: list[ChainEstimate | None] = []
        closest: list[Float[Tensor, " state"]] = []
        for t, raw, rows in zip(states.positions, states.macro, states.prefix_rows, strict=True):
            shared = t == 0 and _is_micro(states, raw, rows)
            found = None if shared else measure(f"macro-{t}", raw, rows[None, :])
            macro.append(found)
            gaps = [closest_distance(x) for x in view_of(raw)] if found is None else found.closest
            closest.append(torch.as_tensor(gaps, dtype=torch.float64))
            bar.update()
    distances = _closest(states, closest)
    return [
        _result(states, alone, macro, distances, s, sigma, space, seed, micro, scales)
        for s, sigma in enumerate(sigmas)
    ]


class _SpaceView(Sequence[Tensor]):
    """States in the coordinates of a space, computed when they are asked for."""

    def __init__(
        self,
        raw: Float[Tensor, "state row d_model"],
        states: CapturedStates,
        space: Space,
        scales: Sequence[float],
        device: torch.device,
    ) -> None:
        self._raw = raw
        self._states = states
        self._space: Space = space
        self._scales = scales
        self._device = device

    def __len__(self) -> int:
        return len(self._raw)

    def __getitem__(self, index: Any) -> Any:
        state = self._states.states[index]
        x = self._raw[index].to(self._device)
        return in_space(x, state, self._space, self._states.reading, self._scales[index])

    def held(self) -> Sequence[Tensor]:
        """Return all states at once where they are small, else this view."""
        small = self._raw.numel() * self._raw.element_size() <= _STATES_IN_MEMORY
        return [self[i] for i in range(len(self))] if small else self


def _is_micro(
    states: CapturedStates, raw: Float[Tensor, "state row d_model"], rows: Int[Tensor, " prompt"]
) -> bool:
    """Return whether the macro states of position 0 are those of the tokens run alone."""
    alone = states.micro[:, states.token_rows[0]]
    tolerance = _SAME_STATE[states.provenance.get("dtype", "float32")]
    for whole, single in zip(raw, alone, strict=True):
        gap = (whole[rows] - single).abs().max()
        if not gap <= tolerance * single.square().mean().sqrt():
            return False
    return True


def _result(
    states: CapturedStates,
    alone: ChainEstimate,
    macro: Sequence[ChainEstimate | None],
    closest: Float[Tensor, "end layer pos"],
    s: int,
    sigma: float,
    space: Space,
    seed: int,
    micro: Micro,
    scales: Sequence[float],
) -> EmergenceResult:
    """Put one sigma's numbers together: columns are positions, `None` in macro means shared with micro."""
    columns = list(states.positions)
    series = columns if micro == "alone" else [0] * len(columns)
    mean_micro = _running_mean(alone.bits[s])[:, series]

    def macro_of(pick: Callable[[ChainEstimate], Tensor]) -> Tensor:
        """Stack [layer] columns of macro; a shared column is micro's first series."""
        return torch.stack([pick(alone if found is None else found) for found in macro], dim=1)

    shared = torch.tensor([found is None for found in macro])
    bits = macro_of(lambda e: e.bits[s, :, 0])
    macro_stderr = macro_of(lambda e: e.stderr[s, :, 0])
    stderr = _stderr_of_difference(alone, macro, s, series, macro_stderr)
    stderr[:, shared] = 0.0
    subsamples = []
    for n, micro_bits in alone.subsamples.items():
        part = macro_of(lambda e, n=n: e.subsamples[n][s, :, 0])
        subsamples.append(Subsample(n, part, part - _running_mean(micro_bits[s])[:, series]))
    return EmergenceResult(
        macro=bits,
        micro=alone.bits[s][:, series],
        emergence=bits - mean_micro,
        macro_stderr=macro_stderr,
        micro_stderr=alone.stderr[s][:, series],
        stderr=stderr,
        macro_saturated=macro_of(lambda e: e.saturated[s, :, 0]),
        micro_saturated=alone.saturated[s][:, series],
        exact=exact_emergence(states.prompts, layers=states.layers, positions=columns, micro=micro),
        layers=states.layers,
        positions=states.positions,
        labels=tuple(states.prompts.labels[t] for t in columns),
        n_prompts=len(states.prompts),
        cap_bits=alone.cap_bits,
        closest=closest,
        subsamples=tuple(subsamples),
        macro_pointwise=_pointwise([alone if e is None else e for e in macro], s, [0] * len(macro)),
        micro_pointwise=_pointwise([alone] * len(series), s, series),
        settings={
            **_shared_settings(states, alone, macro),
            "sigma": sigma,
            "space": space,
            "seed": seed,
            "micro": micro,
            # The difference of two values that err to the same side errs to neither.
            "direction": "exact" if alone.direction == "exact" else "none",
            "macro_shared_with_micro_at_position_0": bool(shared.any()),
            "prompts": states.prompts.name,
            "prompts_hash": states.prompts.content_hash,
            **states.prompts.described_copies(),
            "n_positions": states.prompts.n_positions,
            "prompts_details": dict(states.prompts.details),
            "skipped_cells": [],
            **({"resid_scales": list(scales)} if space == "resid" else {}),
            **states.provenance,
        },
    )


def _shared_settings(
    states: CapturedStates, alone: ChainEstimate, macro: Sequence[ChainEstimate | None]
) -> dict[str, Any]:
    """Return the estimator's settings; those that it chose chain by chain stand under `by_chain`."""
    measured = zip(states.positions, macro, strict=True)
    chains = {"micro": alone, **{f"macro-{t}": found for t, found in measured if found is not None}}
    common = {
        key: value
        for key, value in alone.settings.items()
        if all(chain.settings[key] == value for chain in chains.values())
    }
    by_chain = {
        name: {key: value for key, value in chain.settings.items() if key not in common}
        for name, chain in chains.items()
    }
    return {**common, "by_chain": by_chain}


def _stderr_of_difference(
    alone: ChainEstimate,
    macro: Sequence[ChainEstimate | None],
    s: int,
    series: Sequence[int],
    macro_stderr: Float[Tensor, "layer pos"],
) -> Float[Tensor, "layer pos"]:
    """Return the error of macro minus mean micro: of independent draws, or over the prompts both share."""
    if alone.replicates is None:
        return (macro_stderr.square() + alone.mean_stderr[s][:, series].square()).sqrt()
    whole = [(alone if found is None else found).replicates for found in macro]
    stacked = torch.stack([part[s, :, 0] for part in whole if part is not None], dim=1)
    single = alone.replicates[s]
    counts = torch.arange(1, single.shape[1] + 1)[:, None]
    return jackknife_stderr(stacked - (single.cumsum(dim=1) / counts)[:, series])


def _running_mean(bits: Float[Tensor, "pair series"]) -> Float[Tensor, "pair series"]:
    return bits.cumsum(dim=1) / torch.arange(1, bits.shape[1] + 1)


def _closest(
    states: CapturedStates, columns: Sequence[Float[Tensor, " state"]]
) -> Float[Tensor, "end layer pos"]:
    ends = [[states.states.index(layer + end) for layer in states.layers] for end in (0, 1)]
    return torch.stack([torch.stack([c[end] for c in columns], dim=1) for end in ends])


def _pointwise(
    estimates: Sequence[ChainEstimate], s: int, series: Sequence[int]
) -> Float[Tensor, "layer pos prompt"] | None:
    parts = [e.pointwise[s, :, k] for e, k in zip(estimates, series, strict=True) if e.pointwise is not None]
    return torch.stack(parts, dim=1) if parts else None
