"""Seconds that a whole model takes: every block and eight positions of Gemma 3 270M, 2,048 country lists.

    python -m benchmarks.whole_model                            # gaussian and nce, nothing else running
    python -m benchmarks.whole_model --estimator gaussian --turns 3

From the loaded model to the result: capture of the prompts and of the tokens alone, macro and micro, 18
blocks by 8 positions. Loading the model is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import tl_emergence as tle
from benchmarks.pipeline import MODEL, machine
from tl_emergence import models


def main() -> None:
    """Print a row an estimator: the median of the seconds, their range, and what was computed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--estimator", nargs="+", default=["gaussian", "nce"])
    parser.add_argument("--n", type=int, default=2_048)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model = models.load(MODEL)
    prompts = tle.prompts.demonstrations("country", model, n=asked.n)
    print(f"{machine()}; N = {asked.n:,}\n")
    print("| estimator | cells | median s | range | turns |\n|---|---|---|---|---|")
    for name in asked.estimator:
        seconds, result = [], None
        for _ in range(asked.turns):
            start = time.perf_counter()
            result = tle.information_emergence(model, prompts, estimator=name)
            seconds.append(time.perf_counter() - start)
        assert result is not None
        blocks, positions = result.macro.shape
        print(
            f"| {name} | {blocks} x {positions} | {statistics.median(seconds):.0f} | "
            f"{min(seconds):.0f} to {max(seconds):.0f} | {asked.turns} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
