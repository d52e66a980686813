"""Circuits: ablations, emergence as a patching metric, and how scores go with effects."""

from tl_emergence.circuits.ablation import ablate_blocks, ablate_heads, ablate_mlps
from tl_emergence.circuits.correlation import correlate
from tl_emergence.circuits.effects import HeadEffects, load_effects
from tl_emergence.circuits.head_scores import (
    attention_entropies,
    head_norms,
    induction_scores,
    previous_token_scores,
)
from tl_emergence.circuits.metrics import (
    emergence_at,
    information_at,
    kl_to_clean,
    logit_difference,
    next_token_loss,
)
from tl_emergence.circuits.patching import EmergenceMetric, emergence_metric, model_tokens
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
    "EmergenceMetric",
    "HeadEffects",
    "PairCorrelation",
    "UnitMeans",
    "UnitValues",
    "ablate_blocks",
    "ablate_heads",
    "ablate_mlps",
    "attention_entropies",
    "block_means",
    "block_values",
    "correlate",
    "emergence_at",
    "emergence_metric",
    "head_norms",
    "induction_scores",
    "information_at",
    "kl_to_clean",
    "load_effects",
    "load_report",
    "logit_difference",
    "model_tokens",
    "next_token_loss",
    "previous_token_scores",
]
