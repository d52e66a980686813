"""The preflight finds hooks that lie, and proves what the norms do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests import toys
from tl_emergence.capture import preflight
from tl_emergence.capture.norms import probe_norm
from tl_emergence.errors import HookError

pytestmark = pytest.mark.matrix


def test_the_norms_of_every_model_class_are_proven(model: Any) -> None:
    report = preflight(model, toys.TOKENS)
    assert all(norm is not None for norm in report.norms), report.reasons
    assert len(report.norms) == toys.N_LAYERS + 1


def test_gains_are_read_off_the_norms(model: Any) -> None:
    report = preflight(model, toys.TOKENS)
    for block, norm in zip(model.blocks, report.norms, strict=False):
        assert norm is not None
        weight = getattr(block.ln1, "w", None)
        expected = torch.ones(toys.D_MODEL) if weight is None else weight.detach()
        assert torch.allclose(norm.gain.float(), expected.float(), atol=1e-5)


@pytest.mark.skipif(toys.LENS_MAJOR >= 4, reason="HookedTransformer left in TransformerLens 4")
def test_folded_gains_are_noticed() -> None:
    assert preflight(toys.make_model("hooked-LNPre"), toys.TOKENS).folded
    assert not preflight(toys.make_model("hooked-LN"), toys.TOKENS).folded


def test_a_hook_that_breaks_the_stream_is_found(model: Any) -> None:
    def shift(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        return tensor + 1

    with (
        pytest.raises(HookError, match=r"blocks\.0\.hook_resid_post is not blocks\.1\.hook_resid_pre"),
        model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", shift)]),
    ):
        preflight(model, toys.TOKENS)


def test_the_message_about_a_steering_vector_names_the_hook_that_works(model: Any) -> None:
    vector = torch.randn(toys.D_MODEL, generator=torch.Generator().manual_seed(0))

    def steer(stream: torch.Tensor, hook: Any) -> torch.Tensor:
        return stream + vector

    with (
        pytest.raises(HookError, match=r"Put the same hook on blocks\.0\.hook_resid_post instead"),
        model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", steer)]),
    ):
        preflight(model, toys.TOKENS)
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", steer)]):
        preflight(model, toys.TOKENS)


def test_a_hook_that_never_fires_is_named(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tl_emergence.capture import compat

    hooked = compat.hooked
    monkeypatch.setattr(compat, "hooked", lambda model, hooks: hooked(model, hooks[:-1]))
    with pytest.raises(HookError, match=r"blocks\.1\.hook_resid_post did not fire"):
        preflight(model, toys.TOKENS)


def test_random_hooks_are_found_to_be_not_repeatable(model: Any) -> None:
    generator = torch.Generator().manual_seed(0)

    def jitter(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        return tensor + torch.randn(tensor.shape, generator=generator)

    with (
        pytest.raises(HookError, match="at earlier positions changed when only the last token did"),
        model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", jitter)]),
    ):
        preflight(model, toys.TOKENS)


def test_a_missing_residual_hook_is_named(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.cfg, "n_layers", toys.N_LAYERS + 1)
    with pytest.raises(HookError, match=r"residual hooks are missing: saw no blocks\.2\.hook_resid_pre"):
        preflight(model, toys.TOKENS)


def test_the_callers_hooks_on_a_norm_are_not_woken_by_probing(model: Any) -> None:
    calls: list[Any] = []
    name = "blocks.0.ln1.hook_normalized"
    with model.hooks(fwd_hooks=[(name, lambda tensor, hook: calls.append(tuple(tensor.shape)))]):
        model(toys.TOKENS)
        one_pass = list(calls)
        calls.clear()
        preflight(model, toys.TOKENS)
    assert calls == one_pass * 2  # the two recording passes, and not one call more


@pytest.mark.parametrize("d", [16, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["layer", "rms", "none"])
def test_probing_finds_kind_gain_and_bias(kind: str, d: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(d)
    module: nn.Module = {"layer": nn.LayerNorm(d), "rms": nn.RMSNorm(d, eps=1e-6), "none": nn.Identity()}[
        kind
    ]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    module = module.to(dtype)
    norm = probe_norm(module, d, torch.zeros(1, dtype=dtype))
    assert norm is not None and norm.kind == kind
    x = torch.randn(5, d, generator=generator)
    expected = module(x.to(dtype)).float()
    assert torch.allclose(norm(x), expected, atol=1e-5 if dtype == torch.float32 else 0.1)


def test_a_module_that_is_no_norm_is_not_taken_for_one() -> None:
    assert probe_norm(nn.Linear(16, 16), 16, torch.zeros(1)) is None
    assert probe_norm(nn.Linear(16, 8), 16, torch.zeros(1)) is None
