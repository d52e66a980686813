"""How many faults are injected: few in `make test`, thousands in `make test-faults`."""

from __future__ import annotations

import os
from collections import Counter

LONG = os.environ.get("TL_EMERGENCE_FAULTS") == "long"
"""Whether the long counts were asked for."""


def count(short: int, long: int) -> int:
    """Return how many faults to inject."""
    return long if LONG else short


def report(what: str, outcomes: Counter[str]) -> None:
    """Print one line of counts; pytest shows it with -s."""
    parts = ", ".join(f"{number:,} {outcome}" for outcome, number in sorted(outcomes.items()))
    print(f"\n{what}: {sum(outcomes.values()):,} in all: {parts}")
