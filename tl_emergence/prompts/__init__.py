"""Prompt sets: in-context lists, natural-text windows, or tokens of your own."""

from tl_emergence.prompts.demonstrations import demonstrations
from tl_emergence.prompts.lists import ANIMAL, COLOR, COUNTRY, LISTS
from tl_emergence.prompts.prompt_set import Population, PromptSet, from_tokens
from tl_emergence.prompts.sentences import sentences

__all__ = [
    "ANIMAL",
    "COLOR",
    "COUNTRY",
    "LISTS",
    "Population",
    "PromptSet",
    "demonstrations",
    "from_tokens",
    "sentences",
]
