"""Findings and verdicts of `natural_text`, from its tables alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tl_emergence.experiments import because
from tl_emergence.experiments.claims import Verdict, settled
from tl_emergence.experiments.curves import EXACT, ROUNDING, Curve, curves_by
from tl_emergence.experiments.findings import Finding, interval
from tl_emergence.experiments.result import Conclusion

if TYPE_CHECKING:
    import pandas as pd

LIST = "list"
"""The kind of the prompts that are no windows of text."""


def counts(curve: Curve) -> dict[str, int]:
    """Return at how many tokens emergence rises, falls, or neither for sure; and exact emergence."""
    tokens = range(1, len(curve.values))
    exact = curve.as_exact()
    rises, falls, exact_rises, exact_falls = (
        sum(map(of, tokens))
        for of in (curve.surely_rises, curve.surely_falls, exact.surely_rises, exact.surely_falls)
    )
    return {
        "tokens": len(tokens), "rises": rises, "falls": falls, "undecided": len(tokens) - rises - falls,
        "exact rises": exact_rises, "exact falls": exact_falls,
    }  # fmt: skip


def findings(
    tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any], run: str = "model"
) -> Iterator[Finding]:
    """Yield the findings of a run: of the model, of a control, or of the exact curves ("exact")."""
    for (model, kind, space), runs in curves_by(tables["curves"], ("model", "kind", "space")).items():
        curve = runs[run]["emergence"]
        number, tokens, claim = (
            counts(curve),
            len(curve.values),
            "staircase" if kind == LIST else "every token",
        )
        about = {
            "model": model, "run": run, "source": kind, "space": space, "place": "token",
            "n": settings["n"], "sigma": settings["sigma"], "estimator": settings["estimator"],
        }  # fmt: skip
        yield Finding(
            claim=claim, quantity="rising_tokens", value=float(number["rises"]), first=2, last=tokens,
            exact=float(number["exact rises"]),
            beside={name: number[name] for name in ("tokens", "falls", "undecided")}, **about,
        )  # fmt: skip
        yield Finding(
            claim="positive", quantity="emergence", first=tokens, last=tokens,
            **interval(float(curve.values[-1]), float(curve.stderr[-1])), exact=float(curve.exact[-1]),
            **about,
        )  # fmt: skip
        half = tokens // 2  # the first half ends there
        yield Finding(
            claim=claim, quantity="emergence_change", first=half, last=tokens,
            **interval(*curve.change(half - 1, tokens - 1)),
            exact=curve.as_exact().change(half - 1, tokens - 1)[0], **about,
        )  # fmt: skip


def conclusions(tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> Iterator[Conclusion]:
    """Yield the verdicts on "every token" and "positive"."""
    runs = [str(run) for run in tables["curves"]["run"].unique()]
    of = {run: tuple(findings(tables, settings, run)) for run in dict.fromkeys(["model", EXACT, *runs])}
    by = {"estimator": settings["estimator"], "sigma": settings["sigma"]}
    for claim, rule, words in (
        ("every token", tokens_rule, because.tokens_of_text),
        ("positive", growth_rule, because.growth_of_text),
    ):
        rules: dict[str, Verdict] = {run: rule(found) for run, found in of.items()}
        yield Conclusion(claim, settled(rules), words(of["model"], rules), by_rule=rules, **by)


def tokens_rule(of: Sequence[Finding]) -> Verdict:
    """Judge "rises with every token": at all tokens of text it surely does; partly at more than half."""
    counted = [one for one in of if one.claim == "every token" and one.quantity == "rising_tokens"]
    rises, tokens = sum(one.value for one in counted), sum(one.beside["tokens"] or 0 for one in counted)
    return "holds" if rises == tokens else "holds partly" if 2 * rises > tokens else "does not hold"


def growth_rule(of: Sequence[Finding]) -> Verdict:
    """Judge "positive and grows": at the last token, and over the second half of windows of text."""
    last = [one.low > ROUNDING for one in of if one.quantity == "emergence"]
    late = [
        one.low > ROUNDING for one in of if one.claim == "every token" and one.quantity == "emergence_change"
    ]
    return "holds" if all(last) and all(late) else "holds partly" if any(last) else "does not hold"
