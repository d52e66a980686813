"""Captured residual streams are the model's own, for every class, and the model is left as it was."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import toys
from tl_emergence.capture import capture_states, compat
from tl_emergence.capture import states as states_module
from tl_emergence.errors import HookError, SettingError, StateError, TokenError
from tl_emergence.prompts import PromptSet, from_tokens

pytestmark = pytest.mark.matrix
PROMPTS = from_tokens(toys.TOKENS)


def reference(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return [state, prompt, pos, d_model] by TransformerLens' own cache."""
    _, cache = model.run_with_cache(tokens)
    names = [compat.residual_hook(model, state) for state in range(toys.N_LAYERS + 1)]
    return torch.stack([cache[name] for name in names]).detach()


def hook_lists(model: Any) -> dict[str, list[Any]]:
    """Return every hook on every hook point, and on every other module of the model."""
    points = {name: list(point.fwd_hooks) for name, point in model.hook_dict.items()}
    modules = {
        f"module {name}": [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        for name, module in model.named_modules()
    }
    return points | modules


@pytest.mark.parametrize("batch_size", [1, 3, 128])
def test_macro_states_are_those_of_run_with_cache(model: Any, batch_size: int) -> None:
    found = capture_states(model, PROMPTS, batch_size=batch_size)
    expected = reference(model, toys.TOKENS)
    for t, states, rows in zip(found.positions, found.macro, found.prefix_rows, strict=True):
        assert torch.allclose(states[:, rows], expected[:, :, t], atol=1e-5)


def test_micro_states_are_those_of_tokens_run_alone(model: Any) -> None:
    found = capture_states(model, PROMPTS)
    for t in range(PROMPTS.n_positions):
        alone = reference(model, toys.TOKENS[:, t : t + 1])[:, :, 0]
        assert torch.allclose(found.micro[:, found.token_rows[t]], alone, atol=1e-5)


def test_each_distinct_prefix_and_token_is_kept_once(model: Any) -> None:
    repeated = from_tokens(torch.cat([toys.TOKENS, toys.TOKENS]))
    found = capture_states(model, repeated)
    assert [states.shape[1] for states in found.macro] == [4, 4, 8]
    assert found.micro.shape[1] == 5


def test_bos_is_put_before_prompts_and_single_tokens(model: Any) -> None:
    found = capture_states(model, PROMPTS, bos_token_id=1)
    with_bos = torch.cat([torch.ones(8, 1, dtype=torch.int64), toys.TOKENS], dim=1)
    expected = reference(model, with_bos)
    assert torch.allclose(found.macro[2][:, found.prefix_rows[2]], expected[:, :, 3], atol=1e-5)
    alone = reference(model, with_bos[:, [0, 2]])[:, :, 1]
    assert torch.allclose(found.micro[:, found.token_rows[1]], alone, atol=1e-5)
    assert found.provenance["bos_token_id"] == 1


def test_only_what_is_asked_for_is_kept_and_run(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, int]] = []
    original = states_module.stream_residuals

    def spy(model: Any, batch: Any, held: Any, on_state: Any, *hooks: Any) -> None:
        seen.append((tuple(batch.shape), max(held)))
        original(model, batch, held, on_state, *hooks)

    monkeypatch.setattr(states_module, "stream_residuals", spy)
    found = capture_states(model, PROMPTS, layers=[0], positions=[1])
    assert (found.layers, found.positions, found.states) == ((0,), (1,), (0, 1))
    # Four distinct prefixes of two tokens, then five... tokens up to position 1 only, ended at h_1.
    assert seen == [((5, 1), 1), ((4, 2), 1)]


def test_negative_layers_and_positions_count_from_the_end(model: Any) -> None:
    found = capture_states(model, PROMPTS, layers=[-1], positions=[-1, 0])
    assert (found.layers, found.positions) == ((toys.N_LAYERS - 1,), (0, 2))


def test_nothing_after_the_last_state_runs(model: Any) -> None:
    calls: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
        for name, module in (("last block", model.blocks[-1]), ("unembed", model.unembed))
    ]
    try:
        from tl_emergence.capture.forward import stream_residuals

        stream_residuals(model, toys.TOKENS, [0, 1], lambda state, tensor: None)
        assert calls == []
    finally:
        for handle in handles:
            handle.remove()


