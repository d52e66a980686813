"""Train the induction model in several widths and measure them: `python -m tutorials.induction.sizes`.

The models differ in nothing but width: one vocabulary, one task, the same batches in the same order. Some
minutes on two cores. The weights are not kept; the result of the experiment `model-size` is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tl_emergence import experiments
from tl_emergence.experiments import ExperimentResult
from tl_emergence.prompts import from_tokens
from tutorials.induction.load import SEED, new_model
from tutorials.induction.sequences import BOS, repeated
from tutorials.induction.train import N_MEASURED, PERIOD, measured, steps_of_training

KEPT = Path(__file__).parents[1] / "reproduction" / "small-models"
WIDTHS = (16, 32, 64, 128)
STEPS = 1000
N = 1024


def trained(width: int, steps: int = STEPS) -> Any:
    """Return a model of a width after some steps of training."""
    model = new_model(width)
    for _ in steps_of_training(model, steps):
        pass
    return model.eval()


def measure(models: dict[str, Any], n: int = N) -> ExperimentResult:
    """Measure emergence of the same repeated sequences in every model."""
    prompts = from_tokens(repeated(n, PERIOD, torch.Generator().manual_seed(SEED + 2)))
    return experiments.model_size(models, prompts=prompts, bos_token_id=BOS)


def main(folder: Path = KEPT) -> None:
    """Train every width, print what it learned, measure, save."""
    tokens = repeated(N_MEASURED, PERIOD, torch.Generator().manual_seed(SEED + 1))
    models = {}
    for width in WIDTHS:
        models[f"width-{width}"] = trained(width)
        print(width, measured(models[f"width-{width}"], tokens), flush=True)
    found = measure(models)
    found.save(folder)
    print(found.summary())


if __name__ == "__main__":
    main()
