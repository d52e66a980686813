"""Hooks are edited only where they hold what is added to the stream."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import toys
from tl_emergence.capture import compat
from tl_emergence.capture.edit_preflight import prove_blocks, prove_heads, prove_mlps
from tl_emergence.errors import HookError

pytestmark = pytest.mark.matrix

LAYERS = range(toys.N_LAYERS)


def test_hooks_of_every_model_class_are_proven_and_the_model_stays_as_it_was(model: Any) -> None:
    with torch.no_grad():
        before = model(toys.TOKENS, return_type="logits")
    for prove in (prove_heads, prove_mlps, prove_blocks):
        prove(model, toys.TOKENS, LAYERS)
    with torch.no_grad():
        assert torch.equal(model(toys.TOKENS, return_type="logits"), before)
    assert compat.callers_hooks(model) == []


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("hook_resid_post", "does not hold what the MLP adds"),
        ("hook_attn_out", "does not hold what the MLP adds"),
        ("attn.hook_z", "wrong shape"),
    ],
)
def test_a_hook_that_does_not_hold_what_the_mlp_adds_is_refused(
    model: Any, hook: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compat, "mlp_hook", lambda layer: f"blocks.{layer}.{hook}")
    with pytest.raises(HookError, match=message):
        prove_mlps(model, toys.TOKENS, LAYERS)


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("attn.hook_v", "is not what the output projection of the heads reads"),
        ("hook_resid_post", "wrong shape"),
    ],
)
def test_a_hook_that_does_not_hold_the_outputs_of_the_heads_is_refused(
    model: Any, hook: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compat, "head_hook", lambda layer: f"blocks.{layer}.{hook}")
    with pytest.raises(HookError, match=message):
        prove_heads(model, toys.TOKENS, LAYERS)


@pytest.mark.parametrize(
    ("prove", "hook"), [(prove_mlps, "blocks.0.hook_mlp_out"), (prove_heads, "blocks.0.attn.hook_z")]
)
def test_a_hook_that_never_fires_is_refused(
    model: Any, prove: Any, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked = compat.hooked
    monkeypatch.setattr(
        compat, "hooked", lambda model, hooks: hooked(model, [(n, f) for n, f in hooks if n != hook])
    )
    with pytest.raises(HookError, match="did not fire once"):
        prove(model, toys.TOKENS, LAYERS)


def test_the_callers_hooks_neither_disturb_the_proof_nor_are_lost(model: Any) -> None:
    calls: list[int] = []

    def steer(stream: torch.Tensor, hook: Any) -> torch.Tensor:
        calls.append(0)
        return stream + torch.arange(stream.shape[1])[:, None]

    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", steer)]):
        own = compat.callers_hooks(model)
        prove_mlps(model, toys.TOKENS, LAYERS)
        assert not calls and compat.callers_hooks(model) == own
        model(toys.TOKENS)
    assert calls == [0]
