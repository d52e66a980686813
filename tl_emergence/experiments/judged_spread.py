"""Findings and verdict of `variance`, from its tables alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tl_emergence.experiments import because
from tl_emergence.experiments.claims import Verdict
from tl_emergence.experiments.errors_of_lists import ERRORS
from tl_emergence.experiments.findings import Finding, Quantity
from tl_emergence.experiments.result import Conclusion

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, Any]


def findings(tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield where the spread peaks, where errors start, what noise leaves, and the correlations."""
    prompts = settings["prompts"]
    about = {
        "claim": "variance", "n": settings["n"], "sigma": settings["sigma"],
        "estimator": settings["estimator"], "source": prompts if isinstance(prompts, str) else "own",
    }  # fmt: skip
    yield from _places(_rows(tables["onsets"]), about)
    yield from _left_by_noise(_rows(tables["noise"]), about)
    for row in _rows(tables["correlations"]):
        over_shots = row["over"] == "shots"
        yield Finding(
            quantity="spread_error_correlation" if over_shots else "distance_error_correlation",
            value=row["spearman"], low=row["low"], high=row["high"], model=row["model"], space=row["space"],
            spread=row["spread"], error=row["error"],
            beside={name: _known(row[name]) for name in ("lowest seed", "highest seed")}, **about,
        )  # fmt: skip


def _rows(table: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _places(onsets: Sequence[Row], about: Mapping[str, Any]) -> Iterator[Finding]:
    for model, space in dict.fromkeys((row["model"], row["space"]) for row in onsets):
        of = [row for row in onsets if (row["model"], row["space"]) == (model, space)]
        exact = float(np.median([row["exact peak"] for row in of]))
        named: list[tuple[Quantity, str | None, list[float], float]] = [
            ("largest_spread_shot", None, [row["peak of spread"] for row in of], exact)
        ]
        for error in ERRORS:
            starts = [row["starts"] for row in of if row["error"] == error]
            named.append(("error_onset_shot", error, starts, math.nan))
        for quantity, error, shots, of_exact in named:
            known = [int(shot) for shot in shots if not math.isnan(shot)]
            if known:
                beside = {
                    "lowest": min(known), "highest": max(known), "seeds": len(shots),
                    "seeds with one": len(known),
                }  # fmt: skip
                yield Finding(
                    quantity=quantity, value=float(np.median(known)), exact=of_exact, model=model,
                    space=space, place="separator", error=error, beside=beside, **about,
                )  # fmt: skip


def _agreements(noise: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in noise:
        if not math.isnan(row["agreement"]):
            cells.setdefault((row["model"], row["space"]), []).append(row)
    return cells


def _left_by_noise(noise: Sequence[Row], about: Mapping[str, Any]) -> Iterator[Finding]:
    for (model, space), rows in _agreements(noise).items():
        largest = max(rows, key=lambda row: row["sd over prompts"])
        beside = {name: largest[name] for name in ("noise sd", "sd over prompts", "shot")}
        yield Finding(
            quantity="distance_agreement", value=float(np.mean([row["agreement"] for row in rows])),
            model=model, space=space, beside=beside, **about,
        )  # fmt: skip


def conclusions(tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> Iterator[Conclusion]:
    """Yield the verdict on "variance".

    No exact curve can give it for any network: where errors start, at the peak of the spread or elsewhere, is
    the model's own. A peak that the prompts alone have is not counted as the model's.
    """
    onsets, noise = _rows(tables["onsets"]), _rows(tables["noise"])
    correlations = [row for row in _rows(tables["correlations"]) if not math.isnan(row["spearman"])]
    peaks = list({(row["model"], row["space"], row["seed"]): row for row in onsets}.values())
    agreements = [float(np.mean([row["agreement"] for row in of])) for of in _agreements(noise).values()]
    crossing = onsets[0]["crossing"]
    said = because.spread(
        peaks, onsets, correlations, agreements, changes=surely_changes(peaks),
        crossing=None if math.isnan(crossing) else int(crossing),
    )  # fmt: skip
    verdict = spread_rule(peaks, onsets, correlations)
    yield Conclusion("variance", verdict, said, settings["estimator"], settings["sigma"])


def surely_changes(peaks: Sequence[Row]) -> bool:
    """Return whether, in every model and space, each seed's peak lies above every seed's last shot."""
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in peaks:
        cells.setdefault((row["model"], row["space"]), []).append(row)
    return all(
        min(row["sd at peak"] for row in of) > max(row["sd at last"] for row in of) for of in cells.values()
    )


def spread_rule(peaks: Sequence[Row], onsets: Sequence[Row], correlations: Sequence[Row]) -> Verdict:
    """Judge "changes with shots and peaks where the model starts to err".

    Args:
        peaks: One row per model, space and seed.
        onsets: One row per model, space, seed and error.
        correlations: Those that are defined.
    """
    exact = sum(row["peak of spread"] == row["exact peak"] for row in peaks)
    own = surely_changes(peaks) and 2 * exact < len(peaks)  # in most runs not the prompts' alone
    started = [row for row in onsets if not math.isnan(row["starts"])]
    same = sum(row["peak of spread"] == row["starts"] for row in started)
    together = bool(started) and 2 * same >= len(started)
    over_shots = [row for row in correlations if (row["over"], row["spread"]) == ("shots", "prompts")]
    up, down = (sum(of) for of in ([r["low"] > 0 for r in over_shots], [r["high"] < 0 for r in over_shots]))
    whole = own and together and up > 0 and down == 0
    return "holds" if whole else "holds partly" if own or together else "does not hold"
