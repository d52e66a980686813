"""Pairs with known information, against which every estimator is measured.

Example:
    >>> from benchmarks.known_answers import cases
    >>> case = cases("gaussian")[0]
    >>> x, y = case.draw(1000, 0)  # 1,000 rows, seed 0
    >>> case.truth_bits
    0.5
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from benchmarks.known_answers.benchmark_mi import benchmark_mi
from benchmarks.known_answers.case import Case, Pair
from benchmarks.known_answers.constellations import constellations
from benchmarks.known_answers.gaussians import gaussians
from benchmarks.known_answers.model_states import model_states
from benchmarks.known_answers.negative_controls import negative_controls
from benchmarks.known_answers.prompt_sets import prompt_sets

FAMILIES: dict[str, Callable[[], Iterable[Case]]] = {
    "gaussian": gaussians,
    "constellation": constellations,
    "prompt_set": prompt_sets,
    "negative_control": negative_controls,
    "benchmark_mi": benchmark_mi,
    "model_states": model_states,
}
"""What makes the cases of each family. The last two read what `make benchmark-mi model-states` makes."""


def cases(family: str, *names: str) -> list[Case]:
    """Return the cases of a family, or those with the names given, in the order of the family.

    Raises:
        KeyError: No such family, or no case of such a name.
        FileNotFoundError: A family of stored arrays that are not made yet.
    """
    if family not in FAMILIES:
        raise KeyError(f"no family {family!r}: there are {', '.join(FAMILIES)}")
    found = {case.name: case for case in FAMILIES[family]()}
    missing = [name for name in names if name not in found]
    if missing:
        raise KeyError(f"no case {missing} in {family}: there are {', '.join(found)}")
    return [case for name, case in found.items() if not names or name in names]


__all__ = ["FAMILIES", "Case", "Pair", "cases"]
