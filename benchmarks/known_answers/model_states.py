"""States of a real model with known information: two prompts that share a label, and nothing else.

x is a state of Gemma 3 270M in a prompt that carries a label among words drawn at random, y a state in
another prompt, of another frame with random words of its own, that carries the label passed through a
channel. The words of the two prompts are independent, of the labels too. So where each state determines its
label,

    I(x; y) = I(label of x; label of y),

which the channel fixes: log2 K - H(flip) - flip log2(K - 1) for K labels and a symmetric channel, log2 K
without flips. Distinct prompts have distinct states, so that this is the truth whatever a probe can read; but
a method can find only what can be read, and a linear probe on held-out rows says how much that is when the
states are made (`make model-states`).

The label is one of 16 words, or an ordered list of words (K = 240 or 13,800): with 6,000 rows the latter lies
above what methods capped by log2 of the scored rows can say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from safetensors import safe_open

from benchmarks.known_answers.case import Case, Pair, check_rows
from tl_emergence.prompts import ANIMAL, COUNTRY

FOLDER = Path(__file__).parents[2] / "build" / "model_states"
"""Where the states are: `seed-<seed>/<design>.<states>.<space>.safetensors`."""

ROWS = 6_000

StateSpace = Literal["read", "unit"]
Place = Literal["label", "after"]


@dataclass(frozen=True)
class StatePair:
    """Which states are x and y: h_l at the (last) token of the label, or at the token after it."""

    x_state: int
    x_place: Place
    y_state: int
    y_place: Place

    @property
    def name(self) -> str:
        """Name in files and tables, such as `L3-label-L4-label`."""
        return f"L{self.x_state}-{self.x_place}-L{self.y_state}-{self.y_place}"


@dataclass(frozen=True)
class Design:
    """Two frames (see `model_prompts`), the words of their labels, and what is measured.

    Attributes:
        name: Its name in files and tables.
        x_frame: The frame of the prompts of x.
        y_frame: The frame of the prompts of y.
        x_words: The words that a label of x is made of.
        y_words: The words, at the same numbers, for y.
        items: Words in a label: one, or an ordered list without repetition.
        pairs: The states measured.
        truths: The information in bits, one channel each; lists are passed on without flips.
    """

    name: str
    x_frame: str
    y_frame: str
    x_words: tuple[str, ...]
    y_words: tuple[str, ...]
    items: int
    pairs: tuple[StatePair, ...]
    truths: tuple[float, ...]

    def file(self, folder: Path, seed: int, pair: StatePair, space: str) -> Path:
        """Return where the states of a pair are kept."""
        return folder / f"seed-{seed}" / f"{self.name}.{pair.name}.{space}.safetensors"


DESIGNS = (
    Design(
        name="label-16",
        x_frame="NAME VERB NOUN in LABEL ,",
        y_frame="NAME VERB ADJECTIVE LABEL and",
        x_words=COUNTRY[:16],
        y_words=ANIMAL,
        items=1,
        pairs=(
            StatePair(3, "label", 4, "label"),
            StatePair(6, "label", 12, "after"),
            StatePair(9, "after", 10, "after"),
            StatePair(12, "after", 13, "label"),
        ),
        truths=(4.0, 2.5, 1.0),
    ),
    Design(
        name="list-240",
        x_frame="NAME VERB LABEL , LABEL ,",
        y_frame="ADJECTIVE NOUN of LABEL or LABEL or",
        x_words=ANIMAL,
        y_words=ANIMAL,
        items=2,
        pairs=(StatePair(6, "after", 9, "after"), StatePair(9, "label", 9, "label")),
        truths=(math.log2(math.perm(16, 2)),),
    ),
    Design(
        name="list-13800",
        x_frame="VERB LABEL , LABEL , LABEL ,",
        y_frame="NOUN of LABEL or LABEL or LABEL or",
        x_words=COUNTRY,
        y_words=COUNTRY,
        items=3,
        pairs=(StatePair(6, "after", 9, "after"), StatePair(9, "label", 9, "label")),
        truths=(math.log2(math.perm(25, 3)),),
    ),
)


def model_states(folder: Path = FOLDER) -> Iterator[Case]:
    """Yield a case for each design, pair of states, space and channel, whether the states are made or not."""
    for design in DESIGNS:
        for pair in design.pairs:
            for space in get_args(StateSpace):
                for truth in design.truths:
                    yield _case(folder, design, pair, space, truth)


def rows_key(truth_bits: float) -> str:
    """Return the name of the tensor that says which row of y each row of x has, for a channel."""
    return f"rows.{truth_bits:.1f}"


def _case(folder: Path, design: Design, pair: StatePair, space: str, truth: float) -> Case:
    def draw(n: int, seed: int) -> Pair:
        check_rows(n, ROWS, design.name)
        file = design.file(folder, seed, pair, space)
        if not file.is_file():
            raise FileNotFoundError(f"no {file}: run `make build/model_states/seed-{seed}/.made`")
        with safe_open(file, framework="pt") as tensors:
            rows = tensors.get_tensor(rows_key(truth))[:n]
            return tensors.get_tensor("x")[:n].clone(), tensors.get_tensor("y")[rows]

    name = f"{design.name} {pair.name} {space} {truth:.1f} bits"
    return Case("model_states", name, truth, draw, most_rows=ROWS)
