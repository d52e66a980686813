"""The 40 tasks of benchmark-mi (Czyz et al., arXiv 2306.11078): low-dimensional, at most 2.5 bits.

The arrays are made by `make benchmark-mi`, or one seed by `make build/benchmark_mi/seed-3.npz`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.known_answers.case import Case, Pair, check_rows

FOLDER = Path(__file__).parents[2] / "build" / "benchmark_mi"
"""Where the arrays are: `seed-<seed>.npz`."""

ROWS = 10_000


def benchmark_mi(folder: Path = FOLDER) -> Iterator[Case]:
    """Yield one case a task, in the order of the benchmark.

    Raises:
        FileNotFoundError: No arrays there yet.
    """
    made = sorted(folder.glob("seed-*.npz"))
    if not made:
        raise FileNotFoundError(f"no arrays in {folder}: run `make benchmark-mi`")
    with np.load(made[0]) as arrays:
        truths = {str(task): float(arrays[f"{task}.nats"]) / math.log(2) for task in arrays["tasks"]}
    for task, truth in truths.items():

        def draw(n: int, seed: int, task: str = task) -> Pair:
            return _rows(folder / f"seed-{seed}.npz", task, n)

        yield Case("benchmark_mi", task, truth, draw, most_rows=ROWS)


def _rows(file: Path, task: str, n: int) -> Pair:
    if not file.is_file():
        raise FileNotFoundError(f"no {file}: run `make build/benchmark_mi/{file.name}`")
    with np.load(file) as arrays:
        x, y = (torch.from_numpy(arrays[f"{task}.{side}"]) for side in "xy")
    check_rows(n, len(x), task)
    return x[:n].clone(), y[:n].clone()
