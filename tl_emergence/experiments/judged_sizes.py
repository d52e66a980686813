"""Findings and verdict of `model_size`, from its tables alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tl_emergence.experiments import because
from tl_emergence.experiments.claims import LEAST_MODELS, LEAST_PARAMETERS, Verdict
from tl_emergence.experiments.findings import Finding, interval
from tl_emergence.experiments.result import Conclusion

if TYPE_CHECKING:
    import pandas as pd

AT_CEILING = 0.01
"""A share that is so near to 1 leaves nothing that a larger model could add."""


def findings(tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield the share of exact emergence of every model, space and run."""
    for row in tables["sizes"].to_dict("records"):
        yield Finding(
            claim="model size", quantity="emergence_share", **interval(row["share"], row["stderr"]),
            model=row["model"], run=row["run"], space=row["space"], n=settings["n"],
            sigma=settings["sigma"], estimator=settings["estimator"], place="position",
            beside={"parameters": row["parameters"], "stderr": row["stderr"]},
        )  # fmt: skip


def conclusions(tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> Iterator[Conclusion]:
    """Yield the verdict on "model size", over the models that are large enough for the claim."""
    of = tuple(findings(tables, settings))
    large = [one for one in of if one.run == "model" and _parameters(one) >= LEAST_PARAMETERS]
    models = len({one.model for one in large})
    at_ceiling = bool(large) and all(abs(one.value - 1) < AT_CEILING for one in large)
    verdict: Verdict
    if models < LEAST_MODELS:
        verdict = "cannot be tested here"
    elif at_ceiling:
        verdict = "cannot be tested at this N"
    else:
        verdict = growth_rule(large)
    said = because.sizes(of, models, at_ceiling)
    yield Conclusion("model size", verdict, said, settings["estimator"], settings["sigma"])


def growth_rule(of: Sequence[Finding]) -> Verdict:
    """Judge "grows with size": from each model to the next larger the share surely grows."""
    grows = []
    for space in dict.fromkeys(one.space for one in of):
        rows = sorted((one for one in of if one.space == space), key=_parameters)
        grows.append(
            all(
                b.value - a.value > 1.96 * np.hypot(a.beside["stderr"] or 0, b.beside["stderr"] or 0)
                for a, b in itertools.pairwise(rows)
            )
        )
    return "holds" if all(grows) else "holds partly" if any(grows) else "does not hold"


def _parameters(one: Finding) -> float:
    return float(one.beside["parameters"] or 0)
