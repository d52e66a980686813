"""A correlation report in words: what was established, what was not, and what no correlation can show."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tl_emergence.circuits.report import LEVEL, Baseline, excludes_0

if TYPE_CHECKING:
    from tl_emergence.circuits.report import CorrelationReport, PairCorrelation

_FEW_UNITS = 30


def paragraph(report: CorrelationReport) -> str:
    """Return the report in one paragraph of plain English."""
    sentences = [sentence for pair in report.pairs for sentence in _of_pair(report, pair)]
    return " ".join([*sentences, *_limits(report)])


def _of_pair(report: CorrelationReport, pair: PairCorrelation) -> Iterator[str]:
    score, effect = _titles(report, pair)
    units = f"{pair.n_units} {unit_word(report)}"
    if math.isnan(pair.spearman):
        yield (
            f"{score} against {effect}: one of them is the same in all {units}, so that no correlation is "
            "defined and nothing was established."
        )
        return
    fewer = pair.n_effective < pair.n_units  # never so for heads, which have no effective number
    effective = f", worth {pair.n_effective:.1f} independent ones" if fewer else ""
    yield (
        f"{score} against {effect}, over {units}{effective}: Spearman {pair.spearman:.2f}, 95 % interval "
        f"over {unit_word(report)} {interval(pair.low, pair.high)}, over prompts "
        f"{interval(pair.prompts_low, pair.prompts_high)} (scores from {pair.n_score_prompts:,} prompts, "
        f"effects from {pair.n_effect_prompts:,}: {pair.disjoint})."
    )
    yield _verdict(report, pair)
    yield _depth(report, pair)
    yield from _baselines(report, pair)
    yield (
        f"With reliabilities of {pair.score_reliability:.2f} (score) and {pair.effect_reliability:.2f} "
        f"(effect), perfect agreement would show about {pair.ceiling:.2f}."
    )


def _verdict(report: CorrelationReport, pair: PairCorrelation) -> str:
    score, effect = _titles(report, pair)
    units, test = unit_word(report), _test(report, pair)
    way = "larger" if pair.spearman > 0 else "smaller"
    return {
        "established": f"Both intervals exclude 0 and {test}: an association over these {units} was "
        f"established; a larger {score} goes with a {way} {effect}.",
        "undefined": "No correlation is defined.",
        "units": f"The interval over {units} "
        f"{'is undefined' if math.isnan(pair.low) else 'includes 0'} ({test}): no association was "
        f"established.",
        "prompts": f"The interval over prompts includes 0 ({test}): no association was established.",
        "not testable": f"Both intervals exclude 0, but {test}: no association was established.",
        "chance": f"Both intervals exclude 0, but {test}: no association beyond chance over {units} was "
        "established.",
        "depth": f"Both intervals exclude 0 and {test}, but this test is of the correlation within layers, "
        "which is not established with that sign: no association beyond depth was established.",
    }[report.conclusion(pair)]


def _test(report: CorrelationReport, pair: PairCorrelation) -> str:
    if math.isnan(pair.p):
        return (
            "no permutation is possible"
            if math.isnan(pair.n_effective)
            else "so few independent blocks are not testable"
        )
    if math.isnan(pair.n_effective):
        how = "within layers" if report.settings["within_layers"] else f"over all {unit_word(report)}"
        return f"permutation {how} gives p = {_p(pair.p)}, q = {_p(pair.q)}"
    return f"a t test for {pair.n_effective:.1f} independent blocks gives p = {_p(pair.p)}, q = {_p(pair.q)}"


def _depth(report: CorrelationReport, pair: PairCorrelation) -> str:
    held = "the layer" if report.settings["within_layers"] else "depth and its square"
    through_depth = (
        "; the association may be through depth alone" if report.conclusion(pair) == "established" else ""
    )
    if math.isnan(pair.partial):
        return f"Controlling for {held} leaves too little of these units to correlate{through_depth}."
    values = (
        f"{pair.partial:.2f}, over {unit_word(report)} {interval(pair.partial_low, pair.partial_high)}, "
        f"over prompts {interval(pair.partial_prompts_low, pair.partial_prompts_high)}, "
        f"p = {_p(pair.partial_p)}"
    )
    if not (
        excludes_0(pair.partial_low, pair.partial_high)
        and excludes_0(pair.partial_prompts_low, pair.partial_prompts_high)
    ):
        left = "leaves a correlation that cannot be told from 0"
    elif not pair.partial_p <= LEVEL:
        left = "leaves a correlation that chance over units would give"
    elif pair.partial * pair.spearman > 0:
        left, through_depth = "keeps the correlation", ""
    else:
        left = "reverses the sign"
    return f"Controlling for {held} {left}: {values}{through_depth}."


def _baselines(report: CorrelationReport, pair: PairCorrelation) -> Iterator[str]:
    """Compare with trivial scores: a difference counts where both its intervals exclude 0, over units too."""
    defined = [b for b in pair.baselines if not math.isnan(b.spearman)]
    kinds = {
        "It beats": [b for b in defined if b.low > 0 and b.prompts_low > 0],
        "It is beaten by": [b for b in defined if b.high < 0 and b.prompts_high < 0],
    }
    decided = [b for chosen in kinds.values() for b in chosen]
    kinds["No difference was established from"] = [b for b in defined if b not in decided]
    for words, chosen in kinds.items():
        if chosen:
            yield f"{words} {' and '.join(_difference(b, unit_word(report)) for b in chosen)}."
    constant = [b.name for b in pair.baselines if math.isnan(b.spearman)]
    if constant:
        yield f"No comparison with {' and '.join(constant)}: the same in all units."
    if not pair.baselines:
        yield "No trivial baseline was set beside it."


def _difference(baseline: Baseline, units: str) -> str:
    return (
        f"{baseline.name} ({baseline.spearman:.2f}; difference in size {baseline.difference:.2f}, over "
        f"{units} {interval(baseline.low, baseline.high)}, over prompts "
        f"{interval(baseline.prompts_low, baseline.prompts_high)})"
    )


def _titles(report: CorrelationReport, pair: PairCorrelation) -> tuple[str, str]:
    by_name = [{means.name: means.title for means in side} for side in (report.scores, report.effects)]
    return by_name[0][pair.score], by_name[1][pair.effect]


def _limits(report: CorrelationReport) -> Iterator[str]:
    word = unit_word(report)
    few = f", and {len(report.labels)} are few" if len(report.labels) < _FEW_UNITS else ""
    if report.settings.get("averaged_by_block"):
        yield "Heads and MLPs were averaged by block."
    yield f"q controls false discoveries in the family of {report.family}."
    yield (
        f"The interval over {word} is for {word} like these, and they are those of one model{few}; the "
        "interval over prompts is for prompts like these."
    )
    if not report.settings["within_layers"] and word != "blocks":
        yield (
            f"Permutation over all {word} takes those of different layers for exchangeable, which they are "
            "not: p is too small where both quantities change with depth."
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


def _p(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.2g}"
