"""In-context lists: every draw distinct, every entity one token, the population known."""

from __future__ import annotations

import importlib
import itertools
import math
from typing import Any

import pytest
import torch

from tl_emergence.errors import SettingError, TokenError
from tl_emergence.prompts import LISTS, demonstrations
from tl_emergence.prompts.prefixes import prefix_ids

# The package gives the function under this name, so the module is reached by its path.
demonstrations_module = importlib.import_module("tl_emergence.prompts.demonstrations")


@pytest.mark.parametrize(("name", "count"), [("country", 25), ("animal", 16), ("color", 15)])
def test_the_lists_have_the_sizes_of_the_paper(name: str, count: int) -> None:
    assert len(LISTS[name]) == len(set(LISTS[name])) == count


@pytest.mark.parametrize(
    ("name", "length", "size"), [("country", 8, 303_600), ("animal", 10, 524_160), ("color", 10, 360_360)]
)
def test_all_prompts_of_the_paper_are_enumerated(name: str, length: int, size: int, tokenizer: Any) -> None:
    prompts = demonstrations(name, tokenizer, n="all")
    assert prompts.tokens.shape == (size, length)
    assert prompts.enumerates_population
    assert len(torch.unique(prefix_ids(prompts.tokens)[-1])) == size


@pytest.mark.parametrize(("n_entities", "shots"), [(4, 1), (4, 3), (5, 5), (6, 2)])
def test_enumeration_is_every_ordered_draw_in_order(n_entities: int, shots: int, tokenizer: Any) -> None:
    entities = LISTS["country"][:n_entities]
    prompts = demonstrations(entities, tokenizer, shots=shots, n="all", separator=None, shuffle=False)
    ids = [tokenizer.encode(f" {e}", add_special_tokens=False)[0] for e in entities]
    assert prompts.tokens.tolist() == [list(draw) for draw in itertools.permutations(ids, shots)]


