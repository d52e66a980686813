"""Findings in words, made from their fields. Nothing reads these words but people."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tl_emergence.experiments.findings import Finding

CONTROLS = {"shuffled_weights": "weights shuffled"}


def counted(parameters: float) -> str:
    """Return a number of parameters as people say it.

    Example:
        >>> counted(2.5e9), counted(134_515_008), counted(20_832)
        ('2.5 B', '135 M', '21 k')
    """
    if parameters >= 1e9:
        return f"{parameters / 1e9:.2g} B"
    return f"{parameters / 1e6:.0f} M" if parameters >= 1e6 else f"{parameters / 1e3:.0f} k"


def where(one: Finding) -> str:
    """Return model, checkpoint, prompts, space, run and number of prompts."""
    parameters = one.beside.get("parameters")
    model = one.model if parameters is None else f"{one.model} ({counted(parameters)} parameters)"
    source = one.source if one.against is None else f"{one.source} - {one.against}"
    matched = {None: None, True: "matched", False: "unmatched"}[one.matched]
    reader = "" if one.matched is None else f"read by {one.model}"
    parts = [
        reader or model,
        None if one.checkpoint == one.model else one.checkpoint,
        source,
        matched,
        f"space {one.space}",
        None if one.run == "model" else CONTROLS.get(one.run, one.run),
        f"N = {one.n:,}",
    ]
    return ", ".join(part for part in parts if part)


def what(one: Finding) -> str:
    """Return what was measured, with the exact value where there is one."""
    return _WORDS[one.quantity](one)


def exact(one: Finding, sign: str = "+") -> str:
    """Return the exact value in brackets, or nothing."""
    return "" if math.isnan(one.exact) else f" (exact: {one.exact:{sign}.2f})"


def shots_or_tokens(one: Finding) -> str:
    """Return which shots or tokens a finding covers."""
    unit = "token" if one.place == "token" else "shot"
    if one.first == one.last:
        return f"{unit} {one.first}"
    return f"{unit}s {one.first} to {one.last}"


def _emergence(one: Finding) -> str:
    at = {"separator": "separator", "token": "token"}.get(str(one.place), "position")
    above, blocks = one.beside.get("blocks above 0"), one.beside.get("blocks")
    said = f"emergence at the last {at}, mean over blocks{exact(one, '')}"
    if above is not None:
        said += f"; above 0 in {above} of {blocks} blocks"
    entropy = one.beside.get("token entropy")
    return said if entropy is None else f"{said}; entropy per token {entropy:.2f} bits"


def _change(one: Finding) -> str:
    at = "token" if one.place == "token" else "the separator of shot"
    return f"change of emergence from {at} {one.first} to {one.last}{exact(one)}"


def _change_past_cap(one: Finding) -> str:
    crossing = one.beside["crossing"]
    return f"{_change(one)}, after the entropy of the list has passed log2 N at shot {crossing}"


def _rise(quantity: str) -> Callable[[Finding], str]:
    def said(one: Finding) -> str:
        at = "a new entity" if one.place == "entity" else "the separator"
        mean = "" if one.first == one.last else "mean "
        return f"{mean}rise of {quantity} at {at}, {shots_or_tokens(one)}{exact(one)}"

    return said


def _rise_where_flat(one: Finding) -> str:
    return f"{_rise('macro')(one)}, where exact macro is flat"


def _knee(quantity: str) -> Callable[[Finding], str]:
    def said(one: Finding) -> str:
        crossing = one.beside["crossing"]
        passed = "passes log2 N at no shot" if crossing is None else f"passes log2 N at shot {crossing}"
        return f"knee of {quantity} (exact: shot {one.exact:g}; the entropy of the list {passed})"

    return said


def _rising_separators(quantity: str) -> Callable[[Finding], str]:
    def said(one: Finding) -> str:
        places, until = one.beside["separators"], shots_or_tokens(one)
        return f"separators at which {quantity} surely rises, of {places}, {until} (exact: {one.exact:g})"

    return said


def _rising(one: Finding) -> str:
    of, falls = one.beside["tokens"], one.beside["falls"]
    return f"tokens at which emergence rises, of {of} (falls: {falls}; exact rises: {one.exact:g})"


def _over_seeds(one: Finding) -> str:
    low, high, seeds, known = (one.beside[name] for name in ("lowest", "highest", "seeds", "seeds with one"))
    span = f"{low}" if low == high else f"{low} to {high}"
    return f"over seeds: {span}" + ("" if known == seeds else f", in {known} of {seeds}")


def _correlation(one: Finding) -> str:
    low, high = one.beside["lowest seed"], one.beside["highest seed"]
    known = low is not None and high is not None
    seeds = f"seeds {low:+.2f} to {high:+.2f}" if known else "one of the two does not vary"
    if one.quantity == "distance_error_correlation":
        return f"over prompts, Spearman of the distance from the mean with {one.error} ({seeds})"
    return f"over shots, Spearman of the spread over {one.spread} with the mean {one.error} ({seeds})"


def _agreement(one: Finding) -> str:
    noise, spread, shot = (one.beside[name] for name in ("noise sd", "sd over prompts", "shot"))
    return (
        "Spearman of the distance from the mean with itself, measured again with other noise (noise sd: "
        f"{noise:.2f} of {spread:.2f} bits at shot {shot})"
    )


_WORDS: Mapping[str, Callable[[Finding], str]] = {
    "emergence": _emergence,
    "emergence_change": _change,
    "emergence_change_past_cap": _change_past_cap,
    "emergence_rise": _rise("emergence"),
    "macro_rise": _rise("macro"),
    "macro_rise_where_exact_is_flat": _rise_where_flat,
    "rising_separators": _rising_separators("emergence"),
    "macro_rising_separators": _rising_separators("macro"),
    "macro_knee": _knee("macro"),
    "emergence_knee": _knee("emergence"),
    "rising_tokens": _rising,
    "emergence_share": lambda _: "emergence divided by exact emergence",
    "largest_spread_shot": lambda one: f"shot of the largest spread over prompts ({_over_seeds(one)})",
    "error_onset_shot": lambda one: f"shot at which the {one.error} starts to rise ({_over_seeds(one)})",
    "spread_error_correlation": _correlation,
    "distance_error_correlation": _correlation,
    "distance_agreement": _agreement,
    "emergence_difference": lambda one: f"difference of emergence{exact(one)}",
    "emergence_difference_beyond_exact": lambda _: "difference of emergence less the exact difference",
}
