"""Pointwise information between the states of chosen blocks and positions, clean or edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tl_emergence.capture.protected import no_grad
from tl_emergence.capture.spaces import Reading, Space, in_space
from tl_emergence.capture.states import CapturedStates
from tl_emergence.estimators import ESTIMATORS
from tl_emergence.estimators.interface import StateChain

States = Mapping[tuple[int, int], Float[Tensor, "prompt d_model"]]
"""h_l at a content position, by (l, position)."""


@no_grad
def macro_bits(
    states: States,
    layers: Sequence[int],
    positions: Sequence[int],
    *,
    reading: Reading,
    space: Space,
    scales: Mapping[int, float],
    sigma: float,
    seed: int,
    device: torch.device,
) -> Float[Tensor, "layer pos prompt"]:
    """Return the pointwise values of I(h_l^t ; h_{l+1}^t) at resolution sigma, every prompt a row.

    Equal seeds give equal draws: values of two sets of states differ by the states alone.
    """
    numbers = sorted({state for layer in layers for state in (layer, layer + 1)})
    pairs = [(numbers.index(layer), numbers.index(layer + 1)) for layer in layers]
    columns = []
    for t in positions:
        seen = [in_space(states[s, t].to(device), s, space, reading, scales.get(s, 1.0)) for s in numbers]
        rows = torch.arange(len(seen[0]))[None]
        columns.append(_pointwise(StateChain(f"macro-{t}", seen, numbers, pairs, rows), sigma, seed)[:, 0])
    return torch.stack(columns, dim=1)


@no_grad
def mean_micro_bits(
    alone: CapturedStates,
    layers: Sequence[int],
    positions: Sequence[int],
    *,
    space: Space,
    scales: Mapping[int, float],
    sigma: float,
    seed: int,
    device: torch.device,
) -> Float[Tensor, "layer pos prompt"]:
    """Return the mean over t' <= t of the pointwise values of the tokens s_t' run alone."""
    numbers = list(alone.states)
    pairs = [(numbers.index(layer), numbers.index(layer + 1)) for layer in layers]
    seen = [
        in_space(x.to(device), s, space, alone.reading, scales.get(s, 1.0))
        for s, x in zip(numbers, alone.micro, strict=True)
    ]
    found = _pointwise(StateChain("micro", seen, numbers, pairs, alone.token_rows), sigma, seed)
    counts = torch.arange(1, found.shape[1] + 1, dtype=found.dtype)[:, None]
    return (found.cumsum(dim=1) / counts)[:, list(positions)]


def _pointwise(chain: StateChain, sigma: float, seed: int) -> Float[Tensor, "layer series prompt"]:
    found = ESTIMATORS["noise"].chain(chain, sigmas=(sigma,), seed=seed)
    assert found.pointwise is not None
    return found.pointwise[0].double()
