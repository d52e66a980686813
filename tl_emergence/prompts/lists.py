"""Entity lists of the size that the paper used, one token each in the Gemma and SmolLM2 tokenizers.

The paper's data files are not public in full; their sizes fix the number of entities (25, 16 and 15).
"""

# fmt: off
COUNTRY = (
    "France", "Germany", "Italy", "Spain", "China", "Japan", "India", "Russia", "Brazil", "Canada", "Mexico",
    "Egypt", "Iran", "Iraq", "Israel", "Turkey", "Poland", "Sweden", "Norway", "Denmark", "Finland", "Greece",
    "Ireland", "Portugal", "Austria",
)
ANIMAL = (
    "dog", "cat", "horse", "cow", "pig", "sheep", "lion", "tiger", "bear", "wolf", "fox", "deer", "rabbit",
    "mouse", "elephant", "monkey",
)
COLOR = (
    "red", "blue", "green", "yellow", "black", "white", "brown", "orange", "purple", "pink", "gray", "gold",
    "silver", "violet", "cyan",
)
# fmt: on

LISTS: dict[str, tuple[str, ...]] = {"country": COUNTRY, "animal": ANIMAL, "color": COLOR}
"""The named lists that `demonstrations` knows."""

PAPER_SHOTS: dict[str, int] = {"country": 4, "animal": 5, "color": 5}
"""The number of shots that the paper gave each list."""
