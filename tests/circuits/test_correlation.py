"""The correlation report: planted answers, what it says of them, its table, figure and file."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from scipy import stats

import tl_emergence as tle
from tests import toys
from tl_emergence import plots
from tl_emergence.circuits import CorrelationReport, UnitValues, block_means, correlate, load_report
from tl_emergence.circuits.effective_number import effective_interval
from tl_emergence.errors import ResultFileError, SettingError, UnitError
from tl_emergence.prompts import from_tokens

N_LAYERS, N_HEADS, N_PROMPTS = 8, 4, 64
LAYERS = tuple(layer for layer in range(N_LAYERS) for _ in range(N_HEADS))
LABELS = tuple(f"L{layer}H{head}" for layer in range(N_LAYERS) for head in range(N_HEADS))
FAST: Any = {"permutations": 499, "resamples": 100}


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def heads(
    name: str, true: torch.Tensor, *, seed: int, noise: float = 1.0, n: int = N_PROMPTS, prompts: str = "a"
) -> UnitValues:
    values = true[:, None] + noise * normal(len(true), n, seed=seed)
    return UnitValues(name, values, LABELS, LAYERS, "bits", prompts)


TRUE = normal(32, seed=0)
DEPTH = torch.tensor(LAYERS, dtype=torch.float64)


@pytest.fixture(scope="module")
def report() -> CorrelationReport:
    """Return a report of a true score and a random one, beside a weak baseline and a perfect one."""
    effects = [heads("loss", TRUE, seed=1), heads("answer", -TRUE, seed=2)]
    scores = [heads("emergence change", TRUE, seed=3), heads("random", normal(32, seed=4), seed=5)]
    baselines = {"head norm": normal(32, seed=6), "the truth": TRUE}
    return correlate(scores, effects, baselines=baselines, **FAST)


def test_a_planted_correlation_is_established_on_halves_of_one_prompt_set(report: CorrelationReport) -> None:
    pair = report["emergence change", "loss"]
    assert pair.spearman > 0.8 and pair.low > 0.7 and pair.low <= pair.spearman <= pair.high
    assert pair.p == pytest.approx(1 / 500) and pair.q < 0.05
    assert pair.disjoint == "halves of one prompt set"
    assert (pair.n_units, pair.n_score_prompts, pair.n_effect_prompts) == (32, 32, 32)
    assert report["emergence change", "answer"].spearman < -0.8


def test_a_score_below_its_own_noise_is_held_by_the_ceiling() -> None:
    score, effect = heads("score", TRUE, seed=1, noise=6.0), heads("effect", TRUE, seed=2, noise=6.0)
    pair = correlate(score, effect, **FAST)["score", "effect"]
    assert pair.ceiling < 0.65
    assert pair.spearman == pytest.approx(pair.ceiling, abs=0.15)  # perfect agreement, but for noise


def test_a_random_score_is_not_established(report: CorrelationReport) -> None:
    pair = report["random", "loss"]
    assert pair.p > 0.05 and pair.q > 0.05


def test_q_values_control_the_family_of_all_pairs(report: CorrelationReport) -> None:
    expected = stats.false_discovery_control([pair.p for pair in report.pairs])
    assert [pair.q for pair in report.pairs] == pytest.approx(expected.tolist())
    assert report.family == "4 tests: emergence change, random x loss, answer"
    alone = correlate(heads("random", normal(32, seed=4), seed=5), heads("loss", TRUE, seed=1), **FAST)
    assert alone["random", "loss"].p == report["random", "loss"].p  # the family changes q alone
    assert alone.pairs[0].q == alone.pairs[0].p


def test_a_baseline_is_beaten_only_where_the_interval_of_the_difference_says_so(
    report: CorrelationReport,
) -> None:
    weak, perfect = report["emergence change", "loss"].baselines
    assert (weak.name, perfect.name) == ("head norm", "the truth")
    assert weak.low > 0 and weak.low < weak.difference < weak.high
    assert perfect.high < 0.03
    # Signs are no difference: the baseline that goes the other way is as strong.
    other = report["emergence change", "answer"].baselines[1]
    assert other.spearman < -0.9 and abs(other.difference - perfect.difference) < 0.05


def test_a_baseline_may_be_a_map_of_all_heads() -> None:
    score, effect = heads("score", TRUE, seed=1), heads("effect", TRUE, seed=2)
    places = [re.fullmatch(r"L(\d+)H(\d+)", label) for label in LABELS]
    whole = torch.zeros(max(LAYERS) + 2, 99)
    flat = normal(len(LABELS), seed=11)
    for found, value in zip(places, flat, strict=True):
        assert found is not None
        whole[int(found[1]), int(found[2])] = value
    by_map, by_unit = (
        correlate(score, effect, baselines={"norm": values}, **FAST).pairs[0].baselines
        for values in (whole, flat)
    )
    assert by_map == by_unit
    with pytest.raises(UnitError, match="does not fit the units"):
        correlate(score, effect, baselines={"norm": whole[:1]}, **FAST)


def test_noise_that_score_and_effect_share_is_no_correlation() -> None:
    shared = normal(32, N_PROMPTS, seed=7)
    score = UnitValues("score", shared, LABELS, LAYERS, prompts="a")
    found = correlate(score, replace(score, name="effect"), **FAST)["score", "effect"]
    assert abs(found.spearman) < 0.45 and found.p > 0.05
    whole = correlate(score, replace(score, name="effect", prompts="b"), **FAST)["score", "effect"]
    assert whole.spearman == pytest.approx(1.0)  # what two disjoint sets would have to show for it


def test_two_prompt_sets_are_used_whole_each() -> None:
    score = heads("score", TRUE, seed=1, n=40, prompts="a")
    effect = heads("effect", TRUE, seed=2, n=24, prompts="b")
    pair = correlate(score, effect, **FAST)["score", "effect"]
    assert (pair.n_score_prompts, pair.n_effect_prompts, pair.disjoint) == (40, 24, "two prompt sets")
    means = [values.values.mean(dim=1).numpy() for values in (score, effect)]
    oracles: list[Any] = [stats.spearmanr, stats.kendalltau, stats.pearsonr]
    expected = [oracle(*means)[0] for oracle in oracles]
    assert [pair.spearman, pair.kendall, pair.pearson] == pytest.approx(expected)


def test_the_baseline_difference_of_two_sets_is_that_of_the_sizes_of_two_correlations() -> None:
    score, effect = heads("score", TRUE, seed=1), heads("effect", TRUE, seed=2, prompts="b")
    norm = -DEPTH
    baseline = correlate(score, effect, baselines={"depth": norm}, **FAST).pairs[0].baselines[0]
    means = [values.values.mean(dim=1).numpy() for values in (score, effect)]
    rhos: list[Any] = [stats.spearmanr(x, means[1]) for x in (means[0], norm.numpy())]
    assert baseline.spearman == pytest.approx(rhos[1][0])
    assert baseline.difference == pytest.approx(abs(rhos[0][0]) - abs(rhos[1][0]))


def test_a_correlation_through_depth_alone_is_said_to_vanish_given_the_layer() -> None:
    hump = 3 * torch.sin(torch.pi * DEPTH / 7)
    score = heads("score", hump + normal(32, seed=8), seed=1)
    effect = heads("effect", hump + normal(32, seed=9), seed=2)
    report = correlate(score, effect, **FAST)
    pair = report["score", "effect"]
    assert pair.low > 0.4 and pair.prompts_low > 0.5 and pair.p > 0.05 and pair.p == pair.partial_p
    assert abs(pair.partial) < 0.35
    assert report.conclusion(pair) == "chance"
    assert "no association beyond chance over heads was established" in report.summary()
    over_all = correlate(score, effect, within_layers=False, **FAST)["score", "effect"]
    assert over_all.p < 0.01


def test_blocks_are_tested_by_their_effective_number_with_depth_and_its_square_held_fixed() -> None:
    depth = torch.arange(16, dtype=torch.float64)
    blocks = [
        UnitValues(
            name,
            (depth + 2 * normal(16, seed=seed))[:, None] + normal(16, 32, seed=seed + 10),
            tuple(f"L{layer}" for layer in range(16)),
            tuple(range(16)),
        )
        for name, seed in (("e", 1), ("l", 2))
    ]
    report = correlate(blocks[0], blocks[1], **FAST)
    pair = report.pairs[0]
    assert report.settings["within_layers"] is False
    assert pair.spearman > 0.7 and pair.p < 0.05
    assert 4 < pair.n_effective < 8 and pair.partial_n_effective <= 16  # a trend is worth few blocks
    assert pair.low == pytest.approx(effective_interval(pair.spearman, pair.n_effective)[0])
    assert pair.partial_p > 0.05
    text = report.summary()
    assert "over 16 blocks, worth" in text and "16 are few" in text and "through depth alone" in text
    assert "independent blocks gives p =" in text


def test_four_blocks_leave_nothing_to_correlate_given_depth() -> None:
    few = [
        UnitValues(name, normal(4, 16, seed=seed), ("L0", "L1", "L2", "L3"), (0, 1, 2, 3))
        for name, seed in (("e", 1), ("l", 2))
    ]
    report = correlate(few[0], few[1], **FAST)
    assert np.isnan([report.pairs[0].partial, report.pairs[0].partial_low, report.pairs[0].partial_p]).all()
    assert "leaves too little of these units" in report.summary()
    assert np.isnan(report.pairs[0].low) and "interval over blocks is undefined" in report.summary()


def test_a_result_stands_for_the_emergence_of_its_blocks() -> None:
    model = toys.make_model(toys.MODEL_KINDS[0])
    prompts = from_tokens(toys.TOKENS)
    result = tle.information_emergence(model, prompts, space="unit")
    assert isinstance(result, tle.EmergenceResult)
    effect = UnitValues("loss", normal(2, 8, seed=1), ("L0", "L1"), (0, 1), prompts=prompts.content_hash)
    with pytest.raises(UnitError, match="2 units, 8 prompts"):  # a toy of two blocks is refused, by its size
        correlate(result, effect)


def test_heads_are_averaged_by_block_beside_blocks() -> None:
    by_head = heads("loss", TRUE, seed=1)
    blocks = block_means(heads("emergence", TRUE, seed=3))
    found = correlate(blocks, by_head, **FAST)
    by_hand = correlate(blocks, block_means(by_head), **FAST)
    assert found.pairs[0].spearman == by_hand.pairs[0].spearman
    assert found.settings["averaged_by_block"] and not by_hand.settings["averaged_by_block"]
    assert "averaged by block" in found.summary() and "averaged by block" not in by_hand.summary()


def test_a_correlation_through_depth_that_turns_round_within_layers_is_not_established() -> None:
    within = normal(32, seed=11)
    up, down = DEPTH + 0.8 * within, DEPTH - 0.8 * within
    found = correlate(heads("up", up, seed=1, noise=0.1), heads("down", down, seed=2, noise=0.1), **FAST)
    pair = found.pairs[0]
    assert pair.low > 0 > pair.partial_high and pair.q <= 0.05
    assert "no association beyond depth was established" in found.summary()
    assert "not established" in found.plot().axes[0].get_title()


def test_a_constant_baseline_is_no_comparison() -> None:
    found = correlate(
        heads("a", TRUE, seed=1), heads("b", TRUE, seed=2), baselines={"flat": torch.ones(32)}, **FAST
    )
    assert "No comparison with flat" in found.summary() and "no better than flat" not in found.summary()


def test_effects_of_ablations_stand_for_all_their_metrics() -> None:
    prompts = from_tokens(toys.TOKENS)
    effects = tle.ablate_heads(toys.make_model(toys.MODEL_KINDS[0]), prompts, ["loss", "kl"], kind="zero")
    whole = correlate(effects.values("loss"), effects, **FAST)
    assert [(pair.score, pair.effect) for pair in whole.pairs] == [("loss", "kl")]  # not with itself
    by_hand = correlate(effects.values("loss"), effects.values("kl"), **FAST)
    assert whole["loss", "kl"].spearman == by_hand["loss", "kl"].spearman
    assert whole.pairs[0].disjoint == "halves of one prompt set"


def test_constant_values_have_no_correlation_and_the_summary_says_so() -> None:
    score = replace(heads("score", TRUE, seed=1), values=torch.ones(32, N_PROMPTS))
    report = correlate([score, heads("true", TRUE, seed=3)], heads("loss", TRUE, seed=2), **FAST)
    pair = report["score", "loss"]
    assert np.isnan([pair.spearman, pair.low, pair.p, pair.q, pair.kendall, pair.pearson]).all()
    assert "no correlation is defined and nothing was established" in report.summary()
    assert report.family.startswith("1 test:") and report["true", "loss"].q == report["true", "loss"].p
    assert "no correlation defined" in report.plot().axes[0].get_title()


def test_the_summary_says_what_was_and_what_was_not_established(report: CorrelationReport) -> None:
    text = report.summary()
    assert "\n" not in text
    first, second = text.split("random against loss")[:2]
    assert "emergence change against loss, over 32 heads" in first
    assert "an association over these heads was established" in first
    assert "Controlling for the layer keeps the correlation" in first
    assert "It beats head norm" in first and "It beats the truth" not in first
    assert "no association" in second
    assert "family of 4 tests: emergence change, random x loss, answer" in second
    assert "no cause" in second and "backups" in second


def test_the_data_frame_has_one_row_a_pair_with_baselines_family_and_settings(
    report: CorrelationReport,
) -> None:
    frame = report.to_dataframe()
    assert frame[["score", "effect"]].to_numpy().tolist() == [
        ["emergence change", "loss"],
        ["emergence change", "answer"],
        ["random", "loss"],
        ["random", "answer"],
    ]
    assert frame["head norm difference low"].tolist()[0] == report.pairs[0].baselines[0].low
    assert frame["seed"].tolist() == [0] * 4 and set(frame["family"]) == {report.family}


def test_the_scatter_shows_every_unit_with_the_extreme_ones_named(report: CorrelationReport) -> None:
    figure = plots.scatter(report, n_labels=3)
    panels = figure.axes[:4]
    assert len(figure.axes) == 5  # four panels and the colour bar
    for axes, pair in zip(panels, report.pairs, strict=True):
        dots = next(part for part in axes.collections if isinstance(part, PathCollection))
        x = next(one for one in report.scores if one.name == pair.score)
        y = next(one for one in report.effects if one.name == pair.effect)
        assert np.allclose(np.asarray(dots.get_offsets()), np.array([x.means, y.means]).T)
        assert f"Spearman {pair.spearman:.2f}" in axes.get_title()
        assert len(axes.texts) == 3
    assert panels[0].get_xlabel() == "emergence change (bits)"
    assert "not established" in panels[2].get_title() and "not established" not in panels[0].get_title()
    with pytest.raises(SettingError, match="n_labels"):
        report.plot(n_labels=-1)


def test_a_saved_report_comes_back_whole(report: CorrelationReport, tmp_path: Path) -> None:
    four = [UnitValues(name, normal(4, 16, seed=1), ("L0", "L1", "L2", "L3"), (0, 1, 2, 3)) for name in "ab"]
    for n, one in enumerate((report, correlate(four[0], four[1], **FAST))):  # the second holds NaN
        path = tmp_path / "new" / f"{n}.json"
        one.save(path)
        found = load_report(path)
        json.loads(path.read_text(), parse_constant=pytest.fail)  # no NaN: JSON has none
        assert found.summary() == one.summary() and found.family == one.family
        assert (found.scores, found.effects, found.labels, found.layers) == (
            one.scores, one.effects, one.labels, one.layers,
        )  # fmt: skip
        assert found.to_dataframe().equals(one.to_dataframe())


def test_a_file_that_is_no_report_is_refused(report: CorrelationReport, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with pytest.raises(ResultFileError, match="cannot read"):
        load_report(path)
    path.write_text('{"format": "other"}')
    with pytest.raises(ResultFileError, match="not a report of this version"):
        load_report(path)
    report.save(path)
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(ResultFileError, match="damaged"):
        load_report(path)
    path.write_text(whole.replace('"spearman"', '"pearman"'))
    with pytest.raises(ResultFileError, match="whose checksum is not the one recorded"):
        load_report(path)
    without = json.loads(path.read_text())
    del without["checksum"]  # as in files of before there was one
    path.write_text(json.dumps(without))
    with pytest.raises(ResultFileError, match="damaged report"):
        load_report(path)


def test_the_same_seed_gives_the_same_report_and_the_caller_keeps_random_state_and_tensors() -> None:
    score, effect = heads("score", TRUE, seed=1), heads("effect", TRUE, seed=2)
    kept, state = score.values.clone(), torch.get_rng_state()
    found = [correlate(score, effect, seed=seed, **FAST).to_dataframe() for seed in (0, 0, 1)]
    assert found[0].equals(found[1]) and not found[0].equals(found[2])
    assert torch.equal(score.values, kept) and torch.equal(torch.get_rng_state(), state)


def test_missing_pairs_are_refused_by_name(report: CorrelationReport) -> None:
    with pytest.raises(SettingError, match="one of .*emergence change"):
        report["loss", "emergence change"]


LOSS = heads("loss", TRUE, seed=1)
SHUFFLED = replace(LOSS, labels=LABELS[::-1], layers=LAYERS[::-1])


@pytest.mark.parametrize(
    ("score", "options", "error", "message"),
    [
        (LOSS.select(LABELS[:31]), {}, UnitError, r"\['L7H3'\] in one only"),
        (SHUFFLED, {}, UnitError, "another order"),
        (replace(LOSS, values=LOSS.values[:, :32]), {}, UnitError, "32 and 64 values of the same prompt set"),
        (replace(LOSS, values=LOSS.values[:, :7], prompts="b"), {}, UnitError, "32 units, 7 prompts"),
        (LOSS, {"baselines": {"norm": torch.zeros(31)}}, UnitError, r"'norm' .* shape \(31,\)"),
        (LOSS, {"baselines": {"norm": torch.full((32,), torch.nan)}}, UnitError, "NaN or infinity"),
        ([LOSS, LOSS], {}, SettingError, "a score twice"),
        ([], {}, SettingError, "no score"),
        ("emergence", {}, SettingError, "no score"),
        (LOSS, {"permutations": 5}, SettingError, "permutations out of range"),
        (LOSS, {"resamples": 0.5}, SettingError, "resamples is not a whole number"),
        (LOSS, {"seed": -1}, SettingError, "seed out of range"),
        (LOSS, {"within_layers": "no"}, SettingError, "within_layers is not a truth value"),
        (LOSS, {"baselines": {"norm": ["a"] * 32}}, UnitError, "'norm' is not numeric"),
        (3, {}, SettingError, "no score"),
    ],
)
def test_what_cannot_be_correlated_is_refused(
    as_shipped: None, score: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        correlate(score, replace(LOSS, name="effect"), **options)


def test_within_layers_needs_a_layer_with_several_units() -> None:
    blocks = block_means(LOSS)
    with pytest.raises(SettingError, match="one unit in every layer"):
        correlate(blocks, blocks, within_layers=True)


def test_few_heads_are_not_established_however_many_prompts() -> None:
    layers = tuple(np.repeat(np.arange(18), 4).tolist())
    labels = tuple(f"L{layer}H{unit % 4}" for unit, layer in enumerate(layers))
    true = normal(72, seed=23)
    both = [
        UnitValues(
            name,
            (weight * true + normal(72, seed=seed))[:, None] + 0.01 * normal(72, 64, seed=seed),
            labels,
            layers,
        )
        for name, weight, seed in (("a", 0.4, 1), ("b", 0.4, 2))
    ]
    pair = correlate(both[0], both[1], within_layers=False, **FAST).pairs[0]
    assert pair.prompts_high - pair.prompts_low < 0.05  # prompts hardly move it
    assert pair.high - pair.low == pytest.approx(2 * 1.96 * (1 - pair.spearman**2) / 71**0.5, rel=0.3)


def test_established_needs_the_intervals_over_units_and_over_prompts(report: CorrelationReport) -> None:
    pair = report["emergence change", "loss"]
    assert report.conclusion(pair) == "established"
    against = {
        "units": {"low": -0.1},
        "prompts": {"prompts_low": -0.1},
        "chance": {"q": 0.06},
        "not testable": {"q": float("nan")},
        "depth": {"partial_low": -0.1},
        "undefined": {"spearman": float("nan")},
    }
    for reason, fields in against.items():
        assert report.conclusion(replace(pair, **fields)) == reason
    assert report.conclusion(replace(pair, partial_prompts_low=-0.1)) == "depth"
    assert report.conclusion(replace(pair, partial=-0.9, partial_low=-1.0, partial_high=-0.8)) == "depth"


def test_copies_of_a_prompt_do_not_stand_on_both_sides_of_a_split() -> None:
    n, copies = 16, 8
    noise = [normal(32, n, seed=seed).repeat(1, copies) for seed in (21, 22)]
    shared = normal(32, n, seed=20).repeat(1, copies)
    ids = tuple(range(n)) * copies
    rhos = {}
    for told in (ids, None, tuple(range(n * copies))):
        score, effect = (
            UnitValues(name, shared + 0.3 * own, LABELS, LAYERS, prompt_ids=told)
            for name, own in zip("ab", noise, strict=True)
        )
        rhos[told] = correlate(score, effect, **FAST).pairs[0]
    assert abs(rhos[ids].spearman) < 0.2 and rhos[ids].n_score_prompts == n // 2
    assert rhos[None].spearman == pytest.approx(rhos[ids].spearman, abs=0.2)  # found by their equal columns
    assert rhos[tuple(range(n * copies))].spearman > 0.5  # what halves that share prompts would show


def test_copies_keep_their_weight_in_the_means() -> None:
    values = heads("loss", TRUE, seed=1)
    ids = tuple(range(N_PROMPTS)) + (0,) * 6
    repeated = replace(values, values=values.values[:, list(ids)], prompt_ids=ids)
    other = replace(repeated, name="other", values=repeated.values + 1)
    means = correlate(repeated, other, **FAST).scores[0]
    assert means.means == pytest.approx(repeated.values.mean(dim=1).tolist())
    alone = correlate(values, replace(values, name="other"), **FAST).scores[0]
    assert alone.stderrs == pytest.approx((values.values.std(dim=1) / N_PROMPTS**0.5).tolist())


def test_a_set_with_copies_says_which_in_effects_and_results() -> None:
    model = toys.make_model(toys.MODEL_KINDS[0])
    rows = toys.TOKENS[[0, 1, 2, 3, 0, 1]]
    effects = tle.ablate_heads(model, from_tokens(rows), "loss", kind="zero")
    ids = effects.values("loss").prompt_ids
    assert ids is not None and [ids.index(i) for i in ids] == [0, 1, 2, 3, 0, 1]
    assert (
        tle.ablate_heads(model, from_tokens(toys.TOKENS), "loss", kind="zero").values("loss").prompt_ids
        is None
    )
    result = tle.information_emergence(model, from_tokens(rows), space="unit")
    assert isinstance(result, tle.EmergenceResult)
    assert result.settings["prompt_ids"] == list(ids)


def test_a_metric_is_not_correlated_with_itself() -> None:
    loss, kl = heads("loss", TRUE, seed=1), heads("kl", TRUE, seed=2)
    pairs = correlate([loss, kl], [loss, kl], **FAST).pairs
    assert [(pair.score, pair.effect) for pair in pairs] == [("loss", "kl"), ("kl", "loss")]
    assert len(correlate([loss, kl], [loss, kl], **FAST).plot().axes) == 5  # empty panels, and the colours
    again = replace(loss, values=heads("loss", TRUE, seed=3).values)  # the same metric, measured anew
    assert correlate(loss, again, **FAST).pairs[0].spearman > 0.8
    with pytest.raises(SettingError, match="a metric with itself"):
        correlate(loss, loss, **FAST)


def test_effects_are_called_changes_in_words_and_on_the_axes() -> None:
    score, effect = (replace(heads(name, TRUE, seed=k), change=True) for k, name in enumerate(("kl", "loss")))
    report = correlate(score, effect, **FAST)
    text = report.summary()
    assert "change of kl against change of loss" in text
    assert "a larger change of kl goes with a larger change of loss" in text
    axes = report.plot().axes[0]
    assert axes.get_xlabel().startswith("change of kl") and axes.get_ylabel().startswith("change of loss")


def test_a_pair_that_fails_the_interval_over_heads_has_it_first_in_words_title_and_table() -> None:
    report = correlate(heads("a", TRUE, seed=1), heads("b", 0.3 * TRUE + normal(32, seed=40), seed=2), **FAST)
    pair = report.pairs[0]
    assert "95 % interval over heads" in report.summary() and "over prompts" in report.summary()
    title = report.plot().axes[0].get_title()
    assert f"over 32 heads [{pair.low:.2f}, {pair.high:.2f}]" in title and "over prompts [" in title
    frame = report.to_dataframe()
    columns = list(frame.columns)
    assert columns.index("low") < columns.index("prompts_low")
    assert frame["conclusion"].tolist() == [report.conclusion(pair)]
