"""Verdicts in words: why a rule says what it says. Nothing reads these words but people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tl_emergence.experiments.claims import LEAST_MODELS, LEAST_PARAMETERS, LEAST_WRITER
from tl_emergence.experiments.findings import Finding
from tl_emergence.experiments.words import counted


def signs(of: Sequence[Any]) -> str:
    """Return how many intervals of findings or rows lie above 0, and how many below."""
    lows, highs = ([_end(one, name) for one in of] for name in ("low", "high"))
    up, down = sum(low > 0 for low in lows), sum(high < 0 for high in highs)
    return f"{up} positive and {down} negative of {len(of)}"


def _end(one: Any, name: str) -> float:
    return one[name] if isinstance(one, Mapping) else getattr(one, name)


def span(numbers: Iterable[float]) -> str:
    """Return one whole number, or the lowest and the highest of several."""
    low, high = min(found := [int(number) for number in numbers]), max(found)
    return str(low) if low == high else f"{low} to {high}"


def of_any_network(rules: Mapping[str, str]) -> str:
    """Return how the verdict on the model stands beside the one on the exact curves."""
    others = [name for name in rules if name not in ("model", "exact")]
    if len(set(rules.values())) == 1:
        shuffled = " and of shuffled weights" if others else ""
        return (
            f" The rule says {rules['model']!r} of what was measured{shuffled}, and of the exact curves too, "
            "which are the same for any network: at this N it says nothing about the model."
        )
    return f" Of the exact curves, which are the same for any network, the rule says {rules['exact']!r}."


def _above(of: Sequence[Finding]) -> int:
    return sum(one.low > 0 for one in of)


def _below(of: Sequence[Finding]) -> int:
    return sum(one.high < 0 for one in of)


def growth_of_lists(of: Sequence[Finding], rules: Mapping[str, str]) -> str:
    """Say whether emergence of lists is positive and grows, and whether it goes on past log2 N."""
    last, early, late = (
        [one for one in of if one.quantity == quantity]
        for quantity in ("emergence", "emergence_change", "emergence_change_past_cap")
    )
    blocks, all_blocks = (
        sum(int(one.beside.get(name) or 0) for one in last) for name in ("blocks above 0", "blocks")
    )
    crossings = [one.beside["crossing"] for one in early if one.beside["crossing"] is not None]
    if late:
        beyond = (
            "Once the entropy of the list has passed log2 N it rises on in "
            f"{_above(late)} of {len(late)} and falls in {_below(late)}."
        )
    elif crossings:
        beyond = (
            f"The entropy of the list passes log2 N at shot {span(crossings)}, which leaves no later shots "
            "to look at."
        )
    else:
        beyond = "The entropy of the list passes log2 N at no shot."
    return (
        "The mean over blocks of emergence at the last separator is above 0 in "
        f"{_above(last)} of {len(last)} cells, emergence itself in {blocks} of {all_blocks} "
        "blocks; the mean is above that at the first "
        f"separator in {_above(early)} of {len(early)}. {beyond}{of_any_network(rules)}"
    )


def steps_of_lists(of: Sequence[Finding], rules: Mapping[str, str], apart: float, *, follows: bool) -> str:
    """Say where emergence and macro of lists rise, and what shuffled weights do."""
    entities = [one for one in of if one.quantity == "emergence_rise" and one.place == "entity"]
    falls = [one for one in of if one.quantity == "macro_rise" and one.place == "separator"]
    rising = [one for one in of if one.quantity == "rising_separators"]
    macro_rising = [one for one in of if one.quantity == "macro_rising_separators"]
    cells, places = len(entities), sum(int(one.beside["separators"] or 0) for one in rising)
    alone = (
        f"Shuffled weights, which have learned nothing, follow exact macro to within {apart:.2f} bits, so up "
        "to where log2 N is used up, rises at entities and the end of the rise follow from the prompts and "
        f"from N alone. That macro falls at separators, in {_below(falls)} of {cells} cells, does not."
        f"{_where_flat(of)}"
        if follows
        else f"Shuffled weights lie up to {apart:.2f} bits from exact macro, so the steps are not shown to "
        "follow from the prompts alone."
    )
    return (
        f"Emergence rises at new entities in {_above(entities)} of {cells} cells; it surely rises at "
        f"{sum(one.value for one in rising):.0f} of {places} separators too, and at none in "
        f"{sum(one.value == 0 for one in rising)} of the cells (macro: at "
        f"{sum(one.value for one in macro_rising):.0f} separators). Exact macro rises at entities only, "
        f"exact emergence at {sum(one.exact for one in rising):.0f} of these separators too, where a token "
        f"that carries nothing alone lowers the mean micro. {alone}{of_any_network(rules)}"
    )


def _where_flat(of: Sequence[Finding]) -> str:
    """Say what macro does at entities and separators where exact macro is flat."""
    later = [one for one in of if one.quantity == "macro_rise_where_exact_is_flat"]
    entities, separators = ([one for one in later if one.place == place] for place in ("entity", "separator"))
    if not entities:
        return ""
    rising = _above(entities)
    own = " Those steps are the model's: a separator carries less of the list than an entity."
    return (
        f" Beyond, exact macro is flat: the model's rises at entities in {rising} of {len(entities)} cells, "
        f"by {min(one.value for one in entities):.2f} to {max(one.value for one in entities):.2f} bits, and "
        f"falls back at separators in {_below(separators)}.{own if rising else ''}"
    )


def too_few_shots(most: int) -> str:
    """Say why so many shots cannot show a plateau at the 7th."""
    return f"Lists of {most} shots do not reach beyond the 7th."


def knees(
    of: Sequence[Finding],
    control: Sequence[Finding],
    settings: Mapping[str, Any],
    rules: Mapping[str, str],
    bits_of_7: Mapping[str, float],
) -> str:
    """Say where the knees lie, beside those of the exact curves and of shuffled weights."""
    macro, emergence, shuffled = (
        [one for one in found if one.quantity == quantity]
        for found, quantity in ((of, "macro_knee"), (of, "emergence_knee"), (control, "macro_knee"))
    )
    same, near, alike = (
        sum(abs(one.value - one.exact) <= far for one in found)
        for found, far in ((macro, 0), (macro, 1), (shuffled, 1))
    )
    needed = "".join(
        f" For log2 N to reach 7 shots of {name}, 2^{bits:.0f} prompts are needed."
        for name, bits in bits_of_7.items()
    )
    return (
        f"With N = {', '.join(f'{n:,}' for n in settings['n'])} and {settings['most']} shots the knee of "
        f"macro lies at shot {span(one.value for one in macro)}: that of the exact curve in {same} of "
        f"{len(macro)} cells, within one shot of it in {near} ({alike} of {len(shuffled)} with shuffled "
        f"weights); that of emergence lies at shot {span(one.value for one in emergence)} (exact: "
        f"{span(one.exact for one in emergence)}).{_moves(macro)}{needed}{of_any_network(rules)}"
    )


def _moves(macro: Sequence[Finding]) -> str:
    """Say whether knees move with N, where there are several."""
    cells: dict[tuple[str, str | None, str], list[Finding]] = {}
    for one in macro:
        cells.setdefault((one.model, one.source, one.space), []).append(one)
    ends = [(min(of, key=lambda one: one.n), max(of, key=lambda one: one.n)) for of in cells.values()]
    if all(small.n == large.n for small, large in ends):
        return ""
    later, exact = (
        sum(getattr(large, name) > getattr(small, name) for small, large in ends)
        for name in ("value", "exact")
    )
    return (
        f" The knee of macro moves to a later shot with N in {later} of {len(cells)} cells (exact: in "
        f"{exact})."
    )


def tokens_of_text(of: Sequence[Finding], rules: Mapping[str, str]) -> str:
    """Say at how many tokens of text emergence rises, and what it does over the second half of windows."""
    counts = [one for one in of if one.claim == "every token" and one.quantity == "rising_tokens"]
    late = [one for one in of if one.claim == "every token" and one.quantity == "emergence_change"]
    tokens, falls, undecided = (
        sum(int(one.beside[name] or 0) for one in counts) for name in ("tokens", "falls", "undecided")
    )
    return (
        f"Emergence surely rises (1.96 standard errors) at {sum(one.value for one in counts):.0f} of "
        f"{tokens} tokens of text; it falls at {falls}, and at {undecided} neither is sure. Exact emergence, "
        "the entropy of the prefix, which stops at log2 N, less the mean entropy of its tokens, rises at "
        f"{sum(one.exact for one in counts):.0f}. Over the second half of the windows what is measured rises "
        f"in {_above(late)} of {len(late)} cells and falls in {_below(late)}.{of_any_network(rules)}"
    )


def growth_of_text(of: Sequence[Finding], rules: Mapping[str, str]) -> str:
    """Say whether emergence of text and lists is positive, and whether that of text grows."""
    last = [one for one in of if one.quantity == "emergence"]
    late = [one for one in of if one.claim == "every token" and one.quantity == "emergence_change"]
    return (
        f"Emergence at the last token is above 0 in {_above(last)} of {len(last)} cells, lists among them; "
        f"over the second half of the windows of text it rises in {_above(late)} of {len(late)}."
        f"{of_any_network(rules)}"
    )


def sizes(of: Sequence[Finding], large: int, at_ceiling: bool) -> str:
    """Say how the share of exact emergence goes with the number of parameters."""
    models = [one for one in of if one.run == "model"]
    control = [one.value for one in of if one.run != "model"]
    said = []
    for space in dict.fromkeys(one.space for one in models):
        rows = sorted((one for one in models if one.space == space), key=_parameters)
        said.append(f"{space}: " + " to ".join(f"{one.value:.2f}" for one in rows))
    text = "From the smallest to the largest model, emergence divided by exact emergence: " + "; ".join(said)
    if control:
        text += f"; with weights shuffled {min(control):.2f} to {max(control):.2f}"
    text += "."
    if any(one.value > 1 for one in models):
        text += " It is above 1 where tokens alone fall further short of their exact value than prompts do."
    if large < LEAST_MODELS:
        return text + (
            f" The claim is about language models of at least {counted(LEAST_PARAMETERS)} parameters, and at "
            f"least {LEAST_MODELS} of them are needed to see a trend; here were {large}."
        )
    if at_ceiling:
        return text + " Every model reaches the exact value at this N, so no size could show more."
    return text + " There is one training run per model: the errors are of the estimate, not of training."


def _parameters(one: Finding) -> float:
    return float(one.beside["parameters"] or 0)


def sources(
    of: Sequence[Mapping[str, Any]], writers: Mapping[str, float | None], large: Sequence[str]
) -> str:
    """Say how the emergence of each source stands beside that of the human text.

    Args:
        of: For each source and space, the signs of the difference, unmatched and matched, and its size.
        writers: Parameters of each source; None where they are not known.
        large: The sources that the claim is about.
    """
    names = {1: "higher", -1: "lower", 0: "no different"}
    told = "; ".join(
        f"{row['source']} in {row['space']}: {names[row['unmatched']]} unmatched, {names[row['matched']]} "
        "matched"
        for row in of
    )
    there = sum(row["unmatched"] != 0 for row in of)
    kept = sum(row["unmatched"] == row["matched"] != 0 for row in of)
    beyond = [row["beyond exact"] for row in of]
    text = (
        f"Emergence of each source beside that of the human text: {told}. Of {there} differences {kept} "
        f"survive the matching with their sign; matched, they are {min(beyond):+.2f} to {max(beyond):+.2f} "
        "bits beyond exact."
    )
    if large:
        return f"{text} The verdict is on {', '.join(large)}."
    own = ", ".join(f"{name} ({counted(size)} parameters)" for name, size in writers.items() if size)
    return (
        f"{text} The claim is about writers such as GPT-4 and Llama 3, of at least {counted(LEAST_WRITER)} "
        f"parameters; here wrote {own}."
    )


def spread(
    peaks: Sequence[Mapping[str, Any]],
    onsets: Sequence[Mapping[str, Any]],
    correlations: Sequence[Mapping[str, Any]],
    agreements: Sequence[float],
    *,
    changes: bool,
    crossing: int | None,
) -> str:
    """Say where the spread peaks, where errors start, and how the two correlate.

    Args:
        peaks: One row per model, space and seed.
        onsets: One row per model, space, seed and error.
        correlations: Those that are defined.
        agreements: Of each model and space, of distances with themselves, measured with other noise.
        changes: Whether the spread surely changes with the number of shots.
        crossing: The shot at which the entropy of a list passes log2 N.
    """
    ratios = [row["sd at peak"] / row["sd at last"] for row in peaks]
    exact = sum(row["peak of spread"] == row["exact peak"] for row in peaks)
    errors = {(row["model"], row["seed"], row["error"]) for row in onsets}
    started = [row for row in onsets if row["starts"] == row["starts"]]  # NaN where it never does
    starting = {(row["model"], row["seed"], row["error"]) for row in started}
    same = sum(row["peak of spread"] == row["starts"] for row in started)
    starts = (
        f"{len(starting)} of {len(errors)} (model, seed, error) start to rise, at shot "
        f"{span(row['starts'] for row in started)}, and the peak is there in {same} of {len(started)} pairs "
        "with a space"
        if started
        else "no error starts to rise anywhere, so this part of the claim cannot be tested"
    )
    there = "at no shot" if crossing is None else f"at shot {crossing}"
    alone = "" if 2 * exact < len(peaks) else ", so where it peaks is no property of the model"
    kinds = {
        kind: signs([row for row in correlations if (row["over"], row["spread"]) == kind])
        for kind in (("shots", "prompts"), ("shots", "blocks"), ("shots", "seeds"), ("prompts", "prompts"))
    }
    text = (
        f"The spread over prompts {'changes' if changes else 'does not surely change'} with the number of "
        f"shots: it peaks at shot {span(row['peak of spread'] for row in peaks)}, {min(ratios):.1f} to "
        f"{max(ratios):.1f} times that at the last. The exact spread, that of the prompts without a model, "
        f"peaks at the same shot in {exact} of {len(peaks)} runs (the entropy of a list passes log2 N "
        f"{there}){alone}. Errors: {starts}. Correlations whose interval excludes 0: over shots, of the "
        f"spread over prompts {kinds['shots', 'prompts']}, over blocks {kinds['shots', 'blocks']}, over "
        f"seeds {kinds['shots', 'seeds']}; over prompts {kinds['prompts', 'prompts']}."
    )
    if not agreements:
        return text
    low, high = min(agreements), max(agreements)
    return (
        f"{text} Measured again with other noise, distances agree with themselves by {low:.2f} to "
        f"{high:.2f}: noise leaves correlations over prompts about {max(low, 0.0) ** 0.5:.2f} to "
        f"{max(high, 0.0) ** 0.5:.2f} of their size."
    )
