"""In-context lists: ordered draws of entities without replacement, a separator after each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from tl_emergence.checks import integer, seed_number, sequence, text, truth
from tl_emergence.errors import SettingError, TokenError, unknown_name
from tl_emergence.prompts.lists import LISTS, PAPER_SHOTS
from tl_emergence.prompts.prefixes import first_rows, prefix_ids
from tl_emergence.prompts.prompt_set import Population, PromptSet
from tl_emergence.prompts.tokenizer import tokenizer_of, tokens_inside_text
from tl_emergence.torch_state import with_torch_defaults

# Up to this many prompts a population is ranked and shuffled whole; above, draws are made and
# repeats rejected, unless a large part of the population is asked for: repeats would then be many.
_RANKED_UP_TO = 2**22
_RARE_REPEATS = 1 / 16
_MOST_PROMPTS = 2**26


@with_torch_defaults
def demonstrations(
    name_or_list: str | Sequence[str],
    model_or_tokenizer: Any,
    *,
    shots: int | None = None,
    n: int | Literal["all"] = 2048,
    seed: int = 0,
    separator: str | None = ",",
    shuffle: bool = True,
) -> PromptSet:
    """Make list prompts such as ` France, Germany, Italy, Spain,`, all distinct.

    The population is every ordered draw of `shots` entities without replacement: K! / (K - shots)!
    equally likely prompts for K entities (Chen et al., arXiv 2405.12617, section 4). Its prefix entropy
    after the j-th entity is log2(K! / (K - j)!) bits.

    Args:
        name_or_list: "country", "animal" or "color", or entities of your own (a leading space is added
            to each by the tokenizer's own rule for a word inside a text).
        model_or_tokenizer: The tokenizer in hand (of transformers or of the tokenizers library), or a
            TransformerLens model that has one.
        shots: Entities a prompt; by default what the paper used (4, 5, 5), or 4 for a list of your own.
        n: Distinct prompts to draw, or "all" to enumerate the population.
        seed: Seed of the draw and of the row order. Global random state is not touched.
        separator: One token put after each entity, or None.
        shuffle: Rows in random order; False puts them in the order of enumeration.

    Raises:
        SettingError: Unknown list, shots, n or seed out of range, entities repeated; a mapping, pairs or a
            set as the entity list (a set has no order of its own, so the prompts would differ from run to
            run).
        TokenError: Entities or a separator that are not exactly one token (all are named).

    Cost: O(n shots^2) integer operations and 8 bytes a token for the prompts. On the way a few numbers
    a prompt more, and 8 bytes a prompt of the population where that is ranked whole (up to 4 million
    prompts, or when more than a sixteenth of it is drawn).

    Example:
        >>> demonstrations("country", tokenizer, shots=2, n="all")  # any tokenizer that knows the words
        PromptSet('country', 600 prompts x 4 tokens, population 600)
    """
    name, entities = _entities(name_or_list)
    shuffle = truth("shuffle", shuffle)
    separator = None if separator is None else text("separator", separator)
    shots = PAPER_SHOTS.get(name, min(4, len(entities))) if shots is None else integer("shots", shots)
    seed = seed_number(seed)
    if not 1 <= shots <= len(entities):
        raise SettingError(
            "shots out of range",
            seen=shots,
            expected=f"1 to {len(entities)}, the number of entities",
            fix="Ask for fewer shots or pass a longer list.",
        )
    size = math.perm(len(entities), shots)
    count = _count(n, size)
    tokenizer = tokenizer_of(model_or_tokenizer)
    entity_tokens = _single_tokens(tokenizer, [f" {entity}" for entity in entities])
    separator_tokens = _single_tokens(tokenizer, [separator]) if separator else []

    generator = torch.Generator().manual_seed(seed)
    draws = _draws(len(entities), shots, count, size, generator, shuffle)
    step = 2 if separator else 1
    tokens = torch.empty(len(draws), shots * step, dtype=torch.int64)
    tokens[:, ::step] = torch.tensor(entity_tokens)[draws]
    if separator:
        tokens[:, 1::step] = separator_tokens[0]
    labels = tuple(label for k in range(1, shots + 1) for label in (f"{name} {k}", f"sep {k}")[:step])
    details = {
        "kind": "demonstrations",
        "entities": list(entities),
        "shots": shots,
        "separator": separator,
        "seed": seed,
        "shuffle": shuffle,
    }
    return PromptSet(tokens, labels, name, _population(len(entities), shots, step), details)


def _count(n: Any, size: int) -> int:
    """Return how many prompts to make."""
    largest = min(size, _MOST_PROMPTS)
    wanted = size if isinstance(n, str) and n == "all" else n
    if isinstance(wanted, str):
        raise SettingError(
            "n is not a whole number", seen=repr(n), expected="a number, or 'all'", fix="Pass n=2048."
        )
    if not 2 <= integer("n", wanted) <= largest:
        raise SettingError(
            "n out of range",
            seen=n if wanted is n else f"{n} ({size:,} prompts)",
            expected=f"2 to {largest:,} distinct prompts" + ("" if largest < size else ", or 'all'"),
            fix="Prompts are distinct and held in memory; ask for fewer, or change shots or entities.",
        )
    return integer("n", wanted)


def _entities(name_or_list: str | Sequence[str]) -> tuple[str, tuple[str, ...]]:
    if isinstance(name_or_list, str):
        if name_or_list not in LISTS:
            raise unknown_name("entity list", name_or_list, list(LISTS))
        return str(name_or_list), LISTS[name_or_list]
    if isinstance(name_or_list, Mapping):
        raise SettingError(
            "entity list is a mapping",
            seen=f"{type(name_or_list).__name__} with {len(name_or_list)} keys",
            expected="one list of words: a prompt holds single words, not pairs",
            fix="Pass list(mapping) for its keys, or list(mapping.values()).",
        )
    words = sequence("entity list", name_or_list, "words")
    pairs = [word for word in words if isinstance(word, tuple | list)]
    if pairs:
        raise SettingError(
            "entity list holds pairs",
            seen=f"{pairs[0]!r:.80}",
            expected="single words: a prompt is a list of entities, not of pairs",
            fix="Pass one side of the pairs, [first for first, second in pairs]. For prompts made of pairs, "
            "tokenise them yourself and pass the ids to prompts.from_tokens.",
        )
    wrong = [word for word in words if not isinstance(word, str)]
    if wrong:
        raise SettingError(
            "entity list not usable",
            seen=f"{type(wrong[0]).__name__} among the entities",
            expected=f"words, or one of {list(LISTS)}",
            fix="Pass words: demonstrations(['red', 'blue'], model). Token ids go to prompts.from_tokens.",
        )
    entities = tuple(text("an entity", word).strip() for word in words)
    repeated = sorted({word for word in entities if entities.count(word) > 1})
    if len(entities) < 2 or repeated or "" in entities:
        raise SettingError(
            "entity list not usable",
            seen=f"{len(entities)} entities" + (f", repeated: {repeated}" if repeated else ""),
            expected="at least 2 entities, none empty, each once",
            fix="Pass each entity once.",
        )
    return "entity", entities


def _single_tokens(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """Return the one token of each word, or raise naming all that are not one token, or share one."""
    pieces = {word: tokens_inside_text(tokenizer, word) for word in words}
    wrong = {word: len(ids) for word, ids in pieces.items() if len(ids) != 1}
    if wrong:
        named = ", ".join(f"{word!r} ({count} tokens)" for word, count in wrong.items())
        raise TokenError(
            "words that are not one token in this tokenizer",
            seen=named,
            expected="exactly one token each, so that every prompt has the same positions",
            fix="Pass a list of your own without them: demonstrations([...], tokenizer).",
        )
    ids = [pieces[word][0] for word in words]
    unknown = getattr(tokenizer, "unk_token_id", None)
    shared = sorted(word for word, token in zip(words, ids, strict=True) if ids.count(token) > 1)
    if shared or (unknown is not None and unknown in ids):
        lost = shared or [word for word, token in zip(words, ids, strict=True) if token == unknown]
        raise TokenError(
            "words that this tokenizer does not tell apart",
            seen=", ".join(map(repr, lost)),
            expected="a token of its own for each (none the unknown token)",
            fix="Pass a list of your own without them: demonstrations([...], tokenizer).",
        )
    return ids


def _draws(
    n_entities: int, shots: int, n: int, size: int, generator: torch.Generator, shuffle: bool
) -> Int[Tensor, "prompt shot"]:
    """Draw n distinct ordered selections of entity numbers."""
    if size <= _RANKED_UP_TO or n > size * _RARE_REPEATS:
        ranks = (
            torch.randperm(size, generator=generator, device="cpu")[:n]
            if n < size or shuffle
            else torch.arange(size)
        )
        return _unrank(ranks if shuffle else ranks.sort().values, n_entities, shots)
    drawn = torch.empty(0, shots, dtype=torch.int64)
    while len(drawn) < n:
        keys = torch.rand(n - len(drawn), n_entities, generator=generator, device="cpu")
        drawn = torch.cat([drawn, keys.argsort(dim=1)[:, :shots]])
        drawn = drawn[first_rows(prefix_ids(drawn)[-1])]
    if shuffle:
        return drawn
    order = torch.tensor(sorted(range(n), key=lambda i: drawn[i].tolist()))
    return drawn[order]


def _unrank(ranks: Int[Tensor, " prompt"], n_entities: int, shots: int) -> Int[Tensor, "prompt shot"]:
    """Turn lexicographic ranks into ordered selections (a Lehmer code read digit by digit)."""
    chosen = torch.empty(len(ranks), shots, dtype=torch.int64)
    for j in range(shots):
        base = math.perm(n_entities - 1 - j, shots - 1 - j)
        pick = (ranks // base) % (n_entities - j)
        # The digit counts among the entities still free: step over those already chosen, smallest first.
        for taken in chosen[:, :j].sort(dim=1).values.unbind(dim=1):
            pick = pick + (pick >= taken)
        chosen[:, j] = pick
    return chosen


def _population(n_entities: int, shots: int, step: int) -> Population:
    prefix = [math.log2(math.perm(n_entities, j)) for j in range(1, shots + 1)]
    token = [math.log2(n_entities), 0.0][:step]
    return Population(
        math.perm(n_entities, shots),
        torch.tensor(prefix, dtype=torch.float64).repeat_interleave(step),
        torch.tensor(token * shots, dtype=torch.float64),
    )
