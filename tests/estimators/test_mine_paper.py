"""The published procedure, step for step, beside an independent reading of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import tl_emergence as tle
from tl_emergence.errors import SettingError
from tl_emergence.estimators import ESTIMATORS, StateChain, mutual_information
from tl_emergence.estimators.mine_paper import learning_rate, published_seconds, train

WIDTHS = (768, 384, 192, 96, 48, 24, 12, 6, 3, 1)


def gaussians(n: int, d: int, rho: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, z = torch.randn(2, n, d, generator=generator)
    return x, rho * x + math.sqrt(1 - rho**2) * z


def read_independently(x: torch.Tensor, y: torch.Tensor, seed: int, steps: int) -> list[float]:
    """Return the training values of the procedure: plain tensors, Adam by its formula, in float64.

    The random numbers are drawn in the same order: the weights from the input to the output, then one
    permutation a step.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = []
    wide = x.shape[1] + y.shape[1]
    for narrow in WIDTHS:
        spread = math.sqrt(2 / (wide + narrow))
        weight = torch.empty(narrow, wide).normal_(0, spread, generator=generator).double()
        parameters += [weight.requires_grad_(), torch.zeros(narrow, dtype=torch.float64, requires_grad=True)]
        wide = narrow
    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]

    def critic(rows: torch.Tensor) -> torch.Tensor:
        for k in range(0, len(parameters), 2):
            rows = rows @ parameters[k].T + parameters[k + 1]
            if k + 2 < len(parameters):
                rows = torch.where(rows > 0, rows, 0.01 * rows)
        return rows[:, 0]

    values = []
    for step in range(steps):
        order = torch.randperm(len(x), generator=generator)
        t = critic(torch.cat([x, y], dim=1).double())
        t_shuffled = critic(torch.cat([x, y[order]], dim=1).double())
        value = (t.mean() - t_shuffled.exp().mean().log()) / math.log(2)
        values.append(float(value.detach()))
        gradients = torch.autograd.grad(-value, parameters)
        if step < 5:
            rate = 1e-4 * step / 5
        else:
            rate = (1e-4 - 1e-8) * (1 - (step - 5) / (steps - 5)) ** 3 + 1e-8
        with torch.no_grad():
            for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g**2)
                scaled = (v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                p.sub_(rate * (m / (1 - 0.9 ** (step + 1))) / scaled)
    return values


@pytest.mark.parametrize("steps", [1, 7, 30])
def test_the_procedure_agrees_step_for_step_with_an_independent_reading(steps: int) -> None:
    x, y = gaussians(128, 16, 0.8, 1)
    found, _ = train(x, y, torch.Generator().manual_seed(5), steps)
    assert found == pytest.approx(max(read_independently(x, y, 5, steps)), abs=2e-4)


def test_training_raises_the_value_and_the_settings_say_what_was_scaled_down() -> None:
    x, y = gaussians(128, 8, 0.9, 2)
    few, many = (mutual_information(x, y, estimator="mine_paper", steps=steps, seed=3) for steps in (5, 200))
    assert many.bits > few.bits + 0.2
    assert many.settings["below_the_published_settings"] == ["rows", "steps"]
    assert many.settings["rows"] == 128 and many.direction == "none" and many.cap_bits is None


def test_the_rate_warms_up_and_decays() -> None:
    rates = [learning_rate(step, 10_000) for step in range(10_000)]
    assert rates[0] == 0 and rates[5] == pytest.approx(1e-4) and max(rates) == rates[5]
    assert rates[-1] == pytest.approx(1e-8, rel=1e-3)


def test_wide_states_are_cut_and_what_is_left_over_is_named() -> None:
    x, y = gaussians(64, 10, 0.9, 4)
    found = mutual_information(x, y, estimator="mine_paper", steps=3, segment=4)
    assert len(found.settings["segment_bits"]) == 2 and found.settings["coordinates_dropped"] == 2
    assert found.bits == pytest.approx(sum(found.settings["segment_bits"]) / 2)
    with pytest.raises(SettingError, match="segments that do not match: saw x of 10 and y of 3"):
        mutual_information(x, y[:, :3], estimator="mine_paper", steps=3, segment=4)


def test_a_part_of_the_rows_is_drawn_without_replacement() -> None:
    x, y = gaussians(64, 2, 0.9, 5)
    assert mutual_information(x, y, estimator="mine_paper", steps=2, rows=16).settings["rows"] == 16


def test_a_chain_runs_every_cell_and_a_constant_series_is_zero() -> None:
    states = list(gaussians(32, 3, 0.9, 6))
    rows = torch.stack([torch.arange(32), torch.zeros(32, dtype=torch.int64)])
    chain = StateChain("test", states, (0, 1), ((0, 1),), rows)
    found = ESTIMATORS["mine_paper"].chain(chain, sigmas=(0.0,), seed=1, steps=3)
    assert found.bits.shape == (1, 1, 2) and float(found.bits[0, 0, 1]) == 0.0
    assert float(found.bits[0, 0, 0]) != 0.0


@pytest.mark.parametrize("options", [{"steps": 0}, {"segment": 0}, {"rows": 1}, {"sigma": -1.0}])
def test_bad_settings_get_a_typed_error(options: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="out of range"):
        mutual_information(*gaussians(8, 2, 0.5, 7), estimator="mine_paper", **options)  # type: ignore[arg-type]


def test_the_time_at_the_published_size_is_scaled_from_steps_that_are_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([10.0, 16.0])
    trained: list[int] = []
    monkeypatch.setattr("tl_emergence.estimators.mine_paper.time.perf_counter", lambda: next(times))
    monkeypatch.setattr(
        "tl_emergence.estimators.mine_paper.train", lambda x, y, generator, steps: trained.append(steps)
    )
    assert published_seconds(rows=3_000, steps=3) == pytest.approx(6 / 3 * 10_000 * 100)
    assert trained == [1, 3]  # the first is not timed


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("settings", [{"rows": 1}, {"rows": 1.5}, {"steps": 0}])
def test_the_time_needs_rows_and_steps(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        published_seconds(**settings)


def test_coordinates_that_are_left_out_are_named_in_a_result(toy: Any) -> None:
    tokens = torch.randint(5, 60, (30, 2), generator=torch.Generator().manual_seed(0))
    found = tle.information_emergence(
        toy, tokens, estimator="mine_paper", space="unit", layers=[1], steps=2, segment=6
    )
    assert found.settings["coordinates_dropped"] == 4  # of 16
    assert "4 coordinates of every state are left out" in found.summary()
    segments = torch.tensor(found.settings["by_chain"]["macro-1"]["segment_bits"])
    assert segments.shape == (1, 1, 1, 2)
    assert torch.allclose(segments.mean(dim=-1)[0, :, 0], found.macro[:, 1].float(), atol=1e-5)
