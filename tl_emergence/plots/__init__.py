"""Figures: every one with exact values, cap and control drawn in. They are returned, never shown.

`import tl_emergence` does not import matplotlib; this package does.
"""

from tl_emergence.plots.beside import estimator_curves
from tl_emergence.plots.drawing import Metric
from tl_emergence.plots.experiments import experiment
from tl_emergence.plots.heads import head_effects
from tl_emergence.plots.heatmaps import half_blocks, heatmap, side_by_side
from tl_emergence.plots.lines import curves, overview, sigma_curves
from tl_emergence.plots.scatter import scatter
from tl_emergence.selection import at_sigma

__all__ = [
    "Metric",
    "at_sigma",
    "curves",
    "estimator_curves",
    "experiment",
    "half_blocks",
    "head_effects",
    "heatmap",
    "overview",
    "scatter",
    "side_by_side",
    "sigma_curves",
]
