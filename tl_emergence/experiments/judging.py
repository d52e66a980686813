"""From the tables of an experiment to its findings and verdicts: nothing else is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tl_emergence.errors import unknown_name
from tl_emergence.experiments import (
    judged_lists,
    judged_sizes,
    judged_sources,
    judged_spread,
    judged_steps,
    judged_text,
)
from tl_emergence.experiments.findings import Finding
from tl_emergence.experiments.result import Conclusion

if TYPE_CHECKING:
    import pandas as pd

    Tables = Mapping[str, pd.DataFrame]
    Settings = Mapping[str, Any]

_JUDGES: dict[str, tuple[Callable[..., Iterable[Finding]], Callable[..., Iterable[Conclusion]]]] = {
    "shots": (judged_lists.findings, judged_lists.conclusions),
    "natural text": (judged_text.findings, judged_text.conclusions),
    "model size": (judged_sizes.findings, judged_sizes.conclusions),
    "training": (judged_steps.findings, judged_steps.conclusions),
    "variance": (judged_spread.findings, judged_spread.conclusions),
    "text sources": (judged_sources.findings, judged_sources.conclusions),
}


def judged(name: str, tables: Tables, settings: Settings) -> dict[str, Any]:
    """Return the findings and the conclusions of an experiment, as `ExperimentResult` takes them.

    Args:
        name: The experiment's name.
        tables: Its tables.
        settings: Its settings.

    Raises:
        SettingError: No experiment has that name.
    """
    if name not in _JUDGES:
        raise unknown_name("experiment", name, list(_JUDGES))
    findings, conclusions = _JUDGES[name]
    return {
        "findings": tuple(findings(tables, settings)),
        "conclusions": tuple(conclusions(tables, settings)),
    }