def test_states_on_disk_equal_states_in_memory(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = capture_states(model, PROMPTS)
    kept = capture_states(model, PROMPTS, folder=tmp_path / "states")
    monkeypatch.setattr("tl_emergence.capture.storage.IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    temporary = capture_states(model, PROMPTS)
    for other in (kept, temporary):
        assert all(torch.equal(a, b) for a, b in zip(memory.macro, other.macro, strict=True))
        assert torch.equal(memory.micro, other.micro)
    assert not list(Path(tempfile.gettempdir()).glob("tl_emergence-*"))  # the name is gone while it is in use


def test_a_resumed_capture_runs_only_what_is_missing(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = capture_states(model, PROMPTS, batch_size=2)
    original, runs = states_module.stream_residuals, []

    def failing(model: Any, batch: Any, held: Any, on_state: Any, *hooks: Any) -> None:
        if len(runs) == 4:
            raise KeyboardInterrupt
        runs.append(batch)
        original(model, batch, held, on_state, *hooks)

    monkeypatch.setattr(states_module, "stream_residuals", failing)
    with pytest.raises(KeyboardInterrupt):
        capture_states(model, PROMPTS, batch_size=2, folder=tmp_path)
    with (tmp_path / "journal.jsonl").open("a") as journal:
        journal.write('{"batch": "macro-6')  # a line torn by the kill
    runs.clear()
    resumed = capture_states(model, PROMPTS, batch_size=2, folder=tmp_path)
    assert len(runs) == 3  # of seven batches, four were done
    assert all(torch.equal(a, b) for a, b in zip(whole.macro, resumed.macro, strict=True))


def test_the_folder_of_another_capture_is_refused(model: Any, tmp_path: Path) -> None:
    capture_states(model, PROMPTS, folder=tmp_path)
    others = {
        "prompts": ({"prompts": from_tokens(toys.TOKENS.flip(0))}, {}),
        "positions": ({"prompts": PROMPTS}, {"positions": [1]}),
        "bos_token_id": ({"prompts": PROMPTS}, {"bos_token_id": 1}),
        "states": ({"prompts": PROMPTS}, {"layers": [0]}),
        "scales": ({"prompts": PROMPTS}, {"spaces": ("resid",)}),
    }
    for name, (given, settings) in others.items():
        with pytest.raises(SettingError, match=rf"the states of another capture: saw .*differs in .*{name}"):
            capture_states(model, **given, **settings, folder=tmp_path)
    weight = next(p for p in model.parameters() if p.ndim == 2)
    last = weight[-1, -1].item()
    with torch.no_grad():
        weight[-1, -1] += 1  # one number of one weight
    try:
        with pytest.raises(SettingError, match="differs in model_fingerprint"):
            capture_states(model, PROMPTS, folder=tmp_path)
    finally:
        with torch.no_grad():
            weight[-1, -1] = last


def test_a_refused_capture_leaves_the_other_as_it_was(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = capture_states(model, PROMPTS, folder=tmp_path)
    kept = [states.clone() for states in whole.macro]
    with pytest.raises(SettingError, match="the states of another capture"):
        capture_states(model, PROMPTS, layers=[0], folder=tmp_path)
    monkeypatch.setattr(states_module, "stream_residuals", lambda *_: pytest.fail("a batch ran again"))
    again = capture_states(model, PROMPTS, folder=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(kept, again.macro, strict=True))


def test_hooks_of_the_callers_cannot_be_kept_for_going_on(model: Any, tmp_path: Path) -> None:
    assert compat.callers_hooks(model) == []
    with (
        pytest.raises(SettingError, match=r"cannot be kept for going on: saw hooks on blocks\.0\."),
        model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda tensor, hook: None)]),
    ):
        capture_states(model, PROMPTS, folder=tmp_path)
    handle = model.blocks[0].register_forward_hook(lambda module, args, output: None)
    try:
        with pytest.raises(SettingError, match="cannot be kept for going on: saw hooks on blocks.0"):
            capture_states(model, PROMPTS, folder=tmp_path)
    finally:
        handle.remove()


@pytest.mark.parametrize("bos", [None, 1])
def test_the_scale_of_the_raw_stream_is_over_all_prompts_and_positions(
    model: Any, bos: int | None, tmp_path: Path
) -> None:
    repeated = from_tokens(torch.cat([toys.TOKENS, toys.TOKENS[:3]]))
    whole = repeated.tokens if bos is None else torch.nn.functional.pad(repeated.tokens, (1, 0), value=bos)
    content = reference(model, whole)[:, :, 0 if bos is None else 1 :]
    expected = content.double().square().mean(dim=(1, 2, 3)).sqrt()
    settings: Any = {"spaces": ("resid",), "bos_token_id": bos, "batch_size": 3, "folder": tmp_path}
    found = capture_states(model, repeated, positions=[1], **settings)
    assert found.scales == pytest.approx(expected.tolist(), rel=1e-5)
    resumed = capture_states(model, repeated, positions=[1], **settings)
    assert resumed.scales == found.scales
    assert found.rms(1) == found.scales[1]  # type: ignore[index]
    with pytest.raises(SettingError, match=r"scale of the raw stream was not captured.*spaces=\('resid',\)"):
        capture_states(model, repeated).rms(0)


def test_a_resumed_capture_does_not_trust_states_that_changed(model: Any, tmp_path: Path) -> None:
    whole = capture_states(model, PROMPTS, folder=tmp_path)
    whole.micro[0, 0, 0] += 1  # the file itself: as after a crash of the machine
    again = capture_states(model, PROMPTS, folder=tmp_path)
    assert torch.equal(again.micro, capture_states(model, PROMPTS).micro)


def test_logits_and_hooks_are_bit_identical_afterwards(model: Any) -> None:
    seen: list[int] = []
    point = "blocks.0.hook_resid_pre"
    model.add_hook(point, lambda tensor, hook: seen.append(1))
    try:
        logits, hooks = model(toys.TOKENS), hook_lists(model)
        capture_states(model, PROMPTS)
        assert seen and torch.equal(model(toys.TOKENS), logits)
        assert hook_lists(model) == hooks
    finally:
        model.reset_hooks()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_the_middle_leaves_the_model_as_it_was(
    model: Any, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, hooks = model(toys.TOKENS), hook_lists(model)

    def raising(*_: Any) -> None:
        raise error

    monkeypatch.setattr(states_module, "check_finite", raising)
    with pytest.raises(error):
        capture_states(model, PROMPTS)
    assert torch.equal(model(toys.TOKENS), logits) and hook_lists(model) == hooks


def test_the_callers_hooks_stay_in_force(model: Any) -> None:
    def double(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        return 2 * tensor

    plain = capture_states(model, PROMPTS)
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", double)]):
        doubled = capture_states(model, PROMPTS)
    assert torch.allclose(doubled.macro[0][0], 2 * plain.macro[0][0])
    again = capture_states(model, PROMPTS)
    assert torch.equal(again.macro[0], plain.macro[0])


def test_half_precision_states_are_kept_in_float32() -> None:
    half = toys.make_model(toys.MODEL_KINDS[0], dtype=torch.bfloat16)
    found = capture_states(half, PROMPTS)
    assert found.micro.dtype == torch.float32
    assert (found.provenance["dtype"], found.provenance["state_dtype"]) == ("bfloat16", "float32")


def test_states_that_are_not_finite_are_named(toy: Any) -> None:
    def poison(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        out = tensor.clone()
        out[:, 1:] = float("nan")
        return out

    with (
        pytest.raises(StateError, match=r"NaN or infinity in blocks.1.hook_resid_post, on the first prompts"),
        toy.hooks(fwd_hooks=[("blocks.1.hook_resid_post", poison)]),
    ):
        capture_states(toy, PROMPTS)
    calls: list[int] = []

    def poison_later(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        calls.append(1)  # the first two passes are the preflight's
        return poison(tensor, hook) if len(calls) > 3 else tensor

    with (
        pytest.raises(StateError, match=r"states are not finite: saw NaN or infinity in h_2 at position 1"),
        toy.hooks(fwd_hooks=[("blocks.1.hook_resid_post", poison_later)]),
    ):
        capture_states(toy, PROMPTS, positions=[1])
    from tl_emergence.capture.checks import check_finite

    bad = torch.zeros(2, 3, 4)
    bad[1, 2, 3] = float("inf")
    with pytest.raises(StateError, match=r"states are not finite: saw NaN or infinity in h_5 at position 2"):
        check_finite((4, 5), [(2, bad)])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layers": [2]}, SettingError, r"layer out of range: saw \[2\]; expected -2 to 1"),
        ({"layers": []}, SettingError, "layer out of range: saw none"),
        ({"positions": [3]}, SettingError, r"position out of range: saw \[3\]; expected -3 to 2"),
        ({"batch_size": 0}, SettingError, "batch size out of range: saw 0"),
        ({"bos_token_id": 5000}, TokenError, "BOS outside the vocabulary: saw 5000; expected an id from 0"),
        ({"prepend_bos": True}, TokenError, "no BOS token known"),
    ],
)
def test_bad_settings_get_a_typed_error(
    model: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        capture_states(model, PROMPTS, **options)


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (
            from_tokens(toys.TOKENS + 85),
            {},
            "token ids outside the vocabulary: saw 94; expected ids below 90",
        ),
        (
            from_tokens(torch.ones(2, 17, dtype=torch.int64)),
            {},
            "longer than the model's context: saw 17 tokens",
        ),
        (
            from_tokens(torch.tensor([[1, 5], [1, 6]])),
            {"bos_token_id": 1},
            "BOS is among the content tokens: saw token 1 at position 0",
        ),
    ],
)
def test_prompts_that_do_not_fit_the_model_get_a_typed_error(
    model: Any, prompts: PromptSet, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TokenError, match=message):
        capture_states(model, prompts, **options)


def test_padding_without_a_mask_is_refused(tokenizer: Any) -> None:
    class WithPadding:
        pad_token_id, bos_token_id, eos_token_id, unk_token_id = 6, None, None, None

    model = toys.make_model(toys.MODEL_KINDS[0])
    model.tokenizer = WithPadding()
    with pytest.raises(TokenError, match="padding among the content tokens: saw padding token 6"):
        capture_states(model, PROMPTS)


def test_something_that_is_no_model_is_refused() -> None:
    with pytest.raises(HookError, match="not a TransformerLens model: saw Linear without cfg"):
        capture_states(torch.nn.Linear(2, 2), PROMPTS)


def test_a_folder_that_cannot_be_written_gets_a_typed_error(toy: Any, tmp_path: Path) -> None:
    from tl_emergence.errors import ResultFileError

    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResultFileError, match="cannot keep states"):
        capture_states(toy, PROMPTS, folder=tmp_path / "file" / "states")
