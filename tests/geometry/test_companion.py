"""The geometry of captured states: against the definitions, and what is not defined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests import toys
from tl_emergence.capture import CapturedStates, Space, capture_states, in_space
from tl_emergence.errors import SettingError
from tl_emergence.geometry import (
    Geometry,
    GeometrySettings,
    companion,
    companion_geometry,
    effective_rank,
    participation_ratio,
    prompt_entropy,
)
from tl_emergence.geometry.companion import GEOMETRY_NAMES
from tl_emergence.prompts import from_tokens

FEW = GeometrySettings(components=2)
SPACES: tuple[Space, ...] = ("unit", "resid")
CRITERIA = tuple(name for name in GEOMETRY_NAMES if name.split("_")[0] in ("psi", "delta", "gamma"))


@pytest.fixture(scope="module")
def states(toy: Any) -> CapturedStates:
    """Return states of 300 prompts of three tokens, some of which are the same."""
    tokens = torch.randint(4, 9, (300, 3), generator=torch.Generator().manual_seed(0))
    return capture_states(toy, from_tokens(tokens), spaces=SPACES)


def whole(states: CapturedStates, state: int, space: Space) -> torch.Tensor:
    """Return [prompt, pos, d_model], one row a prompt, in a space."""
    columns = []
    for macro, rows in zip(states.macro, states.prefix_rows, strict=True):
        scale = states.rms(state) if space == "resid" else 1.0
        columns.append(in_space(macro[state], state, space, states.reading, scale)[rows].double())
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("space", SPACES)
def test_every_cell_is_what_its_prompts_give(states: CapturedStates, space: Space) -> None:
    found = companion_geometry(states, space=space)
    for layer in states.layers:
        x = whole(states, layer, space)
        assert torch.allclose(found.prompt_entropy[layer], prompt_entropy(x).mean(dim=0), atol=1e-6)
        for t in states.positions:
            covariance = np.cov(x[:, t].numpy().T, bias=True)
            variances = torch.linalg.eigvalsh(torch.from_numpy(covariance)).clamp_min(0)
            expected = effective_rank(variances), participation_ratio(variances)
            cell = float(found.effective_rank[layer, t]), float(found.participation_ratio[layer, t])
            assert cell == pytest.approx(expected, rel=1e-3)


def test_the_norm_is_that_of_the_raw_stream_in_every_space(states: CapturedStates) -> None:
    one, other = (companion_geometry(states, space=space).norm for space in SPACES)
    assert torch.equal(one, other)
    raw = states.macro[2][1][states.prefix_rows[2]]
    assert float(one[1, 2]) == pytest.approx(float(raw.norm(dim=1).mean()), rel=1e-5)


def test_the_cosine_is_to_the_state_of_the_layer_before(states: CapturedStates) -> None:
    found = companion_geometry(states, space="unit").cosine_to_previous
    x, before = whole(states, 1, "unit"), whole(states, 0, "unit")
    expected = torch.cosine_similarity(x, before, dim=2).mean(dim=0)
    assert torch.allclose(found[1], expected, atol=1e-6)
    assert bool(found[0].isnan().all())


@pytest.mark.parametrize("kind", ["mean", "concatenation"])
def test_criteria_start_at_zero_and_fall_with_redundancy(states: CapturedStates, kind: Any) -> None:
    found = companion_geometry(states, space="unit", settings=GeometrySettings(whole=kind))
    assert torch.allclose(found.psi[:, 0], torch.zeros(2).double(), atol=1e-12)
    assert torch.allclose(found.delta[:, 0], torch.zeros(2).double(), atol=1e-12)
    assert bool((found.gamma[:, 0] > 1).all())  # a token's state tells much about the next
    assert all(bool(torch.isfinite(getattr(found, name)).all()) for name in CRITERIA)


def test_criteria_are_those_of_the_states_but_for_their_draw_of_noise(states: CapturedStates) -> None:
    from tl_emergence.geometry import gaussian_criteria

    found = companion_geometry(states, space="unit", seed=1)
    x, y = (whole(states, state, "unit").transpose(0, 1) for state in (1, 2))
    for n in (2, 3):
        alone = gaussian_criteria(x[:n], y[:n], seed=2)
        for name in ("psi", "delta", "gamma"):
            gap = abs(float(getattr(found, name)[1, n - 1]) - getattr(alone, name))
            assert gap <= 4 * 2**0.5 * getattr(alone, f"{name}_stderr")


def test_a_constant_position_has_no_dimension_and_no_information(toy: Any) -> None:
    found = companion_geometry(capture_states(toy, from_tokens(toys.TOKENS)), space="unit", settings=FEW)
    # h_0 at the separator is one vector; h_1 there has read the token before it.
    assert (float(found.effective_rank[0, 1]), float(found.participation_ratio[0, 1])) == (0.0, 0.0)
    assert float(found.effective_rank[1, 1]) > 1
    same = toys.TOKENS[:1].expand(8, 3)
    nothing = companion_geometry(capture_states(toy, from_tokens(same)), space="unit", settings=FEW)
    assert not any(bool(getattr(nothing, name).any()) for name in CRITERIA)


def test_some_layers_and_positions_give_the_same_cells_or_say_that_they_are_not_defined(
    toy: Any, states: CapturedStates
) -> None:
    every = companion_geometry(states, space="unit")
    start = capture_states(toy, states.prompts, layers=[1], positions=[0, 1])
    found = companion_geometry(start, space="unit")
    for name, tensor in found.tensors().items():
        if name == "cosine_to_previous":  # h_0 was not captured
            assert bool(tensor.isnan().all())
        else:
            assert torch.allclose(tensor, getattr(every, name)[1:, :2], atol=1e-5), name
    last = companion_geometry(capture_states(toy, states.prompts, positions=[0, 2]), space="unit")
    for name in ("prompt_entropy", *CRITERIA):
        assert torch.allclose(getattr(last, name)[:, 0], getattr(every, name)[:, 0], atol=1e-5)
        assert bool(getattr(last, name)[:, 1].isnan().all())
    assert torch.allclose(last.effective_rank, every.effective_rank[:, [0, 2]], atol=1e-3)


def test_how_many_prompts_are_seen_at_once_does_not_matter(
    states: CapturedStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = companion_geometry(states, space="unit").prompt_entropy
    monkeypatch.setattr(companion, "_PROMPTS_AT_ONCE", 7)
    assert torch.allclose(companion_geometry(states, space="unit").prompt_entropy, whole, atol=1e-9)


def test_the_seed_and_the_settings_concern_the_criteria_only(states: CapturedStates) -> None:
    first, again = (companion_geometry(states, space="unit", seed=3) for _ in range(2))
    other = companion_geometry(states, space="unit", seed=4, settings=GeometrySettings(2, "mean", 1.0))
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor.nan_to_num(), getattr(again, name).nan_to_num())
        same = torch.equal(tensor.nan_to_num(), getattr(other, name).nan_to_num())
        assert same is (name not in CRITERIA), name


def test_a_stream_of_zeros_has_no_geometry(toy: Any) -> None:
    def silence(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.zeros_like(tensor)

    points = ("blocks.1.hook_resid_pre", "blocks.0.hook_resid_post")
    with toy.hooks(fwd_hooks=[(point, silence) for point in points]):
        found = companion_geometry(capture_states(toy, from_tokens(toys.TOKENS)), space="unit", settings=FEW)
    for name in ("effective_rank", "participation_ratio", "prompt_entropy", "norm", "cosine_to_previous"):
        assert getattr(found, name)[1].tolist() == [0.0] * 3


def test_a_space_that_cannot_be_had_and_too_few_prompts_are_refused(toy: Any) -> None:
    few = capture_states(toy, from_tokens(toys.TOKENS))
    with pytest.raises(SettingError, match="the scale of the raw stream was not captured"):
        companion_geometry(few, space="resid")
    with pytest.raises(SettingError, match=r"too few rows for a Gaussian model: saw 3 \+ 3 dimensions"):
        companion_geometry(few, space="unit")


def test_the_geometry_names_its_quantities() -> None:
    one = torch.zeros(1, 1, dtype=torch.float64)
    found = Geometry(**{name: one + i for i, name in enumerate(GEOMETRY_NAMES)})
    assert [float(tensor) for tensor in found.tensors().values()] == list(range(len(GEOMETRY_NAMES)))
