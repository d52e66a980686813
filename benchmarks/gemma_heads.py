"""Every head of Gemma 3 270M ablated on country lists: information of the separators and loss of the items.

    python -m benchmarks.gemma_heads                          # two kinds, three disjoint sets of 256 prompts
    python -m benchmarks.gemma_heads --set 0 --kind mean      # one of the six

Three metrics from the same passes: the loss of the next item after a separator, and the macro information
that blocks 1 to 17 carry at the separators, sigma 1, in `read` and in `unit`. Sets, and the reference of the
means, are disjoint parts of one draw. Each run is saved, so that one that was stopped goes on; tutorial 03
reads them. Seconds are from the loaded model to the result.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

import tl_emergence as tle
from benchmarks.pipeline import MODEL, machine
from tl_emergence import circuits, models
from tl_emergence.circuits import HeadEffects
from tl_emergence.circuits.metrics import Metric
from tl_emergence.prompts import PromptSet

N, SETS, SHOTS = 256, 3, 4
KINDS = ("zero", "mean")
FOLDER = Path(__file__).parents[1] / "tutorials" / "head_effects"
ITEMS = [2 * shot - 1 for shot in range(1, SHOTS)]
"""Separators that an item follows."""
SEPARATORS = [2 * shot + 1 for shot in range(1, SHOTS)]
"""Separators after two items and more: the first knows one item only."""
BLOCKS = range(1, 18)


def prompt_sets(model: object) -> tuple[list[PromptSet], PromptSet]:
    """Return three disjoint sets, and a reference that shares no prompt with them."""
    drawn = tle.prompts.demonstrations("country", model, shots=SHOTS, n=(SETS + 1) * N, seed=0)
    *sets, reference = [drawn.take(slice(i * N, (i + 1) * N)) for i in range(SETS + 1)]
    return sets, reference


def metrics() -> list[Metric]:
    """Return next-item loss, and the information of the separators in both spaces."""
    return [
        circuits.next_token_loss(ITEMS, name="next-item loss"),
        *(
            circuits.information_at(BLOCKS, SEPARATORS, space=space, sigma=1.0, name=f"information ({space})")
            for space in ("read", "unit")
        ),
    ]


def main() -> None:
    """Measure what is asked for and not there yet; print seconds and the leading heads."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--set", type=int, nargs="+", default=list(range(SETS)), choices=range(SETS))
    parser.add_argument("--kind", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--heads", nargs="+", help="L9H3 ...; all by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=FOLDER)
    asked = parser.parse_args()
    if asked.heads and asked.out == FOLDER:
        parser.error("some heads only: name another --out, or tutorial 03 would read them for all")
    torch.set_num_threads(asked.threads)
    model = models.load(MODEL)
    sets, reference = prompt_sets(model)
    print(machine(), flush=True)
    for number in asked.set:
        for kind in asked.kind:
            folder = asked.out / f"{kind}-{number}"
            if folder.exists():
                print(f"{folder.name}: there already")
                continue
            start = time.perf_counter()
            effects = tle.ablate_heads(
                model,
                sets[number],
                metrics(),
                kind=kind,
                heads=asked.heads,
                reference=reference if kind == "mean" else None,
                workdir=Path("build") / "gemma_heads" / folder.name,
            )
            print(f"{folder.name}: {time.perf_counter() - start:.0f} s\n{effects.summary()}\n", flush=True)
            _in_single_precision(effects).save(folder)


def _in_single_precision(effects: HeadEffects) -> HeadEffects:
    """Return the effects as they are shipped: half the size."""
    single = {name: value.float() for name, value in effects.effects.items()}
    return replace(effects, effects=single, baseline={k: v.float() for k, v in effects.baseline.items()})


if __name__ == "__main__":
    main()
