"""Prompts that carry a label among words that do not matter: where states of known information come from.

A frame is a line of words. Those in capitals are slots: LABEL takes the words of the label, every other slot
a word drawn from its list, afresh for every prompt and independently of all else. A word is one token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tl_emergence.prompts.tokenizer import tokens_inside_text

# fmt: off
SLOTS = {
    "NAME": (
        "James", "Mary", "John", "Linda", "Robert", "Susan", "Michael", "Karen", "David", "Sarah", "Peter",
        "Nancy", "Daniel", "Betty", "Paul", "Helen", "Mark", "Sandra", "Brian", "Laura", "Kevin", "Anna",
        "Jason", "Maria", "Frank", "Emily", "Scott", "Julia", "Eric", "Alice", "Henry", "Diana", "Adam",
        "Carol", "Tom", "Jane", "Simon", "Lisa", "Oscar", "Ruth", "Victor", "Emma", "Martin", "Nina",
        "Walter", "Rose", "Arthur", "Clara", "Hugo", "Grace", "Oliver", "Sophie", "Felix", "Irene", "Louis",
        "Martha", "Albert", "Joan", "George", "Amy",
    ),
    "ADJECTIVE": (
        "old", "young", "small", "large", "happy", "sad", "quiet", "loud", "warm", "cold", "bright", "dark",
        "heavy", "light", "clean", "dirty", "rich", "poor", "strong", "weak", "quick", "slow", "soft", "hard",
        "sweet", "bitter", "fresh", "dry", "wet", "deep", "long", "short", "wide", "narrow", "round", "flat",
        "sharp", "smooth", "rough", "thick", "thin", "tall", "strange", "famous", "simple", "fancy", "plain",
        "broken", "empty", "full", "golden", "wooden", "modern", "ancient", "lovely", "ugly", "rare",
        "common", "tiny", "huge",
    ),
    "NOUN": (
        "table", "chair", "lamp", "book", "letter", "picture", "window", "garden", "bottle", "basket",
        "bicycle", "car", "boat", "train", "hammer", "knife", "spoon", "plate", "cup", "glass", "clock",
        "mirror", "carpet", "blanket", "pillow", "candle", "flower", "tree", "stone", "bridge", "tower",
        "church", "school", "market", "shop", "hat", "coat", "shirt", "shoe", "ring", "watch", "wallet",
        "bag", "box", "key", "phone", "radio", "camera", "piano", "guitar", "drum", "violin", "ball", "doll",
        "kite", "map", "flag", "coin", "stamp", "card",
    ),
    "VERB": (
        "found", "bought", "sold", "saw", "painted", "lost", "kept", "carried", "dropped", "wanted", "needed",
        "liked", "fixed", "cleaned", "moved", "broke", "built", "drew", "hid", "brought",
    ),
}
# fmt: on


def fill(
    frame: str,
    words: Sequence[str],
    labels: Int[Tensor, "prompt item"],
    tokenizer: Any,
    generator: torch.Generator,
) -> Int[Tensor, "prompt pos"]:
    """Return the tokens of a frame, one prompt a label; an item of a label is a number in `words`.

    Raises:
        ValueError: A word that is not one token, or not as many LABEL slots as items.
    """
    columns, items = [], list(labels.unbind(dim=1))
    for word in frame.split():
        if word == "LABEL":
            columns.append(_tokens(tokenizer, words)[items.pop(0)])
        elif word in SLOTS:
            picked = torch.randint(len(SLOTS[word]), (len(labels),), generator=generator)
            columns.append(_tokens(tokenizer, SLOTS[word])[picked])
        else:
            columns.append(_tokens(tokenizer, [word]).expand(len(labels)))
    if items:
        raise ValueError(f"{len(items)} items of the label have no slot in {frame!r}")
    return torch.stack(columns, dim=1)


def position_in(frame: str, place: str) -> int:
    """Return the position of the last LABEL ("label"), or of the token after it ("after")."""
    words = frame.split()
    label = len(words) - 1 - words[::-1].index("LABEL")
    return {"label": label, "after": label + 1}[place]


def through_channel(
    labels: Int[Tensor, " prompt"], k: int, flip: float, generator: torch.Generator
) -> Int[Tensor, " prompt"]:
    """Replace each of k labels, with probability `flip`, by one of the others, each as likely."""
    step = torch.randint(1, k, labels.shape, generator=generator)
    flipped = torch.rand(labels.shape, generator=generator) < flip
    return torch.where(flipped, (labels + step) % k, labels)


def rows_with(labels: Int[Tensor, " prompt"], pool: Int[Tensor, " row"]) -> Int[Tensor, " prompt"]:
    """Return for each label a row of the pool that has it, no row twice.

    Raises:
        ValueError: The pool has too few rows of some label.
    """
    rows = torch.empty_like(labels)
    for label in labels.unique().tolist():
        wanting, having = ((of == label).nonzero().flatten() for of in (labels, pool))
        if len(having) < len(wanting):
            raise ValueError(f"{len(having)} rows have label {label}, {len(wanting)} are needed")
        rows[wanting] = having[: len(wanting)]
    return rows


def _tokens(tokenizer: Any, words: Sequence[str]) -> Int[Tensor, " word"]:
    found = [tokens_inside_text(tokenizer, word if word in ",.;:" else f" {word}") for word in words]
    wrong = [word for word, tokens in zip(words, found, strict=True) if len(tokens) != 1]
    if wrong:
        raise ValueError(f"not one token each: {wrong}")
    return torch.tensor([tokens[0] for tokens in found])
