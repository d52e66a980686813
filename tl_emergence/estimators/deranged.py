"""The null check: the same estimate after the rows of one state were given to other samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.checks import integer, seed_number
from tl_emergence.estimators.interface import ChainEstimate, Estimate, Estimator, StateChain, generator_for
from tl_emergence.estimators.jackknife import jackknife_stderr
from tl_emergence.torch_state import with_torch_defaults


@with_torch_defaults
def derangement(n_samples: int, seed: int, steps: int = 1) -> Int[Tensor, " sample"]:
    """Return whose row each sample gets: the one `steps` before it in a seeded cycle through all samples.

    Raises:
        SettingError: Fewer than two samples: there is no other row to give.

    Example:
        >>> once = derangement(5, 0)
        >>> bool((once == torch.arange(5)).any()), torch.equal(once[once], derangement(5, 0, 2))
        (False, True)
    """
    integer("number of samples", n_samples, least=2)
    seed, steps = seed_number(seed), integer("steps", steps)
    order = torch.randperm(n_samples, generator=generator_for(seed, "null"), device="cpu")
    out = torch.empty_like(order)
    out[order] = order.roll(steps % n_samples)
    return out


@dataclass(frozen=True)
class DerangedEstimator:
    """An estimator whose chains are deranged first: no sample keeps the partner that its state had.

    State number l of a sample is that of another one, l steps before it in one seeded cycle through all
    samples, so that every two neighbours are deranged by the same cycle: that of
    `mutual_information(null=True)`. Everything else stays: states, estimator, sigma, seed, N. Samples with
    equal rows may get each other's: what is deranged is samples, not values.

    A chain loses what its samples shared, so each series is estimated as a chain of its own on one row a
    sample: micro costs what as many macro positions cost.
    """

    of: Estimator

    @property
    def name(self) -> str:
        """The name of the estimator, and that it is deranged."""
        return f"{self.of.name}, deranged"

    @property
    def measures(self) -> str:
        """What the estimator finds where there is nothing but chance."""
        return f"what {self.of.name} finds in states that do not belong together"

    @property
    def default_sigma(self) -> float:
        """That of the estimator."""
        return self.of.default_sigma

    @property
    def default_emergence_sigma(self) -> float:
        """That of the estimator."""
        return self.of.default_emergence_sigma

    @property
    def null_means(self) -> str:
        """What to expect, and why."""
        return self.of.null_means

    @property
    def options(self) -> tuple[str, ...]:
        """Those of the estimator."""
        return self.of.options

    @property
    def check(self) -> Callable[[Sequence[float], Mapping[str, Any]], None]:
        """The check of the estimator."""
        return self.of.check

    def pair(
        self, x: Float[Tensor, "sample d_x"], y: Float[Tensor, "sample d_y"], *, seed: int = 0, **options: Any
    ) -> Estimate:
        """Estimate I(x; y) with the rows of y deranged."""
        return self.of.pair(x, y[derangement(len(y), seed).to(y.device)], seed=seed, **options)

    def chain(
        self, chain: StateChain, *, sigmas: Sequence[float], seed: int = 0, **options: Any
    ) -> ChainEstimate:
        """Estimate every series of a chain, deranged. Distances between states are not looked for again."""
        found = [
            self.of.chain(_deranged_series(chain, t, seed), sigmas=sigmas, seed=seed, **options)
            for t in range(len(chain.rows))
        ]
        return _joined(found, {"deranged": True, "null_means": self.null_means})


class _OneRowASample(Sequence[Tensor]):
    """The states of a series, deranged; each expanded to one row a sample when it is asked for."""

    def __init__(self, chain: StateChain, rows: Int[Tensor, " sample"], seed: int) -> None:
        self._chain = chain
        self._rows = rows
        self._seed = seed

    def __len__(self) -> int:
        return len(self._chain.states)

    def __getitem__(self, index: Any) -> Any:
        x, number = self._chain.states[index], self._chain.numbers[index]
        return x[self._rows[derangement(len(self._rows), self._seed, number)].to(x.device)]


def _deranged_series(chain: StateChain, t: int, seed: int) -> StateChain:
    rows = chain.rows[t]
    states = _OneRowASample(chain, rows, seed)
    samples = torch.arange(len(rows))[None]
    return StateChain(f"{chain.name}-{t}", states, chain.numbers, chain.pairs, samples, chain.groups)


def _joined(series: Sequence[ChainEstimate], settings: Mapping[str, Any]) -> ChainEstimate:
    """Put estimates of one series each together; their draws are independent, their samples the same."""
    first = series[0]

    def joined(parts: Sequence[Tensor | None]) -> Tensor | None:
        held = [part for part in parts if part is not None]
        return torch.cat(held, dim=2) if held else None

    bits, stderr = (torch.cat([getattr(e, name) for e in series], dim=2) for name in ("bits", "stderr"))
    replicates = joined([e.replicates for e in series])
    counts = torch.arange(1, len(series) + 1, dtype=torch.float64)
    of_mean = (
        stderr.square().cumsum(dim=2).sqrt() / counts
        if replicates is None
        else jackknife_stderr(replicates.cumsum(dim=2) / counts[:, None])
    )
    return ChainEstimate(
        bits=bits,
        stderr=stderr,
        mean_stderr=of_mean,
        cap_bits=first.cap_bits,
        direction=first.direction,
        pointwise=joined([e.pointwise for e in series]),
        subsamples={n: torch.cat([e.subsamples[n] for e in series], dim=2) for n in first.subsamples},
        closest=torch.full_like(first.closest, math.nan),
        replicates=replicates,
        settings={**first.settings, **settings},
    )
