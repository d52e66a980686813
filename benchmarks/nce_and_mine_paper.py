"""How much sooner `nce` reaches its held-out value than `mine_paper` would end at the published settings.

    python -m benchmarks.nce_and_mine_paper       # about two minutes; needs build/model_states/seed-1

One pair of states of Gemma 3 270M (16 labels, 2.5 bits), N = 6,000, 640 coordinates. `nce` runs whole. Of
`mine_paper` a few of its 10,000 steps are timed, on the same rows, and the rest is extrapolated: every step
is the same work. Turns alternate; the ratio is taken within a turn.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from benchmarks.known_answers import cases
from benchmarks.pipeline import machine
from tl_emergence import mutual_information
from tl_emergence.estimators.mine_paper import PUBLISHED

CASE = "label-16 L6-label-L12-after read 2.5 bits"
WIDTH = 640  # `mine_paper` drops an incomplete segment of 768: it gets the width of the model


def main() -> None:
    """Print seconds of both, and the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=40, help="steps of mine_paper to time, besides one")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    (case,) = (case for case in cases("model_states") if case.name == CASE)
    x, y = case.draw(6_000, asked.seed)
    nce, step, value = [], [], None
    for _ in range(asked.turns):
        start = time.perf_counter()
        value = mutual_information(x, y, estimator="nce", seed=asked.seed)
        nce.append(time.perf_counter() - start)
        spent = []
        for steps in (1, 1 + asked.steps):
            start = time.perf_counter()
            mutual_information(x, y, estimator="mine_paper", steps=steps, segment=WIDTH, seed=asked.seed)
            spent.append(time.perf_counter() - start)
        step.append((spent[1] - spent[0]) / asked.steps)
    assert value is not None
    ratios = [PUBLISHED["steps"] * b / a for a, b in zip(nce, step, strict=True)]
    print(f"{machine()}; {CASE}, N = {len(x):,}, median of {asked.turns} turns")
    print(f"nce: {statistics.median(nce):.1f} s to {value.bits:.2f} +- {value.stderr:.2f} bits, held out")
    a_step = statistics.median(step)
    print(
        f"mine_paper: {a_step:.2f} s a step, so {PUBLISHED['steps'] * a_step:,.0f} s for "
        f"{PUBLISHED['steps']:,} steps (extrapolated from {asked.steps})"
    )
    print(f"ratio: {statistics.median(ratios):.0f} ({min(ratios):.0f} to {max(ratios):.0f})")


if __name__ == "__main__":
    main()
