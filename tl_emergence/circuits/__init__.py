"""Circuits: values of heads and blocks, and how scores go with effects over them."""

from tl_emergence.circuits.correlation import correlate
from tl_emergence.circuits.report import (
    Baseline,
    CorrelationReport,
    PairCorrelation,
    UnitMeans,
    load_report,
)
from tl_emergence.circuits.units import UnitValues, block_means, block_values

__all__ = [
    "Baseline",
    "CorrelationReport",
    "PairCorrelation",
    "UnitMeans",
    "UnitValues",
    "block_means",
    "block_values",
    "correlate",
    "load_report",
]
