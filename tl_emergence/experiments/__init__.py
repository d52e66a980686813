"""The paper's experiments as functions: each takes models, and returns scores, findings and verdicts."""

from tl_emergence.experiments.claims import CLAIMS
from tl_emergence.experiments.findings import Finding
from tl_emergence.experiments.model_size import model_size
from tl_emergence.experiments.natural_text import natural_text
from tl_emergence.experiments.result import Conclusion, ExperimentResult, load_experiment
from tl_emergence.experiments.shots import shots
from tl_emergence.experiments.text_sources import text_sources
from tl_emergence.experiments.training import training
from tl_emergence.experiments.variance import variance

__all__ = [
    "CLAIMS",
    "Conclusion",
    "ExperimentResult",
    "Finding",
    "load_experiment",
    "model_size",
    "natural_text",
    "shots",
    "text_sources",
    "training",
    "variance",
]
