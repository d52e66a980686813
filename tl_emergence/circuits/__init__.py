"""Circuits: ablations, emergence as a patching metric, and how scores go with effects."""

from tl_emergence.circuits.ablation import ablate_blocks, ablate_heads, ablate_mlps
from tl_emergence.circuits.effects import HeadEffects, load_effects
from tl_emergence.circuits.metrics import (
    emergence_at,
    information_at,
    kl_to_clean,
    logit_difference,
    next_token_loss,
)
from tl_emergence.circuits.patching import EmergenceMetric, emergence_metric, model_tokens

__all__ = [
    "EmergenceMetric",
    "HeadEffects",
    "ablate_blocks",
    "ablate_heads",
    "ablate_mlps",
    "emergence_at",
    "emergence_metric",
    "information_at",
    "kl_to_clean",
    "load_effects",
    "logit_difference",
    "model_tokens",
    "next_token_loss",
]
