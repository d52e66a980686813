"""Information emergence of the residual stream, for TransformerLens.

Where in a transformer do tokens become more than the sum of their parts?
"""

import importlib
from typing import TYPE_CHECKING

from tl_emergence import capture, circuits, errors, estimators, geometry, models, prompts
from tl_emergence.capture import capture_states, shuffled_weights
from tl_emergence.ceiling import Ceiling, exact_emergence, exact_population
from tl_emergence.circuits import (
    CorrelationReport,
    HeadEffects,
    UnitValues,
    ablate_blocks,
    ablate_heads,
    ablate_mlps,
    correlate,
    emergence_metric,
    load_effects,
    load_report,
)
from tl_emergence.emergence import information_emergence
from tl_emergence.emergence_from_cache import information_emergence_from_cache
from tl_emergence.errors import EmergenceWarning
from tl_emergence.estimators import Estimate, mutual_information
from tl_emergence.half_blocks import HalfBlocks, half_block_emergence
from tl_emergence.prompts import PromptSet
from tl_emergence.results import EmergenceResult, EstimatorComparison, SigmaSweep, SpaceComparison
from tl_emergence.saving import load_result

if TYPE_CHECKING:
    from types import ModuleType

    from tl_emergence import plots

__all__ = [
    "Ceiling",
    "CorrelationReport",
    "EmergenceResult",
    "EmergenceWarning",
    "Estimate",
    "EstimatorComparison",
    "HalfBlocks",
    "HeadEffects",
    "PromptSet",
    "SigmaSweep",
    "SpaceComparison",
    "UnitValues",
    "ablate_blocks",
    "ablate_heads",
    "ablate_mlps",
    "capture",
    "capture_states",
    "circuits",
    "correlate",
    "emergence_metric",
    "errors",
    "estimators",
    "exact_emergence",
    "exact_population",
    "geometry",
    "half_block_emergence",
    "information_emergence",
    "information_emergence_from_cache",
    "load_effects",
    "load_report",
    "load_result",
    "models",
    "mutual_information",
    "plots",
    "prompts",
    "shuffled_weights",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> "ModuleType":
    # Figures need matplotlib: it is imported when they are asked for, not with the package.
    if name == "plots":
        return importlib.import_module("tl_emergence.plots")
    raise AttributeError(f"module 'tl_emergence' has no attribute {name!r}")
