"""Geometry of the residual stream beside its information: dimension, norm, the whole against its parts."""

from tl_emergence.geometry.companion import Geometry, companion_geometry
from tl_emergence.geometry.criteria import EmergenceCriteria, discrete_criteria, gaussian_criteria
from tl_emergence.geometry.settings import GeometrySettings, Whole
from tl_emergence.geometry.shape import (
    cosine_to_previous,
    effective_rank,
    mean_norm,
    participation_ratio,
    prompt_entropy,
)

__all__ = [
    "EmergenceCriteria",
    "Geometry",
    "GeometrySettings",
    "Whole",
    "companion_geometry",
    "cosine_to_previous",
    "discrete_criteria",
    "effective_rank",
    "gaussian_criteria",
    "mean_norm",
    "participation_ratio",
    "prompt_entropy",
]
