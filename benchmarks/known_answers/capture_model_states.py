"""Make the states of `model_states`, which takes a few minutes a seed on two cores.

    python -m benchmarks.known_answers.capture_model_states --seed 0    # or: make model-states

One file a pair of states and space: `x` (a row a prompt), `y` (a row a prompt of its own), for each channel
`rows.<bits>`, the row of y that each row of x is paired with, and the labels. A table says how well a linear
probe reads the labels from each state.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.known_answers.channels import flip_for_bits
from benchmarks.known_answers.model_prompts import fill, position_in, rows_with, through_channel
from benchmarks.known_answers.model_states import DESIGNS, FOLDER, ROWS, Design, StateSpace, rows_key
from tl_emergence import models
from tl_emergence.capture import CapturedStates, capture_states, in_space
from tl_emergence.estimators.interface import generator_for
from tl_emergence.prompts import from_tokens

MODEL = "gemma-3-270m"
SPACES: tuple[StateSpace, ...] = ("read", "unit")

# Prompts of y for each label: enough for every channel to use a prompt once at most (375 are needed on
# average, with a standard deviation of 19).
PROMPTS_A_LABEL = 460


def draw_labels(
    design: Design, seed: int
) -> tuple[Int[Tensor, "prompt item"], Int[Tensor, "row item"], dict[str, Tensor]]:
    """Return the labels of the prompts of x and of y, and for each channel the row of y of each row of x."""
    generator = generator_for(seed, "labels", design.name)
    k = len(design.x_words)
    if design.items > 1:
        lists = torch.rand(ROWS, k, generator=generator).argsort(dim=1)[:, : design.items]
        return lists, lists, {rows_key(truth): torch.arange(ROWS) for truth in design.truths}
    labels = torch.randint(k, (ROWS,), generator=generator)
    pool = torch.arange(k).repeat(PROMPTS_A_LABEL)
    rows = {}
    for truth in design.truths:
        passed = through_channel(labels, k, flip_for_bits(k, truth), generator_for(seed, "channel", truth))
        rows[rows_key(truth)] = rows_with(passed, pool)
    return labels[:, None], pool[:, None], rows


def capture(
    model: Any, frame: str, words: tuple[str, ...], labels: Tensor, wanted: set[tuple[int, str]], seed: int
) -> dict[tuple[int, str, str], Float[Tensor, "prompt d_model"]]:
    """Return the wanted (state, place) of a frame's prompts, in every space."""
    prompts = fill(frame, words, labels, model.tokenizer, generator_for(seed, "prompts", frame))
    last = max(state for state, _ in wanted)
    places = sorted({place for _, place in wanted}, key=lambda place: position_in(frame, place))
    found = capture_states(
        model,
        from_tokens(prompts),
        layers=sorted({min(state, last - 1) for state, _ in wanted}),  # block l has states l and l + 1
        positions=[position_in(frame, place) for place in places],
        progress=True,
    )
    return {
        (state, place, space): _seen(found, state, places.index(place), space)
        for state, place in wanted
        for space in SPACES
    }


def _seen(
    found: CapturedStates, state: int, place: int, space: StateSpace
) -> Float[Tensor, "prompt d_model"]:
    raw = found.macro[place][found.states.index(state)][found.prefix_rows[place]]
    return in_space(raw, state, space, found.reading, 1.0).contiguous()


def decodable(states: Float[Tensor, "row d"], labels: Int[Tensor, "row item"]) -> list[float]:
    """Return the share of held-out rows whose label a ridge classifier reads right, for each item of it."""
    x = torch.cat([states, torch.ones(len(states), 1)], dim=1).double()
    order = torch.randperm(len(x), generator=generator_for(0, "probe"))
    train, test = order[: len(x) * 3 // 4], order[len(x) * 3 // 4 :]
    penalty = 0.1 * torch.eye(x.shape[1], dtype=torch.float64)
    shares = []
    for item in labels.unbind(dim=1):
        targets = torch.nn.functional.one_hot(item).double()
        weights = torch.linalg.solve(x[train].t() @ x[train] + penalty, x[train].t() @ targets[train])
        shares.append(float(((x[test] @ weights).argmax(dim=1) == item[test]).double().mean()))
    return shares


def make(model: Any, design: Design, seed: int, folder: Path) -> None:
    """Make the files of a design, and print what the probes read."""
    of_x, of_y, rows = draw_labels(design, seed)
    wanted_x = {(pair.x_state, pair.x_place) for pair in design.pairs}
    wanted_y = {(pair.y_state, pair.y_place) for pair in design.pairs}
    x = capture(model, design.x_frame, design.x_words, of_x, wanted_x, seed)
    y = capture(model, design.y_frame, design.y_words, of_y, wanted_y, seed)
    read = {"x": _read(design, "x", x, of_x), "y": _read(design, "y", y, of_y)}
    for pair in design.pairs:
        for space in SPACES:
            of_pair = {"x": (pair.x_state, pair.x_place, space), "y": (pair.y_state, pair.y_place, space)}
            said = {
                **_metadata(design, pair.name, space, seed),
                **{f"decodable_{side}": read[side][key] for side, key in of_pair.items()},
            }
            tensors = {
                "x": x[of_pair["x"]],
                "y": y[of_pair["y"]],
                "labels_x": of_x.contiguous(),
                "labels_y": of_y.contiguous(),
                **rows,
            }
            _save(tensors, said, design.file(folder, seed, pair, space))


def _read(
    design: Design,
    side: str,
    states: dict[tuple[int, str, str], Float[Tensor, "prompt d_model"]],
    labels: Int[Tensor, "prompt item"],
) -> dict[tuple[int, str, str], list[float]]:
    """Return what probes read from each state, and print it."""
    read = {}
    for key, matrix in sorted(states.items()):
        read[key] = decodable(matrix, labels)
        state, place, space = key
        shares = " ".join(f"{share:.4f}" for share in read[key])
        print(f"{design.name} {side} h_{state} {place:5} {space}: read from it {shares}", flush=True)
    return read


def _save(tensors: dict[str, Tensor], said: dict[str, Any], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    save_file(tensors, unfinished, {"tl_emergence": json.dumps(said)})
    unfinished.rename(file)


def _metadata(design: Design, pair: str, space: str, seed: int) -> dict[str, Any]:
    return {
        "model": models.PACKAGED[MODEL].note,
        "design": design.name,
        "x_frame": design.x_frame,
        "y_frame": design.y_frame,
        "states": pair,
        "space": space,
        "seed": seed,
        "truth_bits": {rows_key(truth): truth for truth in design.truths},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the states of a real model with known information.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--designs", nargs="*", default=[design.name for design in DESIGNS])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    model = models.load(MODEL)
    for design in DESIGNS:
        if design.name in options.designs:
            make(model, design, options.seed, options.folder)


if __name__ == "__main__":
    main()
