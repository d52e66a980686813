"""Information emergence from models and caches: definition, agreement, invariances, controls, errors."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tl_emergence as tle
from tests import toys
from tests.capture.test_states import hook_lists
from tl_emergence.capture import capture_states, in_space
from tl_emergence.errors import SettingError, TokenError
from tl_emergence.prompts import from_tokens

pytestmark = pytest.mark.matrix
PROMPTS = from_tokens(toys.TOKENS)
SPACES = ("unit", "resid")


def measure(model: Any, prompts: Any = PROMPTS, **settings: Any) -> Any:
    settings.setdefault("space", "unit")
    return tle.information_emergence(model, prompts, **settings)


def test_emergence_is_macro_minus_the_mean_of_micro_so_far(model: Any) -> None:
    found = measure(model)
    for t in range(3):
        mean = found.micro[:, : t + 1].mean(dim=1)
        assert torch.allclose(found.emergence[:, t], found.macro[:, t] - mean)


def test_the_first_position_is_exactly_zero_and_constants_carry_nothing(model: Any) -> None:
    found = measure(model)
    assert found.emergence[:, 0].tolist() == [0.0] * toys.N_LAYERS
    assert found.stderr[:, 0].tolist() == [0.0] * toys.N_LAYERS
    assert found.micro[:, 1].tolist() == [0.0] * toys.N_LAYERS  # the separator
    assert found.macro[0, 1] == 0.0  # h_0 at the separator is one vector


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("sigma", [0.2, 0.6])
def test_every_cell_is_the_mutual_information_of_its_states(model: Any, space: Any, sigma: float) -> None:
    found = measure(model, space=space, sigma=sigma, seed=1)
    states = capture_states(model, PROMPTS, spaces=SPACES)
    for i, layer in enumerate(found.layers):
        for t in range(3):
            for whole, value, error in (
                (states.macro[t][:, states.prefix_rows[t]], found.macro[i, t], found.macro_stderr[i, t]),
                (states.micro[:, states.token_rows[t]], found.micro[i, t], found.micro_stderr[i, t]),
            ):
                x, y = (
                    in_space(whole[state], state, space, states.reading, states.rms(state))
                    for state in (layer, layer + 1)
                )
                alone = tle.mutual_information(x, y, estimator="noise", sigma=sigma, seed=2)
                gap = abs(float(value) - alone.bits)
                # 1e-4: where clouds hardly overlap, no draw of one run may land where two of them meet.
                assert gap <= 3.5 * math.hypot(float(error), alone.stderr) + 1e-4


@pytest.mark.parametrize("space", ["unit", "resid"])
def test_a_stream_set_to_zero_carries_nothing(model: Any, space: Any) -> None:
    def silence(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.zeros_like(tensor)

    points = ("blocks.1.hook_resid_pre", "blocks.0.hook_resid_post")
    with model.hooks(fwd_hooks=[(point, silence) for point in points]):
        found = measure(model, space=space)
    if space == "unit":
        assert torch.equal(found.macro, torch.zeros_like(found.macro))
    assert bool(torch.isfinite(found.emergence).all())


def test_the_closest_states_at_a_shared_first_position_are_those_of_its_tokens(model: Any) -> None:
    found, states = measure(model), capture_states(model, PROMPTS)
    for end in (0, 1):
        for layer in found.layers:
            x = in_space(states.macro[0][layer + end], layer + end, "unit", states.reading, 1.0)
            assert float(found.closest[end, layer, 0]) == pytest.approx(float(torch.pdist(x).min()), rel=1e-4)


def test_numbers_of_numpy_and_torch_are_taken_and_kept_plain(
    toy: Any, tmp_path: Path, as_shipped: None
) -> None:
    found = measure(
        toy,
        seed=np.int64(3),
        sigma=np.float32(0.5),
        layers=np.array([1]),
        positions=torch.tensor([2]),
        draws=np.int64(4),
        workdir=tmp_path / "work",
    )
    assert torch.equal(found.emergence, measure(toy, seed=3, layers=[1], positions=[2], draws=4).emergence)
    found.save(tmp_path)
    assert tle.load_result(tmp_path).settings["seed"] == 3  # type: ignore[union-attr]


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    "settings",
    [
        {"sigma": 0}, {"draws": 1}, {"space": "raw"}, {"space": ()}, {"space": ("unit", "raw")},
        {"micro": "solo"}, {"estimator": "exact", "sigma": 0.5}, {"controls": ("untrained",)}, {"seed": 0.5},
        {"layers": 5}, {"batch_size": 0},
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_before_the_model_runs(
    toy: Any, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tl_emergence.capture import compat

    monkeypatch.setattr(compat, "run", lambda *_: pytest.fail("the model ran"))
    with pytest.raises(SettingError):
        measure(toy, **settings)


def test_read_is_the_norm_with_its_gain_and_unit_without(model: Any) -> None:
    states = capture_states(model, PROMPTS)
    if states.reading.folded:
        pytest.skip("gains folded")
    norms = [*(block.ln1 for block in model.blocks), model.ln_final]
    for state in range(toys.N_LAYERS + 1):
        raw = states.macro[2][state]
        with torch.no_grad():
            normed = norms[state](raw[:, None])[:, 0]
        expected = normed / normed.square().mean(dim=1, keepdim=True).sqrt()
        assert torch.allclose(in_space(raw, state, "read", states.reading, 1.0), expected, atol=1e-5)
        unit = in_space(raw, state, "unit", states.reading, 1.0)
        assert torch.allclose(unit.square().mean(dim=1), torch.ones(len(raw)), atol=1e-4)


def test_exact_gives_the_ceiling_and_a_tiny_sigma_approaches_it(model: Any) -> None:
    exact = measure(model, estimator="exact")
    assert torch.allclose(exact.emergence, exact.exact.emergence, atol=1e-9)
    assert exact.settings["direction"] == "exact" and exact.cap_bits is None
    fine = measure(model, sigma=1e-4)
    assert torch.allclose(fine.emergence, fine.exact.emergence, atol=1e-3)
    assert fine.settings["direction"] == "none"


def test_saturation_cap_and_injectivity_are_reported(model: Any) -> None:
    found = measure(model, sigma=1e-4)
    assert found.cap_bits == 3.0
    assert found.macro_saturated.tolist() == [[False, False, False], [False, False, True]]
    assert found.collisions == 0
    assert bool((found.closest[1] > 0).all())


def test_the_same_seed_gives_the_same_numbers_whatever_the_batches(model: Any) -> None:
    first, again = measure(model, seed=3), measure(model, seed=3)
    assert torch.equal(first.emergence, again.emergence)
    batched = measure(model, seed=3, batch_size=2)
    assert torch.allclose(first.emergence, batched.emergence, atol=1e-4)
    assert not torch.equal(first.emergence, measure(model, seed=4).emergence)


@pytest.mark.parametrize("space", SPACES)
def test_a_subset_of_layers_and_positions_gives_the_same_cells(model: Any, space: Any) -> None:
    whole = measure(model, space=space)
    part = measure(model, layers=[1], positions=[2], space=space)
    assert (part.layers, part.positions, part.labels) == ((1,), (2,), ("2",))
    assert torch.allclose(part.emergence[0, 0], whole.emergence[1, 2], atol=1e-6)
    assert part.at(1, 2) == pytest.approx(whole.at(1, 2), abs=1e-6)
    with pytest.raises(SettingError, match="cell not measured: saw layer 0, position 2"):
        part.at(0, 2)


def test_micro_first_takes_the_first_position_everywhere(model: Any) -> None:
    found = measure(model, micro="first")
    assert torch.equal(found.micro, found.macro[:, :1].expand(-1, 3))
    assert torch.equal(found.emergence, found.macro - found.macro[:, :1])


def test_a_sweep_shares_draws_and_equals_single_runs(model: Any) -> None:
    sweep = measure(model, sigma=(0.3, 1.0))
    assert isinstance(sweep, tle.SigmaSweep) and list(sweep) == [0.3, 1.0]
    single = measure(model, sigma=1.0)
    assert torch.allclose(sweep[1.0].emergence, single.emergence, atol=1e-6)


def test_several_spaces_come_from_the_same_states(model: Any) -> None:
    both = measure(model, space=("unit", "resid"))
    assert isinstance(both, tle.SpaceComparison) and list(both) == ["unit", "resid"]
    found = both["resid"]
    assert isinstance(found, tle.EmergenceResult)
    assert torch.equal(found.emergence, measure(model, space="resid").emergence)


def test_subsamples_are_half_and_a_quarter_of_the_prompts(model: Any) -> None:
    found = measure(model, sigma=1e-3)
    assert [part.n_prompts for part in found.subsamples] == [4, 2]
    assert float(found.subsamples[0].macro[1, 2]) == pytest.approx(2.0, abs=1e-3)


def test_pointwise_values_average_to_the_scores(model: Any) -> None:
    found = measure(model)
    assert torch.allclose(found.macro_pointwise.double().mean(dim=2), found.macro, atol=1e-5)
    assert torch.allclose(found.micro_pointwise.double().mean(dim=2), found.micro, atol=1e-5)


def test_the_default_space_is_read_unless_the_gains_are_folded(model: Any) -> None:
    if capture_states(model, PROMPTS).reading.folded:
        with pytest.warns(tle.EmergenceWarning, match="space='unit' was chosen, not 'read'"):
            found = tle.information_emergence(model, PROMPTS)
        assert found.space == "unit" and found.settings["gains_folded"]
        with pytest.raises(SettingError, match="gains were folded into its weights"):
            measure(model, space="read")
    else:
        assert tle.information_emergence(model, PROMPTS).space == "read"


def test_settings_say_what_is_needed_to_repeat_the_run(model: Any) -> None:
    s = measure(model, seed=5, sigma=0.25, bos_token_id=1).settings
    assert (s["seed"], s["sigma"], s["space"], s["estimator"], s["bos_token_id"]) == (
        5,
        0.25,
        "unit",
        "noise",
        1,
    )
    assert s["prompts_hash"] == PROMPTS.content_hash
    for name in ("model", "model_class", "transformer_lens", "torch", "dtype", "micro", "centred"):
        assert name in s
    assert s["by_chain"]["micro"]["draws"] > s["by_chain"]["macro-2"]["draws"] >= 2


@pytest.mark.parametrize("control", ["shuffled_weights", "shuffled_tokens"])
def test_controls_carry_their_own_ceiling(model: Any, control: str) -> None:
    found = measure(model, controls=(control,))
    own = found.controls[control]
    assert own.emergence.shape == found.emergence.shape
    assert own.settings["sigma"] == found.settings["sigma"]
    assert not torch.allclose(own.emergence, found.emergence)
    if control == "shuffled_weights":
        assert torch.equal(own.exact.macro, found.exact.macro)
        assert own.settings["prompts_hash"] == PROMPTS.content_hash
    else:
        assert torch.equal(own.exact.micro, found.exact.micro)  # marginals stay
        assert own.settings["prompts_hash"] != PROMPTS.content_hash


@pytest.mark.parametrize("control", [(), ("shuffled_weights",), ("shuffled_tokens",)])
def test_the_model_is_bit_identical_afterwards(model: Any, control: tuple[str, ...]) -> None:
    logits, hooks, training = model(toys.TOKENS), hook_lists(model), model.training
    measure(model, controls=control, space=("unit", "resid"), sigma=(0.5, 1.0))
    assert torch.equal(model(toys.TOKENS), logits)
    assert (hook_lists(model), model.training) == (hooks, training)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize(
    ("place", "calls_before"),
    [
        ("capture.states.stream_residuals", 0),
        ("capture.states.stream_residuals", 2),  # inside the weight-shuffled control
        ("capture.preflight.prove_norm", 1),
        ("capture.compat.run", 1),  # the second pass of the preflight
        ("capture.norms.standardise", 1),
        ("scoring.StateChain", 1),
        ("scoring.StateChain", 4),  # while the control is scored
    ],
)
def test_the_model_is_bit_identical_after_an_exception_anywhere(
    model: Any, error: type[BaseException], place: str, calls_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = place.rsplit(".", 1)
    owner: Any = importlib.import_module(f"tl_emergence.{module}")
    logits, hooks = model(toys.TOKENS), hook_lists(model)
    original, calls = getattr(owner, name), []

    def failing(*args: Any) -> Any:
        calls.append(args)
        if len(calls) > calls_before:
            raise error
        return original(*args)

    monkeypatch.setattr(owner, name, failing)
    with pytest.raises(error):
        measure(model, controls=("shuffled_weights",))
    assert torch.equal(model(toys.TOKENS), logits) and hook_lists(model) == hooks


def test_a_run_that_was_stopped_goes_on(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tl_emergence import scoring

    settings: dict[str, Any] = {"controls": ("shuffled_weights",), "sigma": (0.4, 1.0)}
    whole = measure(model, **settings)
    chain, calls = scoring.StateChain, []

    def failing(*args: Any) -> Any:
        calls.append(args[0])
        if len(calls) == 5:
            raise KeyboardInterrupt
        return chain(*args)

    monkeypatch.setattr(scoring, "StateChain", failing)
    with pytest.raises(KeyboardInterrupt):
        measure(model, workdir=tmp_path / "work", **settings)
    done = len(calls) - 1
    calls.clear()
    calls.extend([None] * 5)  # do not fail again
    resumed = measure(model, workdir=tmp_path / "work", **settings)
    assert len(calls) - 5 == 6 - done  # micro and two positions, for the model and for the control
    for sigma in whole:
        assert torch.equal(whole[sigma].emergence, resumed[sigma].emergence)
        control = "shuffled_weights"
        assert torch.equal(
            whole[sigma].controls[control].emergence, resumed[sigma].controls[control].emergence
        )
        assert whole[sigma].subsamples[0].n_prompts == resumed[sigma].subsamples[0].n_prompts


def test_the_work_folder_of_another_run_is_refused(model: Any, tmp_path: Path) -> None:
    measure(model, workdir=tmp_path)
    with pytest.raises(SettingError, match="the work folder belongs to another run: saw .* differs in seed"):
        measure(model, workdir=tmp_path, seed=1)


def test_a_request_that_was_refused_leaves_the_work_folder_free(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="layer out of range"):
        measure(toy, layers=[99], workdir=tmp_path)
    measure(toy, layers=[1], workdir=tmp_path)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"estimator": "kraskov"}, SettingError, "unknown estimator: saw 'kraskov'"),
        ({"space": "raw"}, SettingError, "unknown space: saw 'raw'"),
        ({"space": ("unit", "raw")}, SettingError, "unknown space: saw 'raw'"),
        ({"sigma": 0}, SettingError, r"sigma out of range: saw \[0.0\]"),
        ({"sigma": -0.5}, SettingError, "sigma out of range"),
        ({"sigma": ()}, SettingError, "noise levels not usable: saw none"),
        ({"sigma": (0.5, 0.5)}, SettingError, "noise levels not usable"),
        ({"estimator": "exact", "sigma": 0.5}, SettingError, "exact takes no noise"),
        ({"controls": ("untrained",)}, SettingError, "unknown control: saw 'untrained'"),
        ({"controls": "shuffled_weights"}, SettingError, "controls is not a sequence"),
        ({"controls": None}, SettingError, "controls is not a sequence: saw None"),
        ({"estimator": None}, SettingError, "unknown estimator: saw None"),
        ({"micro": "solo"}, SettingError, "unknown micro: saw 'solo'"),
        ({"layers": [5]}, SettingError, "layer out of range"),
        ({"positions": [9]}, SettingError, "position out of range"),
        ({"draws": 1}, SettingError, "too few draws"),
        ({"steps": 3}, SettingError, "options that noise does not have: saw steps"),
        ({"prompts": toys.TOKENS[:1]}, TokenError, "too few prompts"),
        ({"prompts": toys.TOKENS[0]}, TokenError, "tokens have the wrong shape"),
        ({"prompts": toys.TOKENS.float()}, TokenError, "tokens have the wrong dtype"),
        ({"prompts": toys.TOKENS + 90}, TokenError, "token ids outside the vocabulary"),
    ],
)
def test_bad_input_gets_a_typed_error(
    toy: Any, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        measure(toy, **{"prompts": PROMPTS, **settings})


def test_the_callers_tokens_are_not_changed(toy: Any) -> None:
    tokens = toys.TOKENS.clone()
    measure(toy, prompts=tokens, controls=("shuffled_tokens",))
    assert torch.equal(tokens, toys.TOKENS)
