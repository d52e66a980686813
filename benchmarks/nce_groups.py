"""How many critics of `nce` to train as one batched network: seconds for each group size, in turns.

    python -m benchmarks.nce_groups                # sizes 1, 3, 9 and 18, three turns: about four minutes
    python -m benchmarks.nce_groups --turns 1

A chain of 19 states of 2,048 rows and 64 coordinates, one position, five folds: 90 critics, grouped within
folds. Values must not depend on the size: the largest difference is printed beside the seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from unittest import mock

import torch

from tl_emergence.estimators import ESTIMATORS, StateChain, nce

STATES, ROWS, WIDTH = 19, 2_048, 64


def chain_of_states() -> StateChain:
    """Return states each of which is a bent rotation of the one before, with noise."""
    draws = torch.Generator().manual_seed(0)
    states = [torch.randn(ROWS, WIDTH, generator=draws)]
    for _ in range(STATES - 1):
        turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=draws)).Q
        states.append(torch.tanh(states[-1] @ turn) + 0.7 * torch.randn(ROWS, WIDTH, generator=draws))
    pairs = [(i, i + 1) for i in range(STATES - 1)]
    return StateChain("groups", states, tuple(range(STATES)), pairs, torch.arange(ROWS)[None, :])


def main() -> None:
    """Print a table of seconds, of ratios to one after another, and of differences."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 3, 9, 18])
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    chain = chain_of_states()
    seconds: dict[int, list[float]] = {size: [] for size in asked.sizes}
    bits = {}
    for _ in range(asked.turns):
        for size in asked.sizes:
            with mock.patch.object(nce, "GROUP", size):
                start = time.perf_counter()
                bits[size] = ESTIMATORS["nce"].chain(chain, sigmas=(0.0,)).bits
                seconds[size].append(time.perf_counter() - start)
    first = asked.sizes[0]
    print(f"{torch.get_num_threads()} threads, {(STATES - 1) * 5} critics, median of {asked.turns}")
    for size in asked.sizes:
        ratios = [a / b for a, b in zip(seconds[first], seconds[size], strict=True)]
        gap = float((bits[size] - bits[first]).abs().max())
        print(
            f"group of {size:2d}: {statistics.median(seconds[size]):6.1f} s, "
            f"{statistics.median(ratios):.2f} times as fast as {first}, differs by {gap:.1e} bits"
        )


if __name__ == "__main__":
    main()
