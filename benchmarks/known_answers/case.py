"""One question with a known answer: how to draw rows, and how many bits they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

Pair = tuple[Float[Tensor, "sample d_x"], Float[Tensor, "sample d_y"]]
"""Paired rows, float32."""


@dataclass(frozen=True, eq=False)
class Case:
    """A pair of random vectors whose mutual information is known.

    Attributes:
        family: What it is one of: "gaussian", "constellation", "prompt_set", "benchmark_mi",
            "model_states" or "negative_control".
        name: Its name, unique within the family.
        truth_bits: I(x; y) in bits of the distribution that `draw` draws from.
        draw: Called with n and a seed, draws n independent pairs. It raises ValueError where more rows are
            asked for than there are, FileNotFoundError where arrays are not made yet.
        sigma: Size of the Gaussian noise that is part of the question: `draw` has added it already.
        points: For a finite constellation, returns its equally likely points without the noise: given these
            and `sigma`, `noise` estimates `truth_bits` with no error but that of its draws, and `exact` gives
            it where `sigma` is 0.
        most_rows: How many rows there are, where that is limited.
    """

    family: str
    name: str
    truth_bits: float
    draw: Callable[[int, int], Pair]
    sigma: float = 0.0
    points: Callable[[], Pair] | None = None
    most_rows: int | None = None

    @property
    def finite(self) -> bool:
        """Whether this is a finite constellation."""
        return self.points is not None

    def __repr__(self) -> str:
        return f"Case({self.family}: {self.name}, {self.truth_bits:.3f} bits)"


def check_rows(n: int, available: int, name: str) -> None:
    """Raise ValueError for more rows than there are."""
    if n > available:
        raise ValueError(f"{name} has {available:,} rows, {n:,} were asked for")
