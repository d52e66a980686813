"""One result out of a sweep or comparison, by space and noise level."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tl_emergence.checks import is_key
from tl_emergence.errors import SettingError, unknown_name
from tl_emergence.results import (
    AnyResult,
    EmergenceResult,
    EstimatorComparison,
    SigmaSweep,
    SpaceComparison,
)


def at_sigma(found: EmergenceResult | SigmaSweep, sigma: float | None) -> EmergenceResult:
    """Return a result itself, or the one of a sweep at sigma (nearest to 0.5 for None).

    Raises:
        SettingError: A sigma that was not measured.
    """
    if isinstance(found, EmergenceResult):
        found = SigmaSweep({found.sigma: found})
    chosen = min(found, key=lambda s: abs(s - 0.5)) if sigma is None else sigma
    if chosen not in found:
        raise SettingError(
            "sigma not measured", seen=chosen, expected=f"one of {sorted(found)}", fix="Choose one of these."
        )
    return found[chosen]


def in_space(
    found: EmergenceResult | SigmaSweep | SpaceComparison, space: str | None
) -> EmergenceResult | SigmaSweep:
    """Return what was measured in a space; for None, in the first.

    Raises:
        SettingError: A space that was not measured.
    """
    if isinstance(found, EmergenceResult):
        by_space: Mapping[str, EmergenceResult | SigmaSweep] = {found.space: found}
    elif isinstance(found, SigmaSweep):
        by_space = {next(iter(found.values())).space: found}
    else:
        by_space = found
    chosen = next(iter(by_space)) if space is None else space
    if not is_key(chosen, by_space):
        raise unknown_name("space", space, list(by_space))
    return by_space[chosen]


def of_estimators(
    results: Mapping[str, EmergenceResult | SigmaSweep | SpaceComparison],
    space: str | None = None,
    sigma: float | None = None,
) -> dict[str, EmergenceResult]:
    """Return one result an estimator; one that was measured without a sweep stands at its own sigma.

    Raises:
        SettingError: A space that was not measured, a sigma that no estimator was measured at.
    """
    there = {name: in_space(found, space) for name, found in results.items()}
    levels = {name: [one.sigma for one in singles(found)] for name, found in there.items()}
    if sigma is not None and all(sigma not in measured for measured in levels.values()):
        raise SettingError(
            "sigma not measured", seen=sigma, expected=f"one of {levels}", fix="Choose one of these."
        )
    return {
        name: found if isinstance(found, EmergenceResult) else at_sigma(found, sigma)
        for name, found in there.items()
    }


def singles(result: AnyResult) -> Iterator[EmergenceResult]:
    """Yield every result of a sweep or comparison."""
    if isinstance(result, EmergenceResult):
        yield result
    else:
        for part in result.values():
            yield from singles(part)


def worth_a_table(result: AnyResult) -> Iterator[tuple[str, EmergenceResult]]:
    """Yield, with titles, a result for each estimator and space, at the noise level nearest to 0.5."""
    if isinstance(result, EstimatorComparison):
        for name, found in result.items():
            for title, single in worth_a_table(found):
                yield ", ".join(filter(None, (f"estimator {name!r}", title))), single
    elif isinstance(result, SpaceComparison):
        for space, found in result.items():
            yield f"space {space!r}", at_sigma(found, None)
    else:
        yield "", at_sigma(result, None)