def test_a_draw_is_distinct_seeded_and_separated(tokenizer: Any) -> None:
    first, again, other = (demonstrations("country", tokenizer, n=500, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.tokens, again.tokens) and not torch.equal(first.tokens, other.tokens)
    assert len(torch.unique(prefix_ids(first.tokens)[-1])) == 500
    comma = tokenizer.encode(",", add_special_tokens=False)[0]
    assert bool((first.tokens[:, 1::2] == comma).all())
    assert first.constant.tolist() == [False, True] * 4
    assert first.labels[:2] == ("country 1", "sep 1")
    entities = first.tokens[:, ::2]
    assert all(len(set(row)) == 4 for row in entities.tolist())


def test_a_population_too_large_to_rank_is_drawn_without_repeats(tokenizer: Any) -> None:
    prompts = demonstrations("country", tokenizer, shots=12, n=300, seed=3)
    assert prompts.tokens.shape == (300, 24)
    assert len(torch.unique(prefix_ids(prompts.tokens)[-1])) == 300
    ordered = demonstrations("country", tokenizer, shots=12, n=300, seed=3, shuffle=False)
    assert sorted(prompts.tokens.tolist(), key=lambda row: row) == sorted(ordered.tokens.tolist())


def test_most_of_a_population_too_large_to_shuffle_is_ranked_not_drawn(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Drawing with repeats rejected would practically never find the last prompts.
    monkeypatch.setattr(demonstrations_module, "_RANKED_UP_TO", 10)
    prompts = demonstrations("animal", tokenizer, shots=3, n="all")
    assert len(torch.unique(prefix_ids(prompts.tokens)[-1])) == len(prompts) == 16 * 15 * 14


def test_the_population_has_its_closed_form(tokenizer: Any) -> None:
    population = demonstrations("animal", tokenizer, n=64).population
    assert population is not None and population.size == 524_160
    expected = [math.log2(math.perm(16, j)) for j in range(1, 6)]
    assert population.prefix_bits[::2].tolist() == pytest.approx(expected, abs=1e-12)
    assert population.token_bits.tolist() == pytest.approx([4.0, 0.0] * 5)


def test_global_random_state_is_not_touched(tokenizer: Any) -> None:
    before = torch.get_rng_state().clone()
    demonstrations("country", tokenizer, n=32)
    assert torch.equal(before, torch.get_rng_state())


def test_words_that_are_not_one_token_are_all_named(tokenizer: Any) -> None:
    with pytest.raises(TokenError, match=r"' Ivory Coast' \(2 tokens\), ' France Spain' \(2 tokens\)"):
        demonstrations(["Italy", "Ivory Coast", "France Spain"], tokenizer, shots=2, n=4)


def test_words_unknown_to_the_tokenizer_are_named(tokenizer: Any) -> None:
    with pytest.raises(TokenError, match="does not tell apart: saw ' Atlantis'"):
        demonstrations(["Italy", "Spain", "Atlantis"], tokenizer, shots=2, n=4)
    with pytest.raises(TokenError, match="does not tell apart: saw ' Atlantis', ' Utopia'"):
        demonstrations(["Italy", "Utopia", "Atlantis"], tokenizer, shots=2, n=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name_or_list": "countries"}, r"unknown entity list: saw 'countries'.*Did you mean 'country'"),
        ({"shots": 0}, "shots out of range: saw 0; expected 1 to 25"),
        ({"shots": 26}, "shots out of range: saw 26"),
        ({"n": 1}, "n out of range: saw 1"),
        ({"shots": 1, "n": 26}, "n out of range: saw 26; expected 2 to 25 distinct prompts"),
        ({"n": "every"}, "n is not a whole number: saw 'every'; expected a number, or 'all'"),
        ({"name_or_list": [4, 5]}, "entity list not usable: saw int among the entities"),
        ({"name_or_list": 4}, "entity list is not a sequence: saw 4"),
        ({"n": 64.0}, r"n is not a whole number: saw 64.0 \(float\)"),
        ({"seed": 0.5}, r"seed is not a whole number: saw 0.5 \(float\)"),
        ({"shots": "4"}, r"shots is not a whole number: saw '4' \(str\)"),
        ({"shots": 10, "n": "all"}, r"n out of range: saw all \(11,861,676,288,000 prompts\)"),
        ({"name_or_list": ["Italy", "Italy", "Spain"]}, r"repeated: \['Italy'\]"),
        ({"name_or_list": ["Italy"]}, "saw 1 entities"),
    ],
)
@pytest.mark.usefixtures("as_shipped")
def test_bad_settings_get_a_typed_error(options: dict[str, Any], message: str, tokenizer: Any) -> None:
    given = {"name_or_list": "country", **options}
    with pytest.raises(SettingError, match=message):
        demonstrations(given.pop("name_or_list"), tokenizer, **given)


@pytest.mark.usefixtures("as_shipped")
def test_a_name_is_no_tokenizer() -> None:
    with pytest.raises(TokenError, match=r"no tokenizer: saw str.*Pass the loaded model or its tokenizer"):
        demonstrations("country", "gpt2")


def test_a_model_without_tokenizer_is_refused(toy: Any) -> None:
    with pytest.raises(TokenError, match="no tokenizer: saw"):
        demonstrations("country", toy)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"France": "Paris", "Italy": "Rome"}, "entity list is a mapping: saw dict with 2 keys.*list"),
        ([("France", "Paris"), ("Italy", "Rome")], "entity list holds pairs: saw .*from_tokens"),
        ([["France", "Paris"], ["Italy", "Rome"]], "entity list holds pairs"),
        ({"France", "Italy"}, "entity list has no order of its own: saw set.*sorted"),
        (frozenset({"France", "Italy"}), "entity list has no order of its own"),
        ("France", "unknown entity list"),
    ],
)
@pytest.mark.usefixtures("as_shipped")
def test_word_lists_that_are_no_lists_of_words_say_what_to_pass_instead(
    words: Any, message: str, tokenizer: Any
) -> None:
    with pytest.raises(SettingError, match=message):
        demonstrations(words, tokenizer, shots=1, n=2)


@pytest.mark.parametrize("options", [{"shuffle": "no"}, {"shuffle": 1}, {"separator": 3}, {"seed": 2**64}])
@pytest.mark.usefixtures("as_shipped")
def test_options_of_a_wrong_type_are_refused(options: dict[str, Any], tokenizer: Any) -> None:
    with pytest.raises(SettingError):
        demonstrations("country", tokenizer, n=4, **options)
