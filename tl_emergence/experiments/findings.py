"""One number that bears on a claim, with fields that say what it is, where it was measured, and how."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from tl_emergence.errors import unknown_name
from tl_emergence.experiments.claims import CLAIMS

if TYPE_CHECKING:
    import pandas as pd

_NORMAL_95 = 1.959964

Quantity = Literal[
    "emergence",
    "emergence_change",
    "emergence_change_past_cap",
    "emergence_rise",
    "macro_rise",
    "macro_rise_where_exact_is_flat",
    "rising_separators",
    "macro_rising_separators",
    "macro_knee",
    "emergence_knee",
    "rising_tokens",
    "emergence_share",
    "largest_spread_shot",
    "error_onset_shot",
    "spread_error_correlation",
    "distance_error_correlation",
    "distance_agreement",
    "emergence_difference",
    "emergence_difference_beyond_exact",
]
QUANTITIES: tuple[str, ...] = get_args(Quantity)
Place = Literal["entity", "separator", "token", "position"]
PLACES: tuple[str, ...] = get_args(Place)

UNITS: dict[str, str] = {
    "rising_separators": "separators",
    "macro_rising_separators": "separators",
    "macro_knee": "shots",
    "emergence_knee": "shots",
    "largest_spread_shot": "shots",
    "error_onset_shot": "shots",
    "rising_tokens": "tokens",
    "emergence_share": "",
    "spread_error_correlation": "",
    "distance_error_correlation": "",
    "distance_agreement": "",
}
"""Units of the quantities that are not in bits."""
_COUNTED = ("shots", "tokens", "separators")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One number that bears on a claim, with its interval of 95 %.

    Rules read these fields and never `where`, `what` or `text`, which are made from them (`words`).

    Attributes:
        claim: Short name of the claim (a key of `CLAIMS`).
        quantity: What was measured, one of `QUANTITIES`.
        value: The number.
        low: Lower end of its interval; NaN where there is none.
        high: Upper end.
        exact: The same number on the exact curve, which no model changes; NaN where there is none.
        model: The model that was measured; of texts, the one that reads them.
        run: "model", or the name of a control.
        space: Coordinates of the states.
        estimator: Estimator of macro and micro.
        sigma: Its noise level.
        n: Prompts.
        source: The list, the kind of window or the writer of the text that was read.
        against: The source that a difference is from.
        matched: Whether the entropies of the sources' tokens were made to agree.
        checkpoint: The checkpoint of a model in training.
        place: Where along the prompts, one of `PLACES`.
        first: Shot or token from which it was measured, counted from 1.
        last: Shot or token up to which.
        spread: What a spread is over: "prompts", "blocks" or "seeds".
        error: Which error of the model (`ERRORS`).
        beside: Numbers that stand beside it, by name.
    """

    claim: str
    quantity: Quantity
    value: float
    low: float = math.nan
    high: float = math.nan
    exact: float = math.nan
    model: str
    run: str = "model"
    space: str
    estimator: str = "noise"
    sigma: float
    n: int
    source: str | None = None
    against: str | None = None
    matched: bool | None = None
    checkpoint: str | None = None
    place: Place | None = None
    first: int | None = None
    last: int | None = None
    spread: str | None = None
    error: str | None = None
    beside: Mapping[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {"claim": tuple(CLAIMS), "quantity": QUANTITIES, "place": (*PLACES, None)}
        for name, names in known.items():
            if getattr(self, name) not in names:
                raise unknown_name(name, getattr(self, name), [one for one in names if one is not None])

    @property
    def unit(self) -> str:
        """What the number is measured in; "" for a plain number."""
        return UNITS.get(self.quantity, "bits")

    @property
    def where(self) -> str:
        """Model, prompts and space in words, to be read, not to be parsed."""
        from tl_emergence.experiments import words

        return words.where(self)

    @property
    def what(self) -> str:
        """What was measured in words, to be read, not to be parsed."""
        from tl_emergence.experiments import words

        return words.what(self)

    def text(self) -> str:
        """Return the number with its interval and unit.

        Example:
            >>> Finding(
            ...     claim="positive", quantity="emergence", value=1.25, low=1.0, high=1.5,
            ...     model="toy", space="read", sigma=0.5, n=64,
            ... ).text()
            '1.25 [1.00, 1.50] bits'
        """
        if math.isnan(self.value):
            return "not defined"
        interval = "" if math.isnan(self.low) else f" [{self.low:.2f}, {self.high:.2f}]"
        value = f"{self.value:g}" if self.unit in _COUNTED else f"{self.value:.2f}"
        return f"{value}{interval} {self.unit}".rstrip()


class Interval(TypedDict):
    """The three fields of a finding that has an interval."""

    value: float
    low: float
    high: float


def interval(value: float, stderr: float) -> Interval:
    """Return value, low and high of a finding whose interval is normal, of 95 %."""
    return {"value": value, "low": value - _NORMAL_95 * stderr, "high": value + _NORMAL_95 * stderr}


def table(findings: tuple[Finding, ...]) -> pd.DataFrame:
    """Return one row per finding: every field but `beside`, the unit, and the words made of them."""
    import pandas as pd

    rows = []
    for one in findings:
        row = {f.name: getattr(one, f.name) for f in fields(one) if f.name != "beside"}
        rows.append({**row, "unit": one.unit, "where": one.where, "what": one.what})
    return pd.DataFrame(rows)


def to_plain(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON values: NaN becomes null, and fields at their defaults are left out."""
    plain = {}
    for name, value in asdict(finding).items():
        if name in ("value", "low", "high", "exact") and math.isnan(value):
            value = None
        if value is not None and value != {}:
            plain[name] = value
    return plain


def from_plain(plain: Mapping[str, Any]) -> Finding:
    """Return the finding that `to_plain` described; TypeError, ValueError or KeyError where it is none."""
    return Finding(**{"value": math.nan, **plain})
