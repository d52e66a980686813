"""Emergence as a patching metric: TransformerLens' own functions, on every supported version."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest
import torch

import tl_emergence as tle
from tests import toys
from tl_emergence import circuits
from tl_emergence.errors import EmergenceError, HookError, SettingError, StateError
from tl_emergence.prompts import from_tokens

PROMPTS = from_tokens(toys.TOKENS)
CLEAN = from_tokens(toys.TOKENS.flip(1))

pytestmark = [
    pytest.mark.matrix,
    # Of models with folded gains; a test of its own asserts it.
    pytest.mark.filterwarnings("ignore:space='unit' was chosen"),
]


def clean_cache(model: Any) -> Any:
    with torch.no_grad():
        return model.run_with_cache(CLEAN.tokens)[1]


def patched(model: Any, metric: Any, **settings: Any) -> Any:
    patching = importlib.import_module("transformer_lens.patching")
    cache = clean_cache(model)
    with torch.no_grad():
        return patching.generic_activation_patch(
            model,
            PROMPTS.tokens,
            cache,
            metric,
            patch_setter=patching.layer_pos_patch_setter,
            activation_name="resid_pre",
            index_axis_names=("layer", "pos"),
            **settings,
        )


def test_generic_activation_patch_gives_what_patching_by_hand_gives(model: Any) -> None:
    """Also where the patched stream is the one that is read: the patch is put on after the metric."""
    cache = clean_cache(model)
    with tle.emergence_metric(model, PROMPTS, layer=1, quantity="macro", prepend_bos=False) as metric:
        found = patched(model, metric)
        assert found.shape == (2, 3)
    for layer in range(2):
        for pos in range(3):

            def patch(stream: torch.Tensor, hook: Any, layer: int = layer, pos: int = pos) -> torch.Tensor:
                stream = stream.clone()
                stream[:, pos] = cache[f"blocks.{layer}.hook_resid_pre"][:, pos]
                return stream

            with tle.emergence_metric(model, PROMPTS, layer=1, quantity="macro", prepend_bos=False) as metric:
                hooks = [(f"blocks.{layer}.hook_resid_pre", patch)]
                with torch.no_grad():
                    by_hand = metric(model.run_with_hooks(PROMPTS.tokens, fwd_hooks=hooks))
            assert float((found[layer, pos] - by_hand).abs()) < 1e-5
    assert len({round(float(value), 4) for value in found.flatten()}) > 2


def test_pointwise_bits_serve_where_patching_reduces_itself(model: Any) -> None:
    patching = importlib.import_module("transformer_lens.patching")
    with tle.emergence_metric(model, PROMPTS, layer=1, prepend_bos=False, reduce="none") as metric:
        with torch.no_grad():
            values = metric(model(PROMPTS.tokens))
        assert values.shape == (8,)
        if "reduce" in inspect.signature(patching.generic_activation_patch).parameters:
            kept = patched(model, metric, reduce="none")
            assert kept.values.shape[-1] == 8
            averaged = patched(model, metric, reduce="mean")
            assert torch.allclose(kept.values.mean(dim=-1).flatten(), averaged.flatten(), atol=1e-6)
    with tle.emergence_metric(model, PROMPTS, layer=1, prepend_bos=False) as metric, torch.no_grad():
        scalar = metric(model(PROMPTS.tokens))
    assert float(scalar) == pytest.approx(float(values.mean()), abs=1e-6)


def test_emergence_is_that_of_information_emergence(model: Any) -> None:
    with tle.emergence_metric(model, PROMPTS, layer=1, pos=2, space="unit") as metric, torch.no_grad():
        value = metric(model(circuits.model_tokens(model, PROMPTS)))
    whole = tle.information_emergence(model, PROMPTS, space="unit")
    assert abs(float(value) - whole.at(1, 2)[0]) < 4 * whole.at(1, 2)[1] + 1e-6


@pytest.mark.parametrize("space", ["unit", "resid"])
def test_the_space_is_that_of_information_emergence(toy: Any, space: Any) -> None:
    settings = {"layer": 0, "pos": 1, "space": space, "prepend_bos": False}
    with tle.emergence_metric(toy, PROMPTS, **settings) as metric, torch.no_grad():
        value = metric(toy(PROMPTS.tokens))
    whole = tle.information_emergence(toy, PROMPTS, space=space, prepend_bos=False)
    assert abs(float(value) - whole.at(0, 1)[0]) < 4 * whole.at(0, 1)[1] + 1e-6


def test_a_pass_is_read_once(toy: Any) -> None:
    with tle.emergence_metric(toy, PROMPTS, layer=1, prepend_bos=False) as metric:
        with pytest.raises(HookError, match="no forward pass"):
            metric()
        with torch.no_grad():
            logits = toy(PROMPTS.tokens)
        metric(logits)
        with pytest.raises(HookError, match="no forward pass"):
            metric(logits)


@pytest.mark.parametrize("tokens", [PROMPTS.tokens[:4], PROMPTS.tokens[:, :2]])
def test_a_pass_of_other_prompts_is_refused(toy: Any, tokens: torch.Tensor) -> None:
    with tle.emergence_metric(toy, PROMPTS, layer=1, pos=0, prepend_bos=False) as metric:
        with torch.no_grad():
            toy(tokens)
        with pytest.raises(StateError, match="other prompts"):
            metric()


def test_a_shorter_pass_inside_is_left_to_the_caller_until_it_is_read(toy: Any) -> None:
    with tle.emergence_metric(toy, PROMPTS, layer=1, pos=2, prepend_bos=False) as metric, torch.no_grad():
        value = metric(toy(PROMPTS.tokens))
        toy(PROMPTS.tokens[:3, :1])  # of nothing that is measured: no error by itself
        with pytest.raises(StateError, match="other prompts"):
            metric()
        assert torch.equal(metric(toy(PROMPTS.tokens)), value)


def test_hooks_are_gone_afterwards_also_after_an_exception(model: Any) -> None:
    def hooks() -> dict[str, tuple[int, int]]:
        modules = model.named_modules()
        return {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in modules}

    before = hooks()
    with pytest.raises(KeyboardInterrupt), tle.emergence_metric(model, PROMPTS, layer=1, prepend_bos=False):
        assert hooks() != before
        raise KeyboardInterrupt
    assert hooks() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": 2}, "layer out of range"),
        ({"layer": 0, "pos": 3}, "position out of range"),
        ({"layer": 0, "quantity": "micro"}, "unknown quantity"),
        ({"layer": 0, "reduce": "sum"}, "unknown reduce"),
        ({"layer": 0, "space": "raw"}, "unknown space"),
    ],
)
def test_bad_settings_get_a_typed_error(
    toy: Any, settings: dict[str, Any], message: str, as_shipped: None
) -> None:
    error: type[EmergenceError] = SettingError
    with pytest.raises(error, match=message), tle.emergence_metric(toy, PROMPTS, **settings):
        pass
