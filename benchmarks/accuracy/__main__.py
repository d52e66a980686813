"""How near every estimator comes to the known answers, in one command.

    python -m benchmarks.accuracy                                        # everything: hours on one core
    python -m benchmarks.accuracy --family model_states --estimator nce --case label-16
    python -m benchmarks.accuracy --family gaussian --estimator gaussian --repeats 20
    python -m benchmarks.accuracy --report                               # nothing new: table, figure, gates

Rows are written as they come, and what is there is not measured again. Writes accuracy.csv, accuracy.md and
accuracy.png; ends with the gates.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from benchmarks.accuracy.measure import ESTIMATORS, Question, answer, questions
from benchmarks.accuracy.report import chosen, insert_in_readme, report
from benchmarks.accuracy.rows import append_row, read_rows
from benchmarks.known_answers import FAMILIES, Case, cases
from tl_emergence.estimators import ESTIMATORS as KNOWN

FOLDER = Path(__file__).parents[1] / "results"


def selected(families: Sequence[str], substring: str) -> Iterator[Case]:
    """Yield the cases asked for; a family whose arrays are not made is named and left out."""
    for family in families:
        try:
            yield from (case for case in cases(family) if substring in case.name)
        except FileNotFoundError as error:
            print(f"left out: {error}", file=sys.stderr)


def measure(asked: Sequence[Question], file: Path) -> None:
    """Answer what the file does not have yet, writing each row as it is found."""
    done = {row.key for row in read_rows(file)}
    missing = [question for question in asked if question.row.key not in done]
    progress = tqdm(missing, file=sys.stderr)
    for question in progress:
        progress.set_description(f"{question.estimator}, {question.case.name}")
        try:
            append_row(file, answer(question))
        except FileNotFoundError as error:
            print(f"left out: {error}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, report, and return 1 where a gate is failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description="Estimates against known answers."
    )
    parser.add_argument("--family", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--estimator", nargs="+", choices=list(KNOWN), default=list(ESTIMATORS))
    parser.add_argument("--case", default="", help="a part of the name")
    parser.add_argument("--seed", type=int, default=1, help="nce was tuned on 0")
    parser.add_argument("--n", type=int, default=10_000, help="rows drawn; at most those there are")
    parser.add_argument("--repeats", type=int, default=1, help="draws a case, where they are not stored")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--fresh", action="store_true", help="forget the rows there are")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--readme", action="store_true", help="put the summary into benchmarks/README.md")
    options = parser.parse_args(arguments)
    file = options.out / "accuracy.csv"
    if options.fresh:
        file.unlink(missing_ok=True)
    if not options.report:
        asked = questions(
            list(selected(options.family, options.case)),
            options.estimator,
            seed=options.seed,
            n=options.n,
            repeats=options.repeats,
        )
        measure(list(asked), file)
    rows = chosen(read_rows(file), options.seed, options.n)
    if options.readme:
        insert_in_readme(rows)
    return report(rows, options.out)


if __name__ == "__main__":
    sys.exit(main())
