"""What the paper claims, in one place, and when a verdict on a claim can be given at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

Verdict = Literal[
    "holds", "holds partly", "does not hold", "cannot be tested here", "cannot be tested at this N"
]
VERDICTS: tuple[str, ...] = get_args(Verdict)
"""`cannot be tested here`: models, shots or texts are not those of the claim, or no difference is resolved.
`cannot be tested at this N`: any network has the same verdict (`settled`)."""

CLAIMS: dict[str, str] = {
    "positive": "Emergence is positive and grows with position.",
    "staircase": "In lists it rises only when a new demonstration comes.",
    "every token": "In natural text it rises with every token.",
    "seventh shot": "Lists saturate near the 7th shot.",
    "model size": "Emergence grows with the size of the model.",
    "variance": "The standard deviation of emergence changes with the number of shots and peaks where the "
    "model starts to err.",
    "text sources": "Text by language models has higher emergence than text by humans, so that a small model "
    "can size up large or closed ones.",
}
"""Claims of Chen et al. (arXiv 2405.12617) by short name."""

LEAST_PARAMETERS = 1e8
"""The claim on size is about language models: the paper's smallest has 124 million parameters (GPT-2)."""
LEAST_MODELS = 3
"""Two models make no trend."""
LEAST_WRITER = 7e9
"""The claim on text is about GPT-4, Claude 3 and Llama 3, the smallest of which has 8 billion parameters."""


def settled(verdicts: Mapping[str, Verdict]) -> Verdict:
    """Return the model's verdict, or that any network has the same at this number of prompts.

    Without noise, information on a finite prompt set is the same for every network (`exact_emergence`). A
    verdict that the exact curves and the control have too is therefore one on the prompts and their number;
    only a verdict that differs from either says something about the model.

    Args:
        verdicts: What one rule says of several curves: of "model", "exact", and controls by name.

    Example:
        >>> settled({"model": "does not hold", "exact": "does not hold", "shuffled_weights": "does not hold"})
        'cannot be tested at this N'
        >>> settled({"model": "holds", "exact": "does not hold", "shuffled_weights": "does not hold"})
        'holds'
    """
    return "cannot be tested at this N" if len(set(verdicts.values())) == 1 else verdicts["model"]
