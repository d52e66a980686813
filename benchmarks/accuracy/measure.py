"""Which estimator is asked what, and asking it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from benchmarks.accuracy.rows import Row
from benchmarks.known_answers import Case, Pair
from tl_emergence.errors import EmergenceError
from tl_emergence.estimators import mutual_information

ESTIMATORS = ("exact", "noise", "gaussian", "nce", "vinfo")
"""Those that are measured unless others are named."""

STORED = ("benchmark_mi", "model_states")
"""Families with one draw a seed: the arrays that were made."""

PROMPT_SET_SIGMA = 0.05
"""Prompt sets have no noise, and `noise` needs some: at this level points 1 apart stay apart."""

MOST_POINTS = 16_384
"""The largest set given to `noise`, whose time goes with the square."""

SCALED_DOWN = {"steps": 300, "rows": 2_000}
"""Settings of mine_paper here; the published ones are 10,000 and 300,000."""

_BETWEEN_REPEATS = 1_000
_SAMPLED = ("gaussian", "nce", "vinfo")


@dataclass(frozen=True)
class Question:
    """One estimator, one case, one draw.

    Attributes:
        case: The known answer.
        estimator: Who is asked.
        seed: The seed of the run.
        repeat: Number of the draw: 0 is that of the seed itself.
        n: Rows asked for; 0 where it is given all points.
        given: What the estimator is given, in words.
        points: Whether that is the points of a finite set, not draws.
        options: What `mutual_information` takes besides.
    """

    case: Case
    estimator: str
    seed: int
    repeat: int
    n: int
    given: str
    points: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def draw_seed(self) -> int:
        """Seed of the draw and of the estimator, far from the other seeds that are reported."""
        return self.seed + _BETWEEN_REPEATS * self.repeat

    @property
    def row(self) -> Row:
        """The row without an answer."""
        return Row(
            family=self.case.family,
            case=self.case.name,
            estimator=self.estimator,
            seed=self.seed,
            repeat=self.repeat,
            asked=self.n,
            given=self.given,
            n=0,
            truth_bits=self.case.truth_bits,
            threads=torch.get_num_threads(),
        )

    def rows(self) -> Pair:
        """Return the rows that the estimator is given."""
        if self.points:
            assert self.case.points is not None
            x, y = self.case.points()
            return x.float(), y.float()
        return self.case.draw(min(self.n, self.case.most_rows or self.n), self.draw_seed)


def questions(
    of: Sequence[Case], estimators: Sequence[str], *, seed: int, n: int, repeats: int
) -> Iterator[Question]:
    """Yield what is asked, case by case; nothing where an estimator has no business with a case."""
    for case in of:
        draws = 1 if case.family in STORED else repeats
        for repeat in range(draws):
            for estimator in estimators:
                question = Question(case, estimator, seed, repeat, n, "draws")
                yield from filter(None, [_posed(question)])


def _posed(question: Question) -> Question | None:
    """Return the question as that estimator is asked it, or None."""
    case, estimator = question.case, question.estimator
    if estimator in _SAMPLED:
        return question
    if estimator == "noise" and case.finite:
        sigma = case.sigma or PROMPT_SET_SIGMA
        return replace(question, given=f"points, sigma {sigma:g}", points=True, n=0, options={"sigma": sigma})
    if estimator == "noise" and case.family == "gaussian":
        return replace(question, given="draws, sigma 0.5: another question", options={"sigma": 0.5})
    if estimator == "exact" and case.family == "prompt_set" and question.repeat == 0:
        return replace(question, given="points", points=True, n=0)
    if estimator == "mine_paper":
        steps, rows = SCALED_DOWN["steps"], SCALED_DOWN["rows"]
        label = f"draws, scaled down: {steps:,} steps, {rows:,} rows"
        return replace(question, given=label, options=dict(SCALED_DOWN))
    return None


def answer(question: Question) -> Row:
    """Ask, and return the row: with an estimate, or with the reason why there is none.

    Raises:
        FileNotFoundError: Arrays that are not made yet.
    """
    x, y = question.rows()
    row = replace(question.row, n=len(x))
    if question.estimator == "noise" and len(x) > MOST_POINTS:
        return replace(row, message=f"not run: more than {MOST_POINTS:,} points")
    start, cpu_start = time.perf_counter(), time.process_time()
    try:
        found = mutual_information(
            x, y, estimator=question.estimator, seed=question.draw_seed, **question.options
        )
    except EmergenceError as error:
        refusal = f"refused ({type(error).__name__}): {error}"
        return replace(row, seconds=time.perf_counter() - start, message=refusal)
    return replace(
        row,
        bits=found.bits,
        stderr=found.stderr,
        certified_bits=found.certified_bits,
        cap_bits=found.cap_bits,
        seconds=time.perf_counter() - start,
        cpu_seconds=time.process_time() - cpu_start,
    )
