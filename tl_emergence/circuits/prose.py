"""A correlation report in words: what was established, what was not, and what no correlation can show."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tl_emergence.circuits.report import CorrelationReport, PairCorrelation

_LEVEL = 0.05
_THROUGH_DEPTH = "; the association may be through depth alone"
_FEW_UNITS = 30


def paragraph(report: CorrelationReport) -> str:
    """Return the report in one paragraph of plain English."""
    sentences = [sentence for pair in report.pairs for sentence in _of_pair(report, pair)]
    return " ".join([*sentences, *_limits(report)])


def is_established(pair: PairCorrelation, within: bool) -> bool:
    """Return whether the interval excludes 0 and q is at most 0.05: an association over these units.

    Within layers, where q is of the correlation within layers, that correlation must be one of the same sign.
    """
    agrees = not within or (
        excludes_0(pair.partial_low, pair.partial_high) and pair.partial * pair.spearman > 0
    )
    return excludes_0(pair.low, pair.high) and pair.q <= _LEVEL and agrees


def _of_pair(report: CorrelationReport, pair: PairCorrelation) -> Iterator[str]:
    name, units = f"{pair.score} against {pair.effect}", f"{pair.n_units} {unit_word(report)}"
    if math.isnan(pair.spearman):
        yield (
            f"{name}: one of them is the same in all {units}, so that no correlation is defined and nothing "
            "was established."
        )
        return
    yield (
        f"{name}, over {units}: Spearman {pair.spearman:.2f}, 95 % interval {interval(pair.low, pair.high)} "
        f"over prompts (scores from {pair.n_score_prompts:,}, effects from {pair.n_effect_prompts:,}: "
        f"{pair.disjoint})."
    )
    yield _verdict(report, pair)
    yield _depth(report, pair)
    yield from _baselines(pair)
    yield (
        f"With reliabilities of {pair.score_reliability:.2f} (score) and {pair.effect_reliability:.2f} "
        f"(effect), perfect agreement would show about {pair.ceiling:.2f}."
    )


def _verdict(report: CorrelationReport, pair: PairCorrelation) -> str:
    how = "within layers" if report.settings["within_layers"] else f"over all {unit_word(report)}"
    test = f"permutation {how} gives p = {_p(pair.p)}, q = {_p(pair.q)}"
    within = bool(report.settings["within_layers"])
    if is_established(pair, within):
        way = "larger" if pair.spearman > 0 else "smaller"
        return (
            f"The interval excludes 0 and {test}: an association over these units was established, a larger "
            f"{pair.score} with a {way} {pair.effect}."
        )
    if not excludes_0(pair.low, pair.high):
        return f"The interval includes 0 ({test}): no association was established."
    if math.isnan(pair.q):
        return "The interval excludes 0, but no permutation was possible: no association was established."
    if pair.q <= _LEVEL:
        return (
            f"The interval excludes 0 and {test}, but that is of the correlation within layers, which is not "
            "of that sign: no association beyond depth was established."
        )
    return (
        f"The interval excludes 0, so that the sign would hold on new prompts, but {test}: no association "
        "beyond chance over units was established."
    )


def _depth(report: CorrelationReport, pair: PairCorrelation) -> str:
    held = "the layer" if report.settings["within_layers"] else "depth and its square"
    if math.isnan(pair.partial):
        warning = _THROUGH_DEPTH if is_established(pair, bool(report.settings["within_layers"])) else ""
        return f"With {held} held fixed too little is left of these units to correlate{warning}."
    found = f"{pair.partial:.2f} {interval(pair.partial_low, pair.partial_high)}, p = {_p(pair.partial_p)}"
    if not excludes_0(pair.partial_low, pair.partial_high):
        left = "it cannot be told from 0"
    elif not pair.partial_p <= _LEVEL:
        left = "it is no more than permutation gives"
    else:
        left = "it stays" if pair.partial * pair.spearman > 0 else "it turns round"
    told = is_established(pair, bool(report.settings["within_layers"])) and not left.startswith("it stays")
    warning = _THROUGH_DEPTH if told else ""
    return f"With {held} held fixed {left}: {found}{warning}."


def _baselines(pair: PairCorrelation) -> Iterator[str]:
    kinds = {
        "It beats": [one for one in pair.baselines if one.low > 0],
        "It does no better than": [one for one in pair.baselines if one.low <= 0 <= one.high],
        "It is beaten by": [one for one in pair.baselines if one.high < 0],
    }
    for words, chosen in kinds.items():
        if chosen:
            each = [
                f"{one.name} ({one.spearman:.2f}, difference in size {interval(one.low, one.high)})"
                for one in chosen
            ]
            yield f"{words} {' and '.join(each)}."
    constant = [one.name for one in pair.baselines if math.isnan(one.spearman)]
    if constant:
        yield f"No comparison with {' and '.join(constant)}: the same in all units."
    if not pair.baselines:
        yield "No trivial baseline was set beside it."


def _limits(report: CorrelationReport) -> Iterator[str]:
    word = unit_word(report)
    few = f", and {len(report.labels)} are few" if len(report.labels) < _FEW_UNITS else ""
    if report.settings.get("averaged_by_block"):
        yield "Heads and MLPs were averaged by block."
    yield f"q controls false discoveries in the family of {report.family}."
    yield f"The intervals are for prompts like these; the {word} are those of one model{few}."
    if not report.settings["within_layers"]:
        yield (
            f"Permutation takes {word} for exchangeable, which neighbours in depth are not: p is optimistic."
        )
    yield (
        "A correlation is no cause, in either direction, and ablating one component at a time underestimates "
        "those that have backups."
    )


def unit_word(report: CorrelationReport) -> str:
    """Return what the units are: heads, blocks, or units."""
    if all("H" in label for label in report.labels):
        return "heads"
    return "blocks" if len(set(report.layers)) == len(report.layers) else "units"


def interval(low: float, high: float) -> str:
    """Return an interval as text.

    Example:
        >>> interval(-0.104, 0.5)
        '[-0.10, 0.50]'
    """
    return "[undefined]" if math.isnan(low) else f"[{low:.2f}, {high:.2f}]"


def excludes_0(low: float, high: float) -> bool:
    """Return whether an interval lies on one side of 0; one that is undefined does not.

    Example:
        >>> excludes_0(0.1, 0.4), excludes_0(-0.1, 0.4), excludes_0(float("nan"), float("nan"))
        (True, False, False)
    """
    return low > 0 or high < 0


def _p(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.2g}"
