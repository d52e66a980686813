"""Half-blocks: the stream between attention and MLP is what it is called, and is scored as others are."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tl_emergence as tle
from tests import toys
from tl_emergence import models
from tl_emergence.capture import compat
from tl_emergence.errors import EmergenceError, HookError, SettingError, StateError, TokenError
from tl_emergence.prompts import from_tokens

PROMPTS = from_tokens(toys.TOKENS)
PARTS = ("attention", "mlp", "whole")

pytestmark = pytest.mark.matrix


def halves_of(model: Any, **settings: Any) -> tle.HalfBlocks:
    return tle.half_block_emergence(model, PROMPTS, **{"space": "unit", **settings})


def zero(tensor: Tensor, hook: Any) -> Tensor:
    return torch.zeros_like(tensor)


def rms_one(x: Tensor) -> Tensor:
    return x / x.square().mean(dim=-1, keepdim=True).sqrt()


def as_unit(model: Any, x: Tensor) -> Tensor:
    return rms_one(x if "RMS" in str(model.cfg.normalization_type) else x - x.mean(dim=-1, keepdim=True))


def assert_information(x: Tensor, y: Tensor, bits: Tensor, stderr: Tensor) -> None:
    """Check bits against another estimate of the same, from draws of its own."""
    found = tle.mutual_information(x, y, estimator="noise", sigma=0.5, seed=3)
    assert abs(found.bits - float(bits)) < 4 * (found.stderr + float(stderr)) + 1e-6


def hook_lists(model: Any) -> list[int]:
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


@pytest.mark.parametrize("settings", [{"positions": [0]}, {"prompts": from_tokens(toys.TOKENS[:, :1])}])
def test_one_position_without_bos_is_the_first_column_of_all_positions(
    model: Any, settings: dict[str, Any]
) -> None:
    every = halves_of(model, prepend_bos=False)
    prompts = settings.pop("prompts", PROMPTS)
    found = tle.half_block_emergence(model, prompts, space="unit", prepend_bos=False, **settings)
    for (_, one), (_, all_positions) in zip(found.parts(), every.parts(), strict=True):
        assert torch.allclose(one.macro[:, 0], all_positions.macro[:, 0], atol=0.1)
        assert torch.equal(one.exact.macro[:, 0], all_positions.exact.macro[:, 0])


@pytest.mark.parametrize("space", ["unit", "resid"])
def test_the_whole_block_is_that_of_information_emergence(model: Any, space: Any) -> None:
    found = halves_of(model, space=space)
    expected = tle.information_emergence(model, PROMPTS, space=space)
    for name in ("macro", "micro", "emergence", "stderr", "macro_pointwise"):
        assert torch.equal(getattr(found.whole, name), getattr(expected, name)), name


@pytest.mark.parametrize("kind", toys.MODEL_KINDS)
def test_the_default_space_is_that_of_whole_blocks(kind: str) -> None:
    model = toys.make_model(kind)
    if not kind.endswith("Pre"):
        assert tle.half_block_emergence(model, PROMPTS).attention.space == "read"
        return
    with pytest.warns(tle.EmergenceWarning, match="folded"):
        found = tle.half_block_emergence(model, PROMPTS)
    assert found.whole.space == found.mlp.space == "unit"
    with pytest.raises(SettingError, match="cannot be had"):
        halves_of(model, space="read")


def test_halves_are_the_information_between_cached_states(model: Any) -> None:
    found = halves_of(model, prepend_bos=False)
    with torch.no_grad():
        cache = model.run_with_cache(PROMPTS.tokens)[1]
        alone = model.run_with_cache(PROMPTS.tokens.reshape(-1, 1))[1]
    for layer in range(toys.N_LAYERS):
        names = [f"blocks.{layer}.hook_resid_{place}" for place in ("pre", "mid", "post")]
        for result, ends in ((found.attention, names[:2]), (found.mlp, names[1:])):
            for pos in range(3):
                x, y = (as_unit(model, cache[name][:, pos]) for name in ends)
                assert_information(x, y, result.macro[layer, pos], result.macro_stderr[layer, pos])
                x, y = (as_unit(model, alone[name][:, 0]).view(8, 3, -1)[:, pos] for name in ends)
                assert_information(x, y, result.micro[layer, pos], result.micro_stderr[layer, pos])


def test_read_is_what_the_norm_of_the_reading_half_gives(model: Any) -> None:
    if str(model.cfg.normalization_type).endswith("Pre"):
        pytest.skip("gains are folded")
    found = halves_of(model, space="read", prepend_bos=False)
    first, second = model.blocks
    with torch.no_grad():
        cache = model.run_with_cache(PROMPTS.tokens)[1]
        places = ((first.ln1, "pre"), (first.ln2, "mid"), (second.ln1, "post"))
        read = [rms_one(norm(cache[f"blocks.0.hook_resid_{place}"])[:, 2]) for norm, place in places]
    for result, (x, y) in ((found.attention, read[:2]), (found.mlp, read[1:])):
        assert_information(x, y, result.macro[0, 2], result.macro_stderr[0, 2])


@pytest.mark.parametrize("kind", [kind for kind in toys.MODEL_KINDS if kind.endswith("RMS")])
def test_norms_behind_the_halves_belong_to_what_they_write(kind: str, tokenizer: Any) -> None:
    model = toys.make_post_norm_model(kind, tokenizer)
    found = halves_of(model, space="read", prepend_bos=False)
    with torch.no_grad():
        cache = model.run_with_cache(PROMPTS.tokens)[1]
        pre, mid = (cache[f"blocks.1.hook_resid_{place}"] for place in ("pre", "mid"))
        assert torch.allclose(pre + cache["blocks.1.hook_attn_out"], mid, atol=1e-4)
        x, y = rms_one(model.blocks[1].ln1(pre)[:, 2]), rms_one(model.blocks[1].ln2(mid)[:, 2])
    assert_information(x, y, found.attention.macro[1, 2], found.attention.macro_stderr[1, 2])


@pytest.mark.parametrize(
    ("part", "hook", "place"), [("attention", "hook_attn_out", "pre"), ("mlp", "hook_mlp_out", "mid")]
)
def test_a_half_that_writes_nothing_tells_what_a_state_tells_of_itself(
    model: Any, part: str, hook: str, place: str
) -> None:
    """Noise is drawn for each end apart, so this is less than the entropy of the set."""
    with model.hooks(fwd_hooks=[(f"blocks.1.{hook}", zero)]), torch.no_grad():
        found = getattr(halves_of(model, prepend_bos=False), part)
        state = as_unit(model, model.run_with_cache(PROMPTS.tokens)[1][f"blocks.1.hook_resid_{place}"])
    for pos in range(3):
        assert_information(state[:, pos], state[:, pos], found.macro[1, pos], found.macro_stderr[1, pos])


def test_the_ceiling_is_that_of_what_a_half_reads(model: Any) -> None:
    found = halves_of(model)
    # Attention of block 0 reads the embedding; its MLP reads what attention gathered.
    assert found.attention.exact.macro[:, 2].tolist() == [2.0, 3.0]
    assert found.mlp.exact.macro[:, 2].tolist() == [3.0, 3.0]
    for part in PARTS:
        result = getattr(found, part)
        assert bool((result.macro <= result.exact.macro + 4 * result.macro_stderr).all())


def test_at_the_first_position_a_token_is_alone(model: Any) -> None:
    found = halves_of(model)
    assert all(bool((getattr(found, part).emergence[:, 0] == 0).all()) for part in PARTS)


def test_a_value_does_not_depend_on_what_else_is_asked_for(model: Any) -> None:
    every, some = halves_of(model), halves_of(model, layers=[-1], positions=[2, 1], batch_size=3)
    assert (some.layers, some.positions) == ((1,), (1, 2))
    for part in PARTS:
        a, b = getattr(every, part), getattr(some, part)
        assert torch.allclose(a.emergence[1:, 1:], b.emergence, atol=1e-5)


def test_blocks_that_do_not_touch_keep_their_numbers() -> None:
    model = toys.make_model(toys.MODEL_KINDS[0], n_layers=4)
    every, some = halves_of(model), halves_of(model, layers=[0, 2, 3])
    for part in PARTS:
        a, b = getattr(every, part), getattr(some, part)
        assert b.layers == (0, 2, 3)
        assert torch.allclose(a.emergence[[0, 2, 3]], b.emergence, atol=1e-5)


def test_every_part_has_its_controls(toy: Any) -> None:
    names = ("shuffled_weights", "deranged")
    found = halves_of(toy, controls=names)
    expected = tle.information_emergence(toy, PROMPTS, space="unit", controls=names)
    for name in names:
        assert torch.equal(found.whole.controls[name].macro, expected.controls[name].macro)
        for part in PARTS:
            control = getattr(found, part).controls[name]
            assert control.settings["part"] == part and control.layers == (0, 1)


def test_tables_figures_and_files_know_every_part(toy: Any, tmp_path: Path) -> None:
    found = halves_of(toy)
    table = found.to_dataframe()
    assert len(table) == 3 * len(found.whole.to_dataframe())
    picked = table.query("part == 'mlp' and metric == 'emergence' and layer == 1 and pos == 2")
    assert picked["value"].tolist() == [pytest.approx(float(found.mlp.emergence[1, 2]))]
    assert all(part in found.summary() for part in PARTS)
    assert [axes.get_title() for axes in found.plot().axes[:3]] == list(PARTS)
    assert repr(found).startswith("HalfBlocks(") and found.labels == PROMPTS.labels
    assert found.settings["sigma"] == 0.5 and "part" not in found.settings
    found.mlp.save(tmp_path / "mlp")
    loaded: Any = tle.load_result(tmp_path / "mlp")
    assert torch.equal(loaded.emergence, found.mlp.emergence) and loaded.settings["part"] == "mlp"


def test_the_model_is_bit_identical_afterwards(model: Any) -> None:
    logits, hooks = model(toys.TOKENS), hook_lists(model)
    halves_of(model, controls=("shuffled_weights",))
    assert torch.equal(model(toys.TOKENS), logits) and hook_lists(model) == hooks


@pytest.mark.parametrize(
    ("place", "calls_before"),
    [
        ("capture.halves.prove_norm", 1),
        ("capture.compat.run", 3),  # the second pass of the preflight of halves
        ("capture.states.stream_residuals", 1),
        ("scoring.StateChain", 2),
    ],
)
def test_the_model_is_bit_identical_after_an_interrupt_anywhere(
    model: Any, place: str, calls_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = place.rsplit(".", 1)
    owner: Any = importlib.import_module(f"tl_emergence.{module}")
    logits, hooks = model(toys.TOKENS), hook_lists(model)
    original, calls = getattr(owner, name), []

    def failing(*args: Any) -> Any:
        calls.append(args)
        if len(calls) > calls_before:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(owner, name, failing)
    with pytest.raises(KeyboardInterrupt):
        halves_of(model)
    assert torch.equal(model(toys.TOKENS), logits) and hook_lists(model) == hooks


@pytest.mark.parametrize("kind", toys.MODEL_KINDS)
@pytest.mark.parametrize(
    ("changes", "seen"), [({"attn_only": True}, "attention-only"), ({"parallel_attn_mlp": True}, "side by")]
)
def test_blocks_without_halves_are_refused(kind: str, changes: dict[str, Any], seen: str) -> None:
    with pytest.raises(HookError, match=seen):
        halves_of(toys.make_model(kind, **changes))


@pytest.mark.skipif(toys.LENS_MAJOR < 3, reason="2.x loads by a list of names")
def test_a_parallel_checkpoint_is_refused_whatever_its_config_and_hooks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.load(str(toys.save_parallel_checkpoint(tmp_path)))
    with pytest.raises(HookError, match="side by side"):
        halves_of(model)
    monkeypatch.setattr(compat, "no_middle", lambda model: "")
    with pytest.raises(HookError, match="blocks have no halves"):
        halves_of(model)
    # A middle that is the input of the block.
    monkeypatch.setattr(compat, "middle_hook", lambda layer: f"blocks.{layer}.ln2.hook_in")
    with pytest.raises(HookError, match="not the block's input plus attention"):
        halves_of(model)


def test_a_middle_that_does_not_lie_between_the_halves_is_found(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        model.hooks(fwd_hooks=[("blocks.1.hook_resid_mid", lambda x, hook: x + 1)]),
        pytest.raises(HookError, match=r"blocks\.1\.hook_resid_mid is not the block's input plus attention"),
    ):
        halves_of(model)
    with (
        model.hooks(fwd_hooks=[("blocks.0.hook_resid_mid", lambda x, hook: x * float("nan"))]),
        pytest.raises(StateError, match="not finite"),
    ):
        halves_of(model)
    monkeypatch.setattr(compat, "middle_hook", lambda layer: f"blocks.{layer}.hook_resid_post")
    with pytest.raises(HookError, match="not the block's input plus attention"):
        halves_of(model)


def test_a_norm_that_the_mlp_does_not_read_through_makes_read_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = toys.make_model(toys.MODEL_KINDS[0])
    others = {
        "no norm there": lambda model, layer: None,
        "does not read": lambda model, layer: model.blocks[layer].ln1,
    }
    for reason, module in others.items():
        with monkeypatch.context() as patch:
            patch.setattr(compat, "mlp_norm_module", module)
            with pytest.raises(SettingError, match=rf"blocks\.0\.hook_resid_mid: .*{reason}"):
                halves_of(model, space="read")
            with pytest.warns(tle.EmergenceWarning, match="not every norm is known"):
                assert tle.half_block_emergence(model, PROMPTS).whole.space == "unit"
    monkeypatch.setattr(compat, "mlp_module", lambda model, layer: model.blocks[layer].ln1)
    with pytest.raises(SettingError, match="something else than what its norm gives"):
        halves_of(model, space="read")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"layers": [2]}, SettingError, "layer out of range"),
        ({"positions": [3]}, SettingError, "position out of range"),
        ({"space": "raw"}, SettingError, "unknown space"),
        ({"sigma": 0.0}, SettingError, "sigma out of range"),
        ({"sigma": (0.5, 1.0)}, SettingError, "several settings at once"),
        ({"space": ("unit", "resid")}, SettingError, "several settings at once"),
        ({"controls": ("untrained",)}, SettingError, "unknown control"),
        ({"batch_size": 0}, SettingError, "batch"),
        ({"prepend_bos": True}, TokenError, "no BOS token known"),
    ],
)
def test_bad_settings_get_a_typed_error(
    toy: Any, settings: dict[str, Any], error: type[EmergenceError], message: str, as_shipped: None
) -> None:
    with pytest.raises(error, match=message):
        halves_of(toy, **settings)


def test_something_else_than_a_model_is_refused(as_shipped: None) -> None:
    with pytest.raises(HookError, match="not a TransformerLens model"):
        halves_of(torch.nn.Linear(2, 2))
