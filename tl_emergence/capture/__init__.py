"""Residual streams of TransformerLens models: the only room that knows TransformerLens."""

from tl_emergence.capture.norms import Norm
from tl_emergence.capture.preflight import Preflight, preflight
from tl_emergence.capture.shuffled import shuffled_weights
from tl_emergence.capture.spaces import SPACES, Reading, Space, in_space
from tl_emergence.capture.states import CapturedStates, capture_states

__all__ = [
    "SPACES",
    "CapturedStates",
    "Norm",
    "Preflight",
    "Reading",
    "Space",
    "capture_states",
    "in_space",
    "preflight",
    "shuffled_weights",
]
