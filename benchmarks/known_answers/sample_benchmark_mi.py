"""Sample the 40 tasks of benchmark-mi (Czyz et al., arXiv 2306.11078) and keep the arrays.

Runs in an environment of its own, `benchmark_mi.txt`, which cannot be that of tl_emergence (older jax, numpy,
pandas and pydantic), and therefore imports nothing of it. `make benchmark-mi` calls it once a seed:

    .venv-bmi/bin/python benchmarks/known_answers/sample_benchmark_mi.py --seed 0 seed-0.npz

The file holds, for each task, `<task>.x` and `<task>.y` (float32, one row a sample) and `<task>.nats` (the
mutual information), and `tasks`, the names in the order of the benchmark.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

N_TASKS = 40


def sample_tasks(n: int, seed: int) -> dict[str, np.ndarray]:
    """Return the arrays of every task, by the names that the file gives them."""
    from bmi.benchmark import BENCHMARK_TASKS  # type: ignore[import-not-found]

    assert len(BENCHMARK_TASKS) == N_TASKS, f"{len(BENCHMARK_TASKS)} tasks, {N_TASKS} expected"
    arrays = {"tasks": np.array(list(BENCHMARK_TASKS))}
    for name, task in BENCHMARK_TASKS.items():
        x, y = task.sample(n, seed=seed)
        arrays[f"{name}.x"] = np.asarray(x, dtype=np.float32)
        arrays[f"{name}.y"] = np.asarray(y, dtype=np.float32)
        arrays[f"{name}.nats"] = np.array(task.mutual_information, dtype=np.float64)
        assert np.isfinite(arrays[f"{name}.x"]).all() and np.isfinite(arrays[f"{name}.y"]).all(), name
    return arrays


def main() -> None:
    parser = argparse.ArgumentParser(description="Sample the 40 tasks of benchmark-mi.")
    parser.add_argument("target", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--n", type=int, default=10_000)
    options = parser.parse_args()
    options.target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = options.target.with_name(f".{options.target.name}")  # numpy keeps a name that ends in .npz
    np.savez(unfinished, **sample_tasks(options.n, options.seed))  # type: ignore[arg-type]
    unfinished.rename(options.target)


if __name__ == "__main__":
    main()
