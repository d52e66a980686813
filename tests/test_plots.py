"""Figures show what the result holds: values, ceiling, cap, control, saturation."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import tl_emergence as tle
from tests import toys
from tl_emergence import plots
from tl_emergence.ceiling import Ceiling
from tl_emergence.errors import SettingError
from tl_emergence.prompts import from_tokens

UNKNOWN: Any = "bits"
PROMPTS = from_tokens(toys.TOKENS, labels=["first", "comma", "last"])


@pytest.fixture(scope="module")
def comparison(toy: Any) -> tle.SpaceComparison:
    found = tle.information_emergence(
        toy,
        PROMPTS,
        sigma=(0.01, 0.5),
        space=("unit", "resid"),
        controls=("shuffled_tokens", "shuffled_weights"),
    )
    assert isinstance(found, tle.SpaceComparison)
    return found


@pytest.fixture(scope="module")
def sweep(comparison: tle.SpaceComparison) -> tle.SigmaSweep:
    found = comparison["unit"]
    assert isinstance(found, tle.SigmaSweep)
    return found


def test_a_heatmap_shows_the_values_up_to_the_ceiling_and_frames_saturation(sweep: tle.SigmaSweep) -> None:
    result = sweep[0.01]
    axes = plots.heatmap(result).axes[0]
    image = axes.get_images()[0]
    assert np.array_equal(np.asarray(image.get_array()), result.emergence.numpy())
    top = float(result.exact.emergence.max())
    assert image.get_clim() == (-top, top)
    assert len(axes.patches) == int(result.macro_saturated.sum()) > 0
    assert [label.get_text() for label in axes.get_xticklabels()] == ["first", "comma", "last"]


@pytest.mark.parametrize("n", [8, 16, 60, 128])
def test_as_many_positions_are_labelled_as_fit_and_the_last_is_one_of_them(toy_result: Any, n: int) -> None:
    long = with_positions(toy_result, n)
    for figure in (plots.overview(long), plots.heatmap(long), plots.curves(long)):
        assert figure.get_size_inches()[0] <= 16.0
        figure.draw_without_rendering()
        for axes in figure.axes:
            labels = axes.get_xticklabels()
            if not any(label.get_text().startswith("token") for label in labels):
                continue  # the colour bar
            pixels = np.diff([axes.transData.transform((x, 0))[0] for x in axes.get_xticks()])
            # A label is turned by 40 degrees: the next one starts where its height ends.
            height = float(labels[0].get_fontsize()) * figure.dpi / 72
            assert float(pixels.min()) >= height / math.sin(math.radians(40)) * 0.7
            assert labels[-1].get_text() == f"token {n - 1}"
            assert len(labels) == n or n > 16


def with_positions(result: tle.EmergenceResult, n: int) -> tle.EmergenceResult:
    """Return a result whose last position stands there n times over."""

    def wide(x: torch.Tensor) -> torch.Tensor:
        return x[:, -1:].expand(-1, n)

    names = ("macro", "micro", "emergence", "macro_stderr", "micro_stderr", "stderr",
             "macro_saturated", "micro_saturated")  # fmt: skip
    exact = result.exact
    return replace(
        result,
        **{name: wide(getattr(result, name)) for name in names},
        exact=Ceiling(wide(exact.macro), wide(exact.micro), wide(exact.emergence)),
        positions=tuple(range(n)),
        labels=tuple(f"token {t}" for t in range(n)),
        closest=result.closest[:, :, -1:].expand(-1, -1, n),
        subsamples=(),
        macro_pointwise=None,
        micro_pointwise=None,
        controls={},
    )


@pytest.fixture(scope="module")
def toy_result(sweep: tle.SigmaSweep) -> tle.EmergenceResult:
    return sweep[0.5]


def test_curves_have_ceiling_cap_and_controls_drawn_in(sweep: tle.SigmaSweep) -> None:
    result = sweep[0.5]
    axes = plots.curves(result).axes[0]
    labels = axes.get_legend_handles_labels()[1]
    assert labels == [
        "block 1", "tokens shuffled, block 1", "weights shuffled, block 1", "exact (no noise)",
    ]  # fmt: skip
    by_label = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.get_lines()}
    assert np.allclose(by_label["block 1"], result.emergence[1].numpy())
    drawn: Any = axes.collections[-1]
    dashes = np.array([segment[0, 1] for segment in drawn.get_segments()])
    assert np.allclose(dashes, result.exact.emergence[1].numpy())
    control = result.controls["shuffled_weights"].emergence[1].numpy()
    assert np.allclose(by_label["weights shuffled, block 1"], control)
    assert any(np.allclose(np.asarray(line.get_ydata()), 3.0) for line in axes.get_lines())  # the cap


def test_sigma_curves_show_one_point_a_noise_level(sweep: tle.SigmaSweep) -> None:
    axes = plots.sigma_curves(sweep, layers=[0, 1]).axes[0]
    line = next(line for line in axes.get_lines() if line.get_label() == "block 1")
    assert np.asarray(line.get_xdata()).tolist() == [0.01, 0.5]
    assert np.allclose(np.asarray(line.get_ydata()), [float(sweep[s].emergence[1, -1]) for s in (0.01, 0.5)])


def test_spaces_stand_side_by_side_with_the_weight_shuffled_control(comparison: tle.SpaceComparison) -> None:
    figure = plots.side_by_side(comparison)
    titles = [axes.get_title() for axes in figure.axes[:3]]
    assert titles == ["space 'unit'", "space 'resid'", "control: weights shuffled, 'unit'"]
    limits = {axes.get_images()[0].get_clim() for axes in figure.axes[:3]}
    assert len(limits) == 1


@pytest.fixture(scope="module")
def estimators(toy: Any) -> tle.EstimatorComparison:
    found = tle.information_emergence(
        toy, PROMPTS, estimator=["exact", "noise"], sigma=(0.01, 0.5), space=["unit", "resid"],
        controls=["shuffled_weights"],
    )  # fmt: skip
    assert isinstance(found, tle.EstimatorComparison)
    return found


def drawn(axes: Any, color: str) -> list[np.ndarray]:
    return [np.asarray(line.get_ydata()) for line in axes.get_lines() if line.get_color() == color]


def test_estimators_stand_side_by_side_on_one_axis_with_exact_value_control_cap_and_saturation(
    estimators: tle.EstimatorComparison,
) -> None:
    figure = plots.estimator_curves(estimators, sigma=0.01)
    exact, noise = figure.axes
    assert exact.get_ylim() == noise.get_ylim() and "bits" in exact.get_ylabel()
    assert [axes.texts[0].get_text() for axes in figure.axes] == ["exact", "noise, sigma 0.01"]
    question = tle.estimators.get_estimator("noise").measures
    assert noise.get_title(loc="left").replace("\n", " ") == question
    found: Any = estimators["noise"]["unit"][0.01]  # type: ignore[index]
    curve, saturated = drawn(noise, "tab:blue")
    assert np.allclose(curve, found.emergence[:, -1].numpy())
    assert np.allclose(saturated, found.emergence[found.macro_saturated[:, -1], -1].numpy())
    assert np.allclose(drawn(noise, "black")[0], found.exact.emergence[:, -1].numpy())
    control = found.controls["shuffled_weights"].emergence[:, -1].numpy()
    assert np.allclose(drawn(noise, "0.6")[0], control)
    shaded: Any = noise.collections[-1]
    lowest = shaded.get_paths()[0].vertices[:, 1].min()
    assert lowest == pytest.approx(float((3.0 - found.macro + found.emergence)[:, -1].min()), abs=1e-6)
    assert len(exact.collections) == 1  # a band, and no cap
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        "estimate", "its 95 % band", "exact (no noise)", "control: weights shuffled",
        "saturated: N is measured, not the model", "beyond the cap: log2 N (nce: of a fold)",
    ]  # fmt: skip


def test_what_leaves_the_axis_stands_at_its_edge_with_its_value(estimators: tle.EstimatorComparison) -> None:
    found: Any = estimators["exact"]["unit"]  # type: ignore[index]
    wild = replace(found, emergence=found.emergence - 40.0)
    axes = plots.estimator_curves({"exact": found, "wild": wild}).axes
    low, high = axes[1].get_ylim()
    assert -10 < low < high < 10 and axes[0].get_ylim() == (low, high)
    at_edge = next(line for line in axes[1].get_lines() if line.get_marker() == "v")
    assert np.asarray(at_edge.get_ydata()).tolist() == [low] * toys.N_LAYERS
    assert f"{float(wild.emergence[:, -1].min()):.1f}".replace("-", "−") in [
        text.get_text() for text in axes[1].texts
    ]


@pytest.mark.parametrize("count", range(1, 8))
def test_panels_fill_three_columns(count: int, estimators: tle.EstimatorComparison) -> None:
    found = estimators["noise"]
    figure = plots.estimator_curves({f"number {k}": found for k in range(count)}, metric="macro", pos=1)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    columns = {1: 1, 2: 2, 4: 2}.get(count, 3)
    assert len(shown) == count
    assert sum(axes.get_xlabel() == "block" for axes in shown) == min(count, columns)
    spec = shown[0].get_subplotspec()
    assert spec is not None and spec.get_gridspec().ncols == columns


def test_results_of_different_prompts_are_not_drawn_together(
    toy: Any, estimators: tle.EstimatorComparison
) -> None:
    other = tle.information_emergence(toy, toys.TOKENS[:6], space="unit", estimator="exact")
    with pytest.raises(SettingError, match="results that cannot be compared: saw 2 different"):
        plots.estimator_curves({"noise": estimators["noise"], "exact": other})


def test_methods_of_results_draw_and_show_nothing(
    comparison: tle.SpaceComparison, sweep: tle.SigmaSweep
) -> None:
    import matplotlib.pyplot as plt

    for found in (comparison, sweep, sweep[0.5]):
        assert found.plot().axes
    assert plt.get_fignums() == []


def test_a_figure_of_the_callers_is_drawn_into(sweep: tle.SigmaSweep) -> None:
    from matplotlib.figure import Figure

    mine = Figure()
    axes = mine.subplots()
    assert plots.curves(sweep[0.5], ax=axes, title="mine") is mine
    assert axes.get_title() == "mine"


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda c, s: plots.heatmap(s[0.5], metric=UNKNOWN), "unknown metric: saw 'bits'"),
        (lambda c, s: plots.curves(s[0.5], layers=[7]), r"block not measured: saw \[7\]"),
        (lambda c, s: plots.sigma_curves(s, pos=5), "position not measured: saw 5"),
        (lambda c, s: plots.side_by_side(c, sigma=0.3), "sigma not measured: saw 0.3"),
        (lambda c, s: plots.side_by_side({}), "nothing to draw"),
        (lambda c, s: plots.estimator_curves({}), "nothing to draw"),
        (lambda c, s: plots.estimator_curves({"noise": s}, sigma=0.3), "sigma not measured: saw 0.3"),
        (lambda c, s: plots.estimator_curves({"noise": c}, space="read"), "unknown space: saw 'read'"),
        (lambda c, s: plots.estimator_curves({"noise": s}, pos=7), "position not measured: saw 7"),
        (lambda c, s: plots.estimator_curves({"noise": s}, metric=UNKNOWN), "unknown metric: saw 'bits'"),
        (lambda c, s: plots.heatmap(c), r"not a single result: saw SpaceComparison of \['unit', 'resid'\]"),
        (lambda c, s: plots.curves(s), "not a single result: saw SigmaSweep"),
        (lambda c, s: plots.overview(s), "not a single result: saw SigmaSweep"),
    ],
)
@pytest.mark.usefixtures("as_shipped")
def test_bad_requests_get_a_typed_error(
    draw: Any, message: str, comparison: tle.SpaceComparison, sweep: tle.SigmaSweep
) -> None:
    with pytest.raises(SettingError, match=message):
        draw(comparison, sweep)


def test_a_notebook_can_show_every_figure_without_pyplot(comparison: tle.SpaceComparison) -> None:
    sweep = comparison["unit"]
    assert isinstance(sweep, tle.SigmaSweep)
    for figure in (comparison.plot(), sweep.plot(), sweep[0.5].plot(), plots.heatmap(sweep[0.5])):
        shown: Any = figure
        assert shown._repr_png_().startswith(b"\x89PNG")
