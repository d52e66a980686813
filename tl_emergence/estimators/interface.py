"""What every estimator takes and gives. Knows tensors only: no model, no prompt, no plot."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Direction = Literal["exact", "lower bound", "upper bound", "none"]

SATURATED_ABOVE = 0.9
"""A value above this fraction of its cap is called saturated."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """A mutual information in bits, with what is needed to judge it.

    Attributes:
        bits: The estimate.
        stderr: Its standard error; 0 for an exact value, and where `nce` or `vinfo` set what is within
            chance to exactly 0.
        cap_bits: What the estimator cannot exceed at this sample size (log2 of the scored rows), or None.
        saturated: Whether `bits` is above 0.9 of the cap: then the cap was measured, not the states.
        direction: Which side of the truth the expected value lies on.
        pointwise: Contribution of each row, whose mean is `bits`, where the estimator has such.
        settings: Everything needed to repeat the estimate: JSON values only.
        null: The same estimate after the rows of y were deranged, where that was asked for.
        certified_bits: A lower confidence limit of the mutual information, of the confidence in the
            settings, where the estimator proves one.
        of_finite_set: Whether `bits` describes the given rows only, and not the population that they were
            drawn from: independent rows then read log2 N, not 0.
    """

    bits: float
    stderr: float
    cap_bits: float | None
    saturated: bool
    direction: Direction
    pointwise: Float[Tensor, " sample"] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    null: Estimate | None = None
    certified_bits: float | None = None
    of_finite_set: bool = False

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the estimate by its standard error: bits -+ 1.96 stderr."""
        return self.bits - 1.96 * self.stderr, self.bits + 1.96 * self.stderr

    def __repr__(self) -> str:
        cap = "" if self.cap_bits is None else f", cap {self.cap_bits:.2f}"
        flag = ", saturated" if self.saturated else ""
        name = self.settings.get("estimator", "estimate")
        scope = " of this finite set" if self.of_finite_set else ""
        return f"Estimate({self.bits:.3f} ± {self.stderr:.3f} bits{scope}, {name}{cap}{flag})"


@dataclass(frozen=True, eq=False)
class StateChain:
    """Consecutive states of the same rows, with one or more samples drawn from the rows.

    A macro chain has one series: the prompts at one position. A micro chain has one series a position,
    all over the same distinct tokens, so that one pass over the rows serves every position.

    Attributes:
        name: Name of the chain; random draws are seeded by it.
        states: One matrix of distinct rows a state, in the coordinates to be measured.
        numbers: The number l of each state, ascending; neighbours have different parity. Draws are seeded
            by it too, so a value does not depend on which other states are measured with it.
        pairs: Which neighbours are scored: (i, i + 1) for consecutive entries of `states`.
        rows: For each series, which row each sample has.
        groups: The same number for samples that are copies of one prompt: estimators that train on some
            samples what they test on others see one of them. None where all samples are distinct. Rows that
            recur in different prompts, such as those of a token, are draws and no copies.
    """

    name: str
    states: Sequence[Float[Tensor, "row d_model"]]
    numbers: Sequence[int]
    pairs: Sequence[tuple[int, int]]
    rows: Int[Tensor, "series sample"]
    groups: Int[Tensor, " sample"] | None = None


@dataclass(frozen=True, eq=False)
class ChainEstimate:
    """Estimates for every noise level, pair of neighbouring states, and series of a chain.

    Attributes:
        bits: The estimates.
        stderr: Their standard errors.
        mean_stderr: Standard error of the mean of series 0..t, draws shared between series accounted for.
        cap_bits: As in `Estimate`.
        direction: As in `Estimate`.
        pointwise: Contribution of each sample.
        subsamples: The same estimates on subsets of the samples without replacement, by their size.
        closest: The smallest distance between two distinct rows of each state.
        settings: JSON values only.
        replicates: The estimates without one block of samples each, where the error is a jackknife's: so
            that the error of a difference accounts for the samples that both sides share.
    """

    bits: Float[Tensor, "sigma pair series"]
    stderr: Float[Tensor, "sigma pair series"]
    mean_stderr: Float[Tensor, "sigma pair series"]
    cap_bits: float | None
    direction: Direction
    pointwise: Float[Tensor, "sigma pair series sample"] | None
    subsamples: Mapping[int, Float[Tensor, "sigma pair series"]]
    closest: Float[Tensor, " state"]
    settings: Mapping[str, Any]
    replicates: Float[Tensor, "sigma pair series block"] | None = None

    @property
    def saturated(self) -> Bool[Tensor, "sigma pair series"]:
        """Where the estimate is above 0.9 of its cap."""
        if self.cap_bits is None:
            return torch.zeros_like(self.bits, dtype=torch.bool)
        return self.bits > SATURATED_ABOVE * self.cap_bits


@runtime_checkable
class Estimator(Protocol):
    """An estimator of mutual information: its name, what its number means, and how to get it."""

    @property
    def name(self) -> str:
        """The name that `estimator=` takes."""
        ...

    @property
    def measures(self) -> str:
        """The question that the number answers, in one line."""
        ...

    @property
    def default_sigma(self) -> float:
        """Noise level for a single pair of states when the caller names none."""
        ...

    @property
    def default_emergence_sigma(self) -> float:
        """Noise level for emergence when the caller names none; above 0 where it needs one."""
        ...

    @property
    def null_means(self) -> str:
        """What to expect of the estimate when the rows of y are deranged, and why."""
        ...

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options that it takes besides sigma and seed."""
        ...

    @property
    def check(self) -> Callable[[Sequence[float], Mapping[str, Any]], None]:
        """Raise SettingError for noise levels or options that cannot be, before anything is computed."""
        ...

    @property
    def pair(self) -> Callable[..., Estimate]:
        """Estimate I(x; y) for two checked matrices as they are.

        Called with x and y, and sigma, seed and the estimator's own options by keyword.
        """
        ...

    @property
    def chain(self) -> Callable[..., ChainEstimate]:
        """Estimate every scored pair of a `StateChain`, at every noise level.

        Called with the chain, and sigmas, seed and the estimator's own options by keyword.
        """
        ...


def generator_for(seed: int, *label: object) -> torch.Generator:
    """Return a CPU generator seeded by a number and a label: the same draws for the same thing, always."""
    text = "|".join(map(str, (seed, *label)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
