"""What the paper claims, in one place: every finding and every verdict is about one of these."""

from __future__ import annotations

from typing import Literal, get_args

Verdict = Literal["holds", "holds partly", "does not hold", "cannot be tested here"]
VERDICTS: tuple[str, ...] = get_args(Verdict)

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
