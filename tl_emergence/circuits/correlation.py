"""`correlate`: every score against every effect over the same heads or blocks, with all that limits it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_emergence.checks import instance, integer
from tl_emergence.circuits.effects import HeadEffects
from tl_emergence.circuits.over_units import over_units
from tl_emergence.circuits.report import Baseline, CorrelationReport, PairCorrelation, UnitMeans
from tl_emergence.circuits.resampling import (
    bootstrap,
    correlation_interval,
    difference_interval,
    disjoint_halves,
    weighted_means,
)
from tl_emergence.circuits.statistics import (
    ceiling,
    degrees_left,
    depth_regressors,
    each_row,
    q_values,
    rank_correlation,
    spearman_brown,
    unit_ranks,
)
from tl_emergence.circuits.unit_checks import (
    are_blocks,
    baseline_values,
    check_units,
    distinct_prompts,
    same_prompts,
    within_layers_or_not,
)
from tl_emergence.circuits.units import UnitValues, block_means, block_values
from tl_emergence.errors import SettingError
from tl_emergence.results import EmergenceResult
from tl_emergence.torch_state import with_torch_defaults

SPLITS = 16
"""Halves of the prompts, in complementary pairs, over which a correlation is averaged."""


@with_torch_defaults
def correlate(
    scores: UnitValues | Sequence[UnitValues] | HeadEffects | EmergenceResult,
    effects: UnitValues | Sequence[UnitValues] | HeadEffects,
    *,
    baselines: Mapping[str, Float[Tensor, " unit"] | Float[Tensor, "layer head"]] | None = None,
    within_layers: bool | None = None,
    permutations: int = 9999,
    resamples: int = 1000,
    seed: int = 0,
) -> CorrelationReport:
    """Correlate every score with every effect over units, by Spearman's rank correlation.

    * Score and effect of one prompt set (the same hash; or no hash and the same number) come from disjoint
      halves of it, averaged over 8 random splits taken both ways: noise that both share is no correlation.
      Copies of a prompt stay on one side. Of two prompt sets each is used whole; the caller must ensure that
      no prompt appears in both.
    * The interval (95 %) over units comes first: of heads by resampling them, n - 1 of n for the correlation
      and m - 1 of the m heads of each layer where depth is held fixed (Rao and Wu 1988); of blocks, which
      resemble their neighbours, by their effective number (`effective_number`). Beside it stands the interval
      over prompts, units and estimator fixed: values are averaged with random weights, never estimated again
      on duplicated rows. Both are for the correlation of halves (or sets) of this size, which noise holds
      below `ceiling`, the root of the product of the reliabilities.
    * p of heads is by permutation within their layer; p of blocks by a t test with their effective number. q
      controls the false discoveries among all pairs of this call (Benjamini and Hochberg).
    * `partial` holds depth fixed: the layer, or for blocks depth and its square.
    * An association is established where both intervals exclude 0 and q is at most 0.05, within layers too
      where these are compared (`CorrelationReport.conclusion`).
    * A baseline is beaten where both intervals of the difference lie above 0; each correlation is taken with
      its own sign, so that a strong negative baseline counts. Over blocks no baseline is called beaten.
    * A metric is not correlated with itself: such a pair (one name, the same values) is left out.

    Args:
        scores: Scores of the units; of a result, the emergence of its blocks (`block_values`); of ablations,
            every metric. `effects.values("emergence")` is the change of emergence by head.
        effects: Effects of the same units in the same order; of ablations, every metric. Where one side is
            of blocks and the other of heads or MLPs, the latter are averaged by block (`block_means`).
        baselines: Trivial scores of the units by name, such as the norm of the head's output: one value
            per unit, or a map [layer, head] of all heads of the model (`circuits.head_norms`).
        within_layers: Whether to compare only units of one layer; by default where any layer has several.
        permutations: Permutations of heads for p, which is never below 1 / (1 + permutations).
        resamples: Resamples of the prompts, and of the heads, for the intervals.
        seed: Seed of splits, resamples and permutations.

    Raises:
        UnitError: Labels, layers or baselines that do not fit; fewer than 4 units or 8 distinct prompts;
            prompts of one set in different numbers; a result without pointwise values.
        SettingError: No score or no effect, a name twice, nothing but a metric with itself, `within_layers`
            with one unit in every layer or not a truth value, a number out of range.

    Cost: 2 x resamples x 16 x N x units operations per pair; a second for 72 heads and 2,048 prompts.

    Example:
        >>> import torch
        >>> generator, layers = torch.Generator().manual_seed(0), (0, 0, 0, 0, 1, 1, 1, 1)
        >>> labels = tuple(f"L{layer}H{row % 4}" for row, layer in enumerate(layers))
        >>> true = torch.randn(8, 1, generator=generator)
        >>> a, b = (true + torch.randn(8, 64, generator=generator) for _ in range(2))
        >>> score = UnitValues("emergence change", a, labels, layers)
        >>> loss = UnitValues("loss", b, labels, layers)
        >>> report = correlate(score, loss, permutations=199, resamples=200)
        >>> report
        CorrelationReport(1 pair over 8 units: emergence change ~ loss 0.93)
        >>> report["emergence change", "loss"].p < 0.05
        True
    """
    score_values, effect_values = _sequence("score", scores), _sequence("effect", effects)
    for what, number, least in (("permutations", permutations, 19), ("resamples", resamples, 20)):
        integer(what, number, least=least)
    integer("seed", seed, least=0)
    sides = (*score_values, *effect_values)
    by_block = 0 < sum(map(are_blocks, sides)) < len(sides)
    if by_block:
        score_values, effect_values = (
            [v if are_blocks(v) else block_means(v) for v in side] for side in (score_values, effect_values)
        )
    first = score_values[0]
    for other in (*score_values, *effect_values):
        check_units(first, other)
    instance("baselines by name", baselines or {}, Mapping, "Pass baselines={'norm': values}.")
    named = {name: baseline_values(name, values, first) for name, values in (baselines or {}).items()}
    within = within_layers_or_not(first, within_layers)
    setting = _Setting(first, within, named, permutations, resamples, seed)
    chosen = [(s, e) for s in score_values for e in effect_values if not _is_itself(s, e)]
    if not chosen:
        raise SettingError(
            "a metric with itself",
            seen=f"{first.name!r} as score and as effect, with the same values",
            expected="two different quantities",
            fix="Choose another score or effect; a metric always goes with itself.",
        )
    pairs = [_pair(score, effect, setting) for score, effect in chosen]
    q = q_values(np.array([pair.p for pair in pairs]))
    return CorrelationReport(
        pairs=tuple(replace(pair, q=float(value)) for pair, value in zip(pairs, q, strict=True)),
        scores=tuple(_means(values) for values in score_values),
        effects=tuple(_means(values) for values in effect_values),
        labels=first.labels,
        layers=first.layers,
        settings={
            "within_layers": setting.within,
            "averaged_by_block": by_block,
            "permutations": permutations,
            "resamples": resamples,
            "splits": SPLITS,
            "confidence": 0.95,
            "seed": seed,
        },
    )


@dataclass(frozen=True, eq=False)
class _Setting:
    """What all pairs have in common."""

    units: UnitValues
    within: bool
    baselines: Mapping[str, np.ndarray]
    permutations: int
    resamples: int
    seed: int

    @property
    def layers(self) -> np.ndarray:
        return np.array(self.units.layers)

    @property
    def in_sequence(self) -> bool:
        """Whether there is one unit per layer: blocks, which resemble their neighbours in depth."""
        return len(set(self.units.layers)) == len(self.units.layers)

    @property
    def depth(self) -> np.ndarray:
        return depth_regressors(self.layers, self.within)

    def generator(self, stream: int) -> np.random.Generator:
        """Return the generator of one purpose: the same draws for every pair, whichever others there are."""
        return np.random.default_rng([self.seed, stream])


@dataclass(frozen=True, eq=False)
class _Side:
    """Values of one side over distinct prompts, and how often each prompt is in the set."""

    values: Float[np.ndarray, "unit prompt"]
    copies: Float[np.ndarray, " prompt"]

    def means(self, halves: Bool[np.ndarray, "split prompt"]) -> Float[np.ndarray, "split unit"]:
        return weighted_means(self.values, halves, self.copies[None])[0]


def _side(values: UnitValues, ids: Int[np.ndarray, " prompt"]) -> _Side:
    """Return the values with the copies of each prompt averaged, which keep their weight."""
    rows = values.values.detach().cpu().double().numpy()
    copies = np.bincount(ids).astype(np.float64)
    if len(copies) == rows.shape[1]:
        return _Side(rows, np.ones(len(copies)))
    member = (ids[:, None] == np.arange(len(copies))).astype(np.float64)
    return _Side(rows @ member / copies, copies)


def _pair(score: UnitValues, effect: UnitValues, setting: _Setting) -> PairCorrelation:
    same = same_prompts(score, effect)
    if same:
        ids = distinct_prompts(score, effect)
        x, y = _side(score, ids), _side(effect, ids)
    else:
        x, y = (_side(values, distinct_prompts(values)) for values in (score, effect))
    halves = _halves(len(x.copies), len(y.copies), same, setting)
    x_means, y_means = x.means(halves[0]), y.means(halves[1])

    def statistic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return _correlations(a, b, setting)

    estimate = statistic(x_means[None], y_means[None])[0]
    drawn = bootstrap(
        x.values, y.values, statistic, halves=halves, copies=(x.copies, y.copies), same_prompts=same,
        resamples=setting.resamples, generator=setting.generator(1),
    )  # fmt: skip
    n_units = len(x.values)
    prompts_low, prompts_high = correlation_interval(estimate[0], drawn[:, 0], n_units)
    partial_prompts_low, partial_prompts_high = correlation_interval(estimate[1], drawn[:, 1], n_units)
    units = over_units(
        x_means, y_means, estimate, layers=setting.layers, within=setting.within, depth=setting.depth,
        baselines=list(setting.baselines.values()), resamples=setting.resamples,
        permutations=setting.permutations, seeds=(setting.generator(3), setting.generator(2)),
    )  # fmt: skip
    reliabilities = [_reliability(side, same, setting) for side in (x, y)]
    return PairCorrelation(
        score=score.name,
        effect=effect.name,
        spearman=float(estimate[0]),
        low=units.plain.low,
        high=units.plain.high,
        prompts_low=prompts_low,
        prompts_high=prompts_high,
        p=units.plain.p,
        q=float("nan"),
        kendall=_kendall(x_means, y_means),
        pearson=_pearson(x_means, y_means),
        partial=float(estimate[1]),
        partial_low=units.partial.low,
        partial_high=units.partial.high,
        partial_prompts_low=partial_prompts_low,
        partial_prompts_high=partial_prompts_high,
        partial_p=units.partial.p,
        n_effective=units.plain.n_effective,
        partial_n_effective=units.partial.n_effective,
        score_reliability=reliabilities[0],
        effect_reliability=reliabilities[1],
        ceiling=ceiling(*reliabilities),
        baselines=tuple(
            _compared(name, estimate, drawn, 2 + k, units.differences[k])
            for k, name in enumerate(setting.baselines)
        ),
        n_units=n_units,
        n_score_prompts=len(x.copies) // 2 if same else len(x.copies),
        n_effect_prompts=len(y.copies) // 2 if same else len(y.copies),
        disjoint="halves of one prompt set" if same else "two prompt sets",
    )


def _halves(
    n: int, n_other: int, same: bool, setting: _Setting
) -> tuple[Bool[np.ndarray, "split prompt"], Bool[np.ndarray, "split other_prompt"]]:
    if not same:
        return np.ones((1, n), dtype=bool), np.ones((1, n_other), dtype=bool)
    first = disjoint_halves(n, SPLITS, setting.generator(0))
    return first, ~first


def _correlations(
    x: Float[np.ndarray, "resample split unit"],
    y: Float[np.ndarray, "resample split unit"],
    setting: _Setting,
) -> Float[np.ndarray, "resample value"]:
    """Return Spearman, partial Spearman, and Spearman of each baseline with y, averaged over splits."""
    effect = unit_ranks(y)
    products = [unit_ranks(x) * effect, unit_ranks(x, setting.depth) * unit_ranks(y, setting.depth)]
    if degrees_left(setting.depth) < 2:
        products[1] = np.full_like(products[1], np.nan)
    products += [unit_ranks(values) * effect for values in setting.baselines.values()]
    return np.stack([product.sum(axis=-1).mean(axis=-1) for product in products], axis=-1)


def _compared(
    name: str,
    estimate: Float[np.ndarray, " value"],
    drawn: Float[np.ndarray, "resample value"],
    column: int,
    over_units: tuple[float, float],
) -> Baseline:
    # Signs are those of the estimates, in every resample: the difference stays smooth where one is near 0.
    signs = np.sign(estimate[[0, column]])
    difference = float(abs(estimate[0]) - abs(estimate[column]))
    prompts = difference_interval(difference, drawn[:, [0, column]] @ (signs * [1.0, -1.0]))
    return Baseline(name, float(estimate[column]), difference, *over_units, *prompts)


def _reliability(side: _Side, same: bool, setting: _Setting) -> float:
    """Return the split-half reliability of the means that the correlation used: of halves, or whole."""
    halves = disjoint_halves(len(side.copies), SPLITS, setting.generator(0))[::2]
    pair = side.means(halves), side.means(~halves)
    return spearman_brown(float(rank_correlation(*pair).mean()), 1 if same else 2)


def _kendall(x: Float[np.ndarray, "split unit"], y: Float[np.ndarray, "split unit"]) -> float:
    from scipy.stats import kendalltau

    def tau(a: np.ndarray, b: np.ndarray) -> float:
        result: Any = kendalltau(a, b)
        return float(result.statistic)

    return each_row(tau, x, y)


def _pearson(x: Float[np.ndarray, "split unit"], y: Float[np.ndarray, "split unit"]) -> float:
    return each_row(lambda a, b: float(np.corrcoef(a, b)[0, 1]), x, y)


def _is_itself(score: UnitValues, effect: UnitValues) -> bool:
    return score.name == effect.name and torch.equal(score.values, effect.values)


def _means(values: UnitValues) -> UnitMeans:
    side = _side(values, distinct_prompts(values))
    shares = side.copies / side.copies.sum()
    means = side.values @ shares
    # The error of a mean over distinct prompts, whose copies bring nothing new.
    count = len(shares)
    spread = ((side.values - means[:, None]) * shares) ** 2
    errors = np.sqrt(count / (count - 1) * spread.sum(axis=1))
    return UnitMeans(values.name, values.unit, tuple(means.tolist()), tuple(errors.tolist()), values.change)


def _sequence(what: str, values: Any) -> list[UnitValues]:
    if isinstance(values, EmergenceResult):
        values = block_values(values)
    if isinstance(values, HeadEffects):
        values = [values.values(metric) for metric in values.metrics]
    try:
        several = [values] if isinstance(values, UnitValues) else list(values)
    except TypeError:
        several = [values]
    wrong = [type(one).__name__ for one in several if not isinstance(one, UnitValues)]
    if wrong or not several:
        raise SettingError(
            f"no {what}",
            seen=wrong or "none",
            expected="UnitValues, or several",
            fix="Wrap values in UnitValues(name, values, labels, layers); of a sweep pick one result.",
        )
    names = [values.name for values in several]
    if len(set(names)) < len(names):
        raise SettingError(
            f"a {what} twice", seen=names, expected="distinct names", fix="Name each by what it measures."
        )
    return several
