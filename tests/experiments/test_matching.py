"""Prompt sets made alike, and the texts that models write."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import toys
from tl_emergence import models
from tl_emergence.errors import SettingError, TokenError
from tl_emergence.experiments.generation import continuations, up_to_full_stops
from tl_emergence.experiments.matching import alike, token_entropy
from tl_emergence.prompts import PromptSet, from_tokens


def drawn(n: int, kinds: int, power: float, seed: int) -> PromptSet:
    """Return prompts of four tokens, each drawn alone, by weights that fall with a power of the rank."""
    weights = torch.arange(1, kinds + 1, dtype=torch.float64) ** -power
    generator = torch.Generator().manual_seed(seed)
    return from_tokens(torch.multinomial(weights, 4 * n, replacement=True, generator=generator).reshape(n, 4))


def test_token_entropy_is_that_of_the_columns() -> None:
    assert token_entropy(from_tokens(toys.TOKENS)) == pytest.approx((2.0 + 0.0 + 2.0) / 3)


def test_sets_are_made_alike_by_number_and_entropy() -> None:
    sets = {"flat": drawn(3000, 200, 0.7, 0), "steep": drawn(900, 200, 1.0, 1)}
    plain = {name: token_entropy(prompts.take(slice(256))) for name, prompts in sets.items()}
    assert plain["flat"] > plain["steep"] + 0.5
    found = alike(sets, 256, seed=0)
    assert {len(prompts) for prompts in found.values()} == {256}
    entropies = {name: token_entropy(prompts) for name, prompts in found.items()}
    assert abs(entropies["flat"] - entropies["steep"]) < 0.02
    own = {tuple(row) for row in sets["flat"].tokens.tolist()}
    assert all(tuple(row) in own for row in found["flat"].tokens.tolist())
    again = alike(sets, 256, seed=0)
    assert torch.equal(found["flat"].tokens, again["flat"].tokens)


def test_sets_that_cannot_be_made_alike_are_refused() -> None:
    with pytest.raises(SettingError, match="too few windows"):
        alike({"a": drawn(20, 9, 1.0, 0), "b": drawn(50, 9, 1.0, 0)}, 30, seed=0)
    with pytest.raises(TokenError, match="unequal length"):
        alike({"a": drawn(20, 9, 1.0, 0), "b": from_tokens(toys.TOKENS)}, 8, seed=0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if toys.LENS_MAJOR < 3:
        pytest.skip("a local checkpoint needs a TransformerBridge")
    folder: Path = tmp_path_factory.mktemp("checkpoint")
    return models.load(str(toys.save_checkpoint(folder)))


OPENINGS = ["France, Germany, Italy, Spain", "China, Japan, India, Russia", "x"]


def test_continuations_are_sampled_with_a_seed_and_leave_the_global_generator(checkpoint: Any) -> None:
    state = torch.get_rng_state()
    first, again, other = (
        continuations(checkpoint, OPENINGS, n_tokens=6, opening_tokens=4, seed=seed, batch_size=1)
        for seed in (0, 0, 1)
    )
    assert torch.equal(state, torch.get_rng_state())
    assert len(first) == 2 and first == again and first != other  # "x" is too short to open with
    assert not any(opening in text for opening, text in zip(OPENINGS, first, strict=False))


def test_continuations_do_not_depend_on_batch_size(checkpoint: Any) -> None:
    openings = [" ".join([word] * 4) for word in ("Japan", "China", "France", "Spain", "Italy")]
    whole, split = (
        continuations(checkpoint, openings, n_tokens=6, opening_tokens=4, seed=3, batch_size=size)
        for size in (5, 2)
    )
    assert whole == split and len(set(whole)) > 1


@pytest.mark.usefixtures("as_shipped")
def test_openings_and_temperatures_that_cannot_be_are_refused(checkpoint: Any) -> None:
    with pytest.raises(SettingError, match="no opening"):
        continuations(checkpoint, ["x"], opening_tokens=4)
    for temperature in (0.0, math.nan, -1.0):
        with pytest.raises(SettingError, match="temperature"):
            continuations(checkpoint, OPENINGS, temperature=temperature)


def test_sampling_cold_is_the_likeliest_token_of_a_whole_pass(checkpoint: Any) -> None:
    """No cache of keys and values stands between: each token is that of the model on all before it."""
    (text,) = continuations(checkpoint, OPENINGS[:1], n_tokens=3, opening_tokens=4, temperature=1e-6)
    tokenizer = checkpoint.tokenizer
    ids = tokenizer(OPENINGS[0], add_special_tokens=False).input_ids[-4:]
    for _ in range(3):
        with torch.no_grad():
            logits = checkpoint(torch.tensor([[tokenizer.bos_token_id, *ids]]), return_type="logits")
        ids.append(int(logits[0, -1].argmax()))
    kept = ids[4:]
    end = tokenizer.eos_token_id
    wanted = kept[: kept.index(end)] if end in kept else kept
    assert text == tokenizer.decode(wanted, skip_special_tokens=True)


def test_openings_end_with_a_full_stop() -> None:
    texts = ["Mr. A went. He", "none", "3.5 of it. "]
    assert up_to_full_stops(texts, most_words=9) == ["Mr.", "Mr. A went.", "3.5 of it."]
    assert up_to_full_stops(texts, most_words=2) == ["Mr.", "A went.", "of it."]
