"""Scores of heads before any ablation: what a direct reading of pattern and output gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import toys
from tl_emergence import circuits, models
from tl_emergence.capture import compat
from tl_emergence.circuits import attention_entropies, head_norms, induction_scores, previous_token_scores
from tl_emergence.errors import EmergenceError, HookError, SettingError, StateError, TokenError
from tl_emergence.prompts import from_tokens

PERIOD = 3
PROMPTS = from_tokens(toys.TOKENS.repeat(1, 2))
BOS = 1

pytestmark = pytest.mark.matrix

SCORES: dict[str, Callable[..., torch.Tensor]] = {
    "previous token": previous_token_scores,
    "induction": lambda model, prompts, **options: induction_scores(model, prompts, period=PERIOD, **options),
    "entropy": attention_entropies,
    "norm": head_norms,
}


def cached(model: Any, name: str, bos: int | None = None) -> torch.Tensor:
    """Return an activation of both layers, [layer, prompt, ...], from a whole cache."""
    tokens = PROMPTS.tokens
    if bos is not None:
        tokens = torch.cat([torch.full((len(tokens), 1), bos), tokens], dim=1)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    return torch.stack([cache[f"blocks.{layer}.attn.{name}"] for layer in range(toys.N_LAYERS)])


@pytest.mark.parametrize("bos", [None, BOS])
def test_previous_token_and_induction_scores_are_means_of_the_pattern(model: Any, bos: int | None) -> None:
    pattern = cached(model, "hook_pattern", bos).double()
    offset = 0 if bos is None else 1
    options: Any = {"prepend_bos": False} if bos is None else {"bos_token_id": bos}
    for found, start, back in (
        (previous_token_scores(model, PROMPTS, batch_size=3, **options), 1, 1),
        (induction_scores(model, PROMPTS, period=PERIOD, batch_size=3, **options), PERIOD, PERIOD - 1),
    ):
        places = [offset + t for t in range(start, PROMPTS.n_positions)]
        wanted = torch.stack([pattern[..., t, t - back] for t in places]).mean(dim=(0, 2))
        assert found.dtype == torch.float64 and torch.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("bos", [None, BOS])
def test_entropies_are_those_of_the_rows_of_the_pattern_in_bits(model: Any, bos: int | None) -> None:
    pattern = cached(model, "hook_pattern", bos).double()
    bits = -(pattern * pattern.clamp_min(1e-30).log2()).sum(dim=-1)
    content = bits[..., 0 if bos is None else 1 :]
    options: Any = {"prepend_bos": False} if bos is None else {"bos_token_id": bos}
    found = attention_entropies(model, PROMPTS, **options)
    assert torch.allclose(found, content.mean(dim=(1, 3)), atol=1e-5)


def test_a_pattern_that_is_uniform_or_sharp_has_the_entropy_and_scores_of_one(toy: Any) -> None:
    # The first head of layer 1 looks at all keys alike, the second at the token before only.
    n = PROMPTS.n_positions
    uniform = torch.ones(n, n).tril() / torch.arange(1, n + 1)[:, None]
    sharp = torch.zeros(n, n)
    sharp[range(1, n), range(n - 1)] = 1
    sharp[0, 0] = 1

    def edit(pattern: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.stack([uniform, sharp]).expand(len(pattern), -1, -1, -1)

    with toy.hooks(fwd_hooks=[("blocks.1.attn.hook_pattern", edit)]):
        entropies = attention_entropies(toy, PROMPTS, prepend_bos=False)[1]
        before = previous_token_scores(toy, PROMPTS, prepend_bos=False)[1]
        induction = induction_scores(toy, PROMPTS, period=PERIOD, prepend_bos=False)[1]
    keys = torch.arange(1, n + 1).double()
    assert torch.allclose(entropies, torch.stack([keys.log2().mean(), torch.zeros(()).double()]), atol=1e-6)
    assert torch.allclose(before, torch.stack([(1 / keys[1:]).mean(), torch.ones(()).double()]), atol=1e-6)
    assert torch.allclose(
        induction, torch.stack([(1 / keys[PERIOD:]).mean(), torch.zeros(()).double()]), atol=1e-6
    )


def test_norms_are_those_of_what_a_head_alone_adds_to_the_stream(model: Any) -> None:
    """Found without W_O: what attention writes with all other heads at zero, less what it writes without."""

    def written(layer: int, kept: int | None) -> torch.Tensor:
        seen: list[torch.Tensor] = []

        def only(z: torch.Tensor, hook: Any) -> torch.Tensor:
            mask = torch.zeros(z.shape[2], 1)
            if kept is not None:
                mask[kept] = 1
            return z * mask

        hooks = [
            (f"blocks.{layer}.attn.hook_z", only),
            (f"blocks.{layer}.hook_attn_out", lambda x, hook: seen.append(x.clone())),
        ]
        with torch.no_grad():
            model.run_with_hooks(PROMPTS.tokens, return_type="logits", fwd_hooks=hooks)
        return seen[0]

    found = head_norms(model, PROMPTS, prepend_bos=False, batch_size=3)
    for layer in range(toys.N_LAYERS):
        nothing = written(layer, None)
        for head in range(2):
            wanted = (written(layer, head) - nothing).norm(dim=-1).double().mean()
            assert torch.allclose(found[layer, head], wanted, rtol=1e-4)


def test_norms_at_z_need_no_weights(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "output_weights", lambda model, layer: None)
    wanted = cached(model, "hook_z").double().norm(dim=-1).mean(dim=(1, 2))
    assert torch.allclose(head_norms(model, PROMPTS, at="z", prepend_bos=False), wanted, rtol=1e-5)
    with pytest.raises(HookError, match=r"no output weights of the heads of layer 0: saw no W_O.*at='z'"):
        head_norms(model, PROMPTS, prepend_bos=False)


@pytest.mark.skipif(toys.LENS_MAJOR < 3, reason="a local checkpoint needs a TransformerBridge")
def test_query_heads_are_scored_under_grouped_query_attention(tmp_path: Path) -> None:
    model = models.load(str(toys.save_checkpoint(tmp_path)))
    tokens = torch.cat([torch.zeros(len(PROMPTS), 1, dtype=torch.int64), PROMPTS.tokens], dim=1)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    pattern = cache["blocks.1.attn.hook_pattern"][:, :, 1:].double()
    wanted = pattern.diagonal(dim1=2, dim2=3)[..., 1:].mean(dim=(0, 2))
    found = previous_token_scores(model, PROMPTS)[1]
    assert found.shape == (2,) and torch.allclose(found, wanted, atol=1e-5)
    assert bool((head_norms(model, PROMPTS) > 0).all())


@pytest.mark.parametrize("name", SCORES)
def test_the_model_is_as_before_and_so_are_the_hooks_that_it_had(model: Any, name: str) -> None:
    ran: list[int] = []
    with torch.no_grad():
        before = model(PROMPTS.tokens, return_type="logits")
    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", lambda z, hook: ran.append(0))]):
        own = compat.callers_hooks(model)
        first = SCORES[name](model, PROMPTS, prepend_bos=False)
        hooks = compat.callers_hooks(model)
    again = SCORES[name](model, PROMPTS, prepend_bos=False, batch_size=5)
    with torch.no_grad():
        after = model(PROMPTS.tokens, return_type="logits")
    assert torch.equal(before, after) and hooks == own and ran
    assert compat.callers_hooks(model) == [] and torch.allclose(first, again, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: previous_token_scores(object(), PROMPTS), HookError, "not a TransformerLens model"),
        (
            lambda m: previous_token_scores(m, from_tokens(toys.TOKENS[:, :1]), prepend_bos=False),
            TokenError,
            "too short",
        ),
        (lambda m: induction_scores(m, PROMPTS, period=6), SettingError, "period out of range.*2 to 5"),
        (lambda m: induction_scores(m, PROMPTS, period=1), SettingError, "period out of range"),
        (lambda m: induction_scores(m, PROMPTS, period=2), TokenError, "saw 8 of 8 prompts that do not"),
        (lambda m: head_norms(m, PROMPTS, at="v"), SettingError, "'stream' or 'z'"),  # type: ignore[arg-type]
        (lambda m: head_norms(m, PROMPTS, batch_size=0), SettingError, "batch size"),
        (lambda m: attention_entropies(m, from_tokens(toys.TOKENS + 90)), TokenError, "vocabulary"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(
    toy: Any, as_shipped: None, call: Callable[[Any], Any], error: type[EmergenceError], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(toy)


def test_attention_that_is_not_finite_is_refused(toy: Any) -> None:
    spoiled = [("blocks.0.attn.hook_z", lambda z, hook: z * float("nan"))]
    with toy.hooks(fwd_hooks=spoiled), pytest.raises(StateError, match="heads of layer 0"):
        head_norms(toy, PROMPTS, prepend_bos=False)


def test_a_pattern_that_never_comes_by_is_no_score_of_zero(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "pattern_hook", lambda layer: "unembed.hook_in")
    if "unembed.hook_in" not in toy.hook_dict:
        monkeypatch.setattr(compat, "pattern_hook", lambda layer: "blocks.9.hook_none")
    with pytest.raises(HookError, match="cannot be read.*eager"):
        circuits.attention_entropies(toy, PROMPTS, prepend_bos=False)
