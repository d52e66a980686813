"""Findings and verdicts of `shots`, from its tables alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tl_emergence.experiments import because
from tl_emergence.experiments.claims import Verdict, settled
from tl_emergence.experiments.curves import EXACT, ROUNDING, Curve, curves_by
from tl_emergence.experiments.findings import Finding, Quantity, interval
from tl_emergence.experiments.result import Conclusion

if TYPE_CHECKING:
    import pandas as pd

KNEE = 0.95
"""The knee is the first shot at which macro reaches this part of its largest value over shots."""
FLAT = 0.1
"""Bits: shuffled weights that lie nearer to exact macro than that are said to follow it."""
_CONTROL = "shuffled_weights"
_SEVENTH = 7
_KNEES: dict[Quantity, str] = {"macro_knee": "macro", "emergence_knee": "emergence"}


def knee(curve: Curve) -> int:
    """Return the first shot at whose separator a curve reaches `KNEE` of its largest value at any."""
    at = curve.values[1::2]
    most = at.max()  # emergence may lie below 0 everywhere
    return int(np.flatnonzero(at >= most - (1 - KNEE) * abs(most))[0]) + 1


def findings(
    tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any], run: str = "model"
) -> Iterator[Finding]:
    """Yield the findings of a run: of the model, of a control, or of the exact curves ("exact")."""
    crossings = tables["knees"].set_index(["model", "list", "n"])["crossing"].to_dict()
    blocks = tables["blocks"].set_index(["model", "list", "space"])[["above", "blocks"]].T.to_dict()
    cells = curves_by(tables["curves"], ("model", "list", "n", "space"))
    for part in dict.fromkeys(cell[:3] for cell in cells):
        model, name, n = part
        found = None if np.isnan(crossings[part]) else int(crossings[part])
        inner = [(space, runs[run]) for (*of, space), runs in cells.items() if tuple(of) == part]
        for space, curves in inner:
            about = {
                "model": model, "run": run, "source": name, "space": space, "n": int(n),
                "sigma": settings["sigma"], "estimator": settings["estimator"],
            }  # fmt: skip
            if n == max(settings["n"]):
                counts = blocks[model, name, space] if run == "model" else {}
                yield from _of_growth(about, curves["emergence"], found, counts)
                yield from _of_steps(about, curves["emergence"], curves["macro"], found)
            for quantity, name_of in _KNEES.items():
                of = curves[name_of]
                yield Finding(
                    claim="seventh shot", quantity=quantity, value=float(knee(of)),
                    exact=float(knee(of.as_exact())), place="separator", beside={"crossing": found}, **about,
                )  # fmt: skip


def _of_growth(
    about: Mapping[str, Any], emergence: Curve, crossing: int | None, counts: Mapping[str, int]
) -> Iterator[Finding]:
    last = len(emergence.values) - 1
    shots = len(emergence.values) // 2
    yield Finding(
        claim="positive", quantity="emergence", place="separator", first=shots, last=shots,
        **interval(float(emergence.values[last]), float(emergence.stderr[last])),
        exact=float(emergence.exact[last]),
        beside={"blocks above 0": int(counts["above"]), "blocks": int(counts["blocks"])} if counts else {},
        **about,
    )  # fmt: skip
    starts: list[tuple[Quantity, int]] = [("emergence_change", 1)]
    if crossing is not None and crossing + 1 < shots:  # beyond it there is something left to look at
        starts.append(("emergence_change_past_cap", crossing + 1))
    for quantity, first in starts:
        at = 2 * first - 1
        yield Finding(
            claim="positive", quantity=quantity, place="separator", first=first, last=shots,
            **interval(*emergence.change(at, last)), exact=emergence.as_exact().change(at, last)[0],
            beside={"crossing": crossing}, **about,
        )  # fmt: skip


def _of_steps(
    about: Mapping[str, Any], emergence: Curve, macro: Curve, crossing: int | None
) -> Iterator[Finding]:
    shots = len(emergence.values) // 2
    # Up to the crossing there is something to rise to; three shots at least.
    reach = max(3, shots if crossing is None else min(crossing, shots))
    yield _mean_rise("emergence_rise", emergence, "separator", range(1, 2), about)
    later = range(2, reach + 1)  # the first entity has nothing before it to rise from
    rises: dict[Quantity, Curve] = {"macro_rise": macro, "emergence_rise": emergence}
    for quantity, of in rises.items():
        for place in ("entity", "separator"):
            yield _mean_rise(quantity, of, place, later, about)
    separators = [2 * shot - 1 for shot in range(1, reach + 1)]
    rising: dict[Quantity, Curve] = {"rising_separators": emergence, "macro_rising_separators": macro}
    for quantity, of in rising.items():
        sure, exact = (sum(map(one.surely_rises, separators)) for one in (of, of.as_exact()))
        yield Finding(
            claim="staircase", quantity=quantity, value=float(sure), exact=float(exact), place="separator",
            first=1, last=reach, beside={"separators": len(separators)}, **about,
        )  # fmt: skip
    flat = _flat_from(macro)
    if flat <= shots:
        for place in ("entity", "separator"):
            yield _mean_rise("macro_rise_where_exact_is_flat", macro, place, range(flat, shots + 1), about)


def _mean_rise(
    quantity: Quantity, of: Curve, place: Any, shots: Sequence[int], about: Mapping[str, Any]
) -> Finding:
    at = [2 * shot - (2 if place == "entity" else 1) for shot in shots]
    changes, errors = zip(*(of.rise(t) for t in at), strict=True)
    return Finding(
        claim="staircase", quantity=quantity, place=place, first=shots[0], last=shots[-1],
        **interval(float(np.mean(changes)), float(np.mean(errors))),
        exact=float(np.mean([of.exact[t] - of.exact[t - 1] for t in at])), **about,
    )  # fmt: skip


def _flat_from(macro: Curve) -> int:
    """Return the first shot from which on exact macro rises at no entity by 0.01 bits."""
    steps = np.flatnonzero(np.diff(macro.exact)[1::2] >= 0.01)  # at the entities of shots 2, 3, ...
    return int(steps[-1]) + 3 if len(steps) else 2


def conclusions(tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> Iterator[Conclusion]:
    """Yield the verdicts on "positive", "staircase" and "seventh shot"."""
    runs = [str(run) for run in tables["curves"]["run"].unique()]
    of = {run: tuple(findings(tables, settings, run)) for run in dict.fromkeys(["model", EXACT, *runs])}
    by = {"estimator": settings["estimator"], "sigma": settings["sigma"]}
    # Blocks are counted for the model alone; on the exact curve all blocks from 1 on are the same.
    rules: dict[str, Verdict] = {run: growth_rule(of[run]) for run in ("model", EXACT)}
    yield Conclusion(
        "positive", settled(rules), because.growth_of_lists(of["model"], rules), by_rule=rules, **by
    )
    rules = {run: steps_rule(found) for run, found in of.items()}
    apart = _apart(tables["curves"])
    said = because.steps_of_lists(of["model"], rules, apart, follows=apart < FLAT)
    yield Conclusion("staircase", settled(rules), said, by_rule=rules, **by)
    if settings["most"] < _SEVENTH + 1:
        said = because.too_few_shots(settings["most"])
        yield Conclusion("seventh shot", "cannot be tested here", said, **by)
        return
    rules = {run: knee_rule(found) for run, found in of.items()}
    bits = tables["knees"].drop_duplicates("list").set_index("list")["bits_of_7"].to_dict()
    needed = {name: of_7 for name, of_7 in bits.items() if not math.isnan(of_7)}
    said = because.knees(of["model"], of.get(_CONTROL, ()), settings, rules, needed)
    yield Conclusion("seventh shot", settled(rules), said, by_rule=rules, **by)


def growth_rule(of: Sequence[Finding]) -> Verdict:
    """Judge "positive and grows": at the last separator, from the first, past log2 N, and in every block."""
    last, early, late = (
        [one for one in of if one.quantity == quantity]
        for quantity in ("emergence", "emergence_change", "emergence_change_past_cap")
    )
    blocks = [one.beside for one in last if one.beside]
    everywhere = all(found["blocks above 0"] == found["blocks"] for found in blocks)
    if everywhere and all(one.low > ROUNDING for one in (*last, *early, *late)):
        return "holds"
    return "holds partly" if any(one.low > ROUNDING for one in last) else "does not hold"


def steps_rule(of: Sequence[Finding]) -> Verdict:
    """Judge "only at a new demonstration": emergence rises at entities, and at no separator."""
    entities = [one for one in of if one.quantity == "emergence_rise" and one.place == "entity"]
    separators = [one for one in of if one.quantity == "rising_separators"]
    if all(one.low > ROUNDING for one in entities) and all(one.value == 0 for one in separators):
        return "holds"
    some = any(one.low > ROUNDING for one in entities)
    everywhere = all(one.value == one.beside["separators"] for one in separators)
    return "holds partly" if some and not everywhere else "does not hold"


def knee_rule(of: Sequence[Finding]) -> Verdict:
    """Judge "saturates near the 7th shot": the knees of macro and of emergence lie at shot 6, 7 or 8."""
    near = [abs(one.value - _SEVENTH) <= 1 for one in of if one.quantity in ("macro_knee", "emergence_knee")]
    return "holds" if all(near) else "holds partly" if any(near) else "does not hold"


def _apart(curves: pd.DataFrame) -> float:
    """Return how far shuffled weights lie from the exact macro at most, in bits."""
    rows = curves[(curves["run"] == _CONTROL) & (curves["quantity"] == "macro")]
    return float(np.abs(np.asarray(rows["value"]) - np.asarray(rows["exact"])).max())
