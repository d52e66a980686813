"""Train the induction model and keep its weights along the way: `python -m tutorials.induction.train`.

Three minutes on two cores. Everything is drawn from SEED; another machine or version of PyTorch may round
otherwise and end in other heads. Checkpoints are float16: the last line says what that changes.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor

from tl_emergence.circuits import induction_scores, previous_token_scores
from tl_emergence.prompts import from_tokens
from tutorials.induction.load import CHECKPOINTS, SEED, load_induction_model, new_model, read_weights
from tutorials.induction.sequences import BOS, repeated, training_batch

KEPT = (0, 50, 100, 150, 200, 250, 300, 400, 600, 1000, 2000)
BATCH, LEARNING_RATE, WARM_UP, WEIGHT_DECAY = 64, 2e-3, 100, 0.01
N_MEASURED, PERIOD = 256, 12


def main(folder: Path = CHECKPOINTS) -> None:
    """Train from scratch, write weights and log at every kept step, and check them after reloading."""
    tokens = repeated(N_MEASURED, PERIOD, torch.Generator().manual_seed(SEED + 1))
    new = folder.with_name(f"{folder.name}.new")  # the weights that were there stay until all is done
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    model, log = new_model(), []
    for step in steps_of_training(model, KEPT[-1]):
        if step in KEPT:
            weights = {name: value.half() for name, value in read_weights(model).items()}
            save_file(weights, new / f"step_{step:05}.safetensors")
            log.append({"step": step, **measured(model, tokens)})
            print(log[-1], flush=True)
    (new / "log.json").write_text(json.dumps(log, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    again = measured(load_induction_model(), tokens) if folder == CHECKPOINTS else {}
    print("after reloading, in float16:", again)


def steps_of_training(model: Any, last: int) -> Iterator[int]:
    """Train a model from SEED; yield 0, 1, ..., last, the number of steps it has taken."""
    generator = torch.Generator().manual_seed(SEED)
    # PyTorch runs the hooks of a bridge in training too: nothing is hooked here.
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    yield 0
    for step in range(1, last + 1):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, step / WARM_UP)
        batch = training_batch(BATCH, generator)
        loss = F.cross_entropy(logits(model, batch)[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield step


def logits(model: Any, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocabulary"]:
    """Return the logits of tokens behind BOS."""
    return model(tokens, return_type="logits")


@torch.no_grad()
def measured(model: Any, tokens: Int[Tensor, "prompt pos"]) -> dict[str, float]:
    """Return loss before and after the repeat, in bits, and the best attention-pattern score of each kind."""
    prompts, period = from_tokens(tokens), tokens.shape[1] // 2
    behind_bos = torch.cat([torch.full((len(tokens), 1), BOS), tokens], dim=1)
    found = logits(model, behind_bos)[:, :-1].transpose(1, 2)
    bits = F.cross_entropy(found, tokens, reduction="none") / math.log(2)
    # The first token of the second half cannot be foreseen: nothing before it says how long a period is.
    return {
        "loss_first_half": round(float(bits[:, :period].mean()), 4),
        "loss_second_half": round(float(bits[:, period + 1 :].mean()), 4),
        "previous_token_score": round(
            float(previous_token_scores(model, prompts, bos_token_id=BOS).max()), 4
        ),
        "induction_score": round(
            float(induction_scores(model, prompts, period=period, bos_token_id=BOS).max()), 4
        ),
    }


if __name__ == "__main__":
    main()
