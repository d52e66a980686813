"""`correlate`: every score against every effect over the same heads or blocks, with all that limits it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from tl_emergence.checks import integer
from tl_emergence.circuits.effects import HeadEffects
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
    permutation_p_value,
    q_values,
    rank_correlation,
    spearman_brown,
    unit_ranks,
)
from tl_emergence.circuits.units import UnitValues, block_means, block_values
from tl_emergence.errors import SettingError, UnitError
from tl_emergence.results import EmergenceResult

SPLITS = 16
"""Halves of the prompts, in complementary pairs, over which a correlation is averaged."""

_LEAST_UNITS, _LEAST_PROMPTS = 4, 8


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
      Of two prompt sets each is used whole; that no prompt is in both is the caller's to see to.
    * Intervals (95 %) are over prompts, with the units and the estimator fixed: values are averaged with
      random weights, never estimated again on duplicated rows. They are for the correlation of halves (or
      sets) of this size, which noise holds below `ceiling`, the root of the product of the reliabilities.
    * p is by permutation, of units within their layer; of blocks, all of them. q controls the false
      discoveries among all pairs of this call (Benjamini and Hochberg).
    * `partial` holds depth fixed: the layer, or for blocks depth and its square.
    * A baseline is beaten where the interval of the difference lies above 0; each correlation is taken with
      its own sign, so that a strong negative baseline counts.

    Args:
        scores: Scores of the units; of a result, the emergence of its blocks (`block_values`); of ablations,
            every metric. `effects.values("emergence")` is the change of emergence by head.
        effects: Effects of the same units in the same order; of ablations, every metric. Where one side is
            of blocks and the other of heads or MLPs, the latter are averaged by block (`block_means`).
        baselines: Trivial scores of the units by name, such as the norm of the head's output: one value a
            unit, or a map [layer, head] of all heads of the model (`circuits.head_norms`).
        within_layers: Whether to compare only units of one layer; by default where any layer has several.
        permutations: Permutations for p, which is never below 1 / (1 + permutations).
        resamples: Resamples of the prompts for the intervals.
        seed: Seed of splits, resamples and permutations.

    Raises:
        UnitError: Labels, layers or baselines that do not fit; fewer than 4 units or 8 prompts; prompts of
            one set in different numbers; a result without pointwise values.
        SettingError: No score or no effect, a name twice, `within_layers` with one unit in every layer, a
            number out of range.

    Cost: 2 x resamples x 16 x N x units operations a pair; a second for 72 heads and 2,048 prompts.

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
    by_block = 0 < sum(map(_of_blocks, sides)) < len(sides)
    if by_block:
        score_values, effect_values = (
            [v if _of_blocks(v) else block_means(v) for v in side] for side in (score_values, effect_values)
        )
    first = score_values[0]
    for other in (*score_values, *effect_values):
        _check_units(first, other)
    named = {name: _baseline(name, values, first) for name, values in (baselines or {}).items()}
    setting = _Setting(first, _within(first, within_layers), named, permutations, resamples, seed)
    pairs = [_pair(score, effect, setting) for score in score_values for effect in effect_values]
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
    def depth(self) -> np.ndarray:
        return depth_regressors(self.layers, self.within)

    def generator(self, stream: int) -> np.random.Generator:
        """Return the generator of one purpose: the same draws for every pair, whichever others there are."""
        return np.random.default_rng([self.seed, stream])


def _pair(score: UnitValues, effect: UnitValues, setting: _Setting) -> PairCorrelation:
    x, y = (values.values.detach().cpu().double().numpy() for values in (score, effect))
    same = _same_prompts(score, effect)
    halves = _halves(x.shape[1], y.shape[1], same, setting)
    x_means, y_means = (
        weighted_means(values, half, np.ones((1, values.shape[1])))
        for values, half in zip((x, y), halves, strict=True)
    )

    def statistic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return _correlations(a, b, setting)

    estimate = statistic(x_means, y_means)[0]
    drawn = bootstrap(
        x, y, statistic, halves=halves, same_prompts=same, resamples=setting.resamples,
        generator=setting.generator(1),
    )  # fmt: skip
    n_units = len(x)
    low, high = correlation_interval(estimate[0], drawn[:, 0], n_units)
    partial_low, partial_high = correlation_interval(estimate[1], drawn[:, 1], n_units)
    reliabilities = [_reliability(values, same, setting) for values in (x, y)]
    return PairCorrelation(
        score=score.name,
        effect=effect.name,
        spearman=float(estimate[0]),
        low=low,
        high=high,
        p=_p_value(x_means[0], y_means[0], setting, given=None),
        q=float("nan"),
        kendall=_kendall(x_means[0], y_means[0]),
        pearson=_pearson(x_means[0], y_means[0]),
        partial=float(estimate[1]),
        partial_low=partial_low,
        partial_high=partial_high,
        partial_p=_p_value(x_means[0], y_means[0], setting, given=setting.depth),
        score_reliability=reliabilities[0],
        effect_reliability=reliabilities[1],
        ceiling=ceiling(*reliabilities),
        baselines=tuple(
            _compared(name, estimate, drawn, 2 + k) for k, name in enumerate(setting.baselines)
        ),
        n_units=n_units,
        n_score_prompts=x.shape[1] // 2 if same else x.shape[1],
        n_effect_prompts=y.shape[1] // 2 if same else y.shape[1],
        disjoint="halves of one prompt set" if same else "two prompt sets",
    )  # fmt: skip


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
    found = [unit_ranks(x) * effect, unit_ranks(x, setting.depth) * unit_ranks(y, setting.depth)]
    if degrees_left(setting.depth) < 2:
        found[1] = np.full_like(found[1], np.nan)
    found += [unit_ranks(values) * effect for values in setting.baselines.values()]
    return np.stack([products.sum(axis=-1).mean(axis=-1) for products in found], axis=-1)


def _compared(
    name: str, estimate: Float[np.ndarray, " value"], drawn: Float[np.ndarray, "resample value"], column: int
) -> Baseline:
    # Signs are those of the estimates, in every resample: the difference stays smooth where one is near 0.
    signs = np.sign(estimate[[0, column]])
    difference = float(abs(estimate[0]) - abs(estimate[column]))
    low, high = difference_interval(difference, drawn[:, [0, column]] @ (signs * [1.0, -1.0]))
    return Baseline(name, float(estimate[column]), difference, low, high)


def _reliability(values: Float[np.ndarray, "unit prompt"], same: bool, setting: _Setting) -> float:
    """Return the split-half reliability of the means that the correlation used: of halves, or whole."""
    halves = disjoint_halves(values.shape[1], SPLITS, setting.generator(0))[::2]
    ones = np.ones((1, values.shape[1]))
    pair = weighted_means(values, halves, ones), weighted_means(values, ~halves, ones)
    return spearman_brown(float(rank_correlation(*pair).mean()), 1 if same else 2)


def _p_value(
    x: Float[np.ndarray, "split unit"],
    y: Float[np.ndarray, "split unit"],
    setting: _Setting,
    given: Float[np.ndarray, "unit regressor"] | None,
) -> float:
    if given is not None and degrees_left(given) < 2:
        return float("nan")
    groups = setting.layers if setting.within else np.zeros(x.shape[1], dtype=np.int64)
    return permutation_p_value(
        unit_ranks(x, given), unit_ranks(y, given), groups=groups,
        permutations=setting.permutations, generator=setting.generator(2),
    )  # fmt: skip


def _kendall(x: Float[np.ndarray, "split unit"], y: Float[np.ndarray, "split unit"]) -> float:
    from scipy.stats import kendalltau

    def of(a: np.ndarray, b: np.ndarray) -> float:
        found: Any = kendalltau(a, b)
        return float(found.statistic)

    return each_row(of, x, y)


def _pearson(x: Float[np.ndarray, "split unit"], y: Float[np.ndarray, "split unit"]) -> float:
    return each_row(lambda a, b: float(np.corrcoef(a, b)[0, 1]), x, y)


def _means(values: UnitValues) -> UnitMeans:
    found = values.values.detach().cpu().double()
    errors = found.std(dim=1) / found.shape[1] ** 0.5
    return UnitMeans(values.name, values.unit, tuple(found.mean(dim=1).tolist()), tuple(errors.tolist()))


def _sequence(what: str, values: Any) -> list[UnitValues]:
    if isinstance(values, EmergenceResult):
        values = block_values(values)
    if isinstance(values, HeadEffects):
        values = [values.values(metric) for metric in values.metrics]
    found = [values] if isinstance(values, UnitValues) else list(values)
    wrong = [type(one).__name__ for one in found if not isinstance(one, UnitValues)]
    if wrong or not found:
        raise SettingError(
            f"no {what}",
            seen=wrong or "none",
            expected="UnitValues, or several",
            fix="Wrap values in UnitValues(name, values, labels, layers); of a sweep pick one result.",
        )
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise SettingError(
            f"a {what} twice", seen=names, expected="distinct names", fix="Name each by what it measures."
        )
    return found


def _of_blocks(values: UnitValues) -> bool:
    return all(label == f"L{layer}" for label, layer in zip(values.labels, values.layers, strict=True))


def _check_units(first: UnitValues, other: UnitValues) -> None:
    if (first.labels, first.layers) != (other.labels, other.layers):
        odd = sorted(set(first.labels) ^ set(other.labels))
        seen = f"{odd[:6]} in one only" if odd else "the same units in another order, or in other layers"
        raise UnitError(
            f"units of {other.name!r} are not those of {first.name!r}",
            seen=seen,
            expected="the same units in the same order",
            fix="Bring both to common labels: values.select(labels).",
        )
    n_units, n_prompts = other.values.shape
    if n_units < _LEAST_UNITS or n_prompts < _LEAST_PROMPTS:
        raise UnitError(
            f"too little of {other.name!r} to correlate",
            seen=f"{n_units} units, {n_prompts} prompts",
            expected=f"at least {_LEAST_UNITS} units and {_LEAST_PROMPTS} prompts",
            fix="Measure more of them.",
        )


def _same_prompts(score: UnitValues, effect: UnitValues) -> bool:
    """Return whether prompt i of both is one prompt; without a hash, an equal number is taken to say so."""
    if score.prompts and effect.prompts and score.prompts != effect.prompts:
        return False
    if score.n_prompts == effect.n_prompts:
        return True
    if score.prompts and score.prompts == effect.prompts:
        raise UnitError(
            f"{score.name!r} and {effect.name!r} do not have one row a prompt",
            seen=f"{score.n_prompts} and {effect.n_prompts} values of the same prompt set",
            expected="the same prompts in the same order",
            fix="Measure both on all prompts of the set, or on two sets that share none.",
        )
    return False


def _within(units: UnitValues, asked: bool | None) -> bool:
    alone = len(set(units.layers)) == len(units.layers)
    if asked and alone:
        raise SettingError(
            "nothing to compare within layers",
            seen="one unit in every layer",
            expected="a layer with several units",
            fix="Leave within_layers out for blocks.",
        )
    return not alone if asked is None else asked


def _of_heads(values: Float[np.ndarray, "layer head"], units: UnitValues) -> Float[np.ndarray, "..."]:
    """Return the units' values from a map of all heads, its means for blocks; the map itself if none fit."""
    if _of_blocks(units):
        rows = [values[layer].mean() for layer in units.layers if layer < len(values)]
        return np.array(rows) if len(rows) == len(units.layers) else values
    places = [re.fullmatch(r"L(\d+)H(\d+)", label) for label in units.labels]
    at = [(int(found[1]), int(found[2])) for found in places if found]
    inside = all(layer < values.shape[0] and head < values.shape[1] for layer, head in at)
    return np.array([values[place] for place in at]) if inside and len(at) == len(places) else values


def _baseline(name: str, values: Any, units: UnitValues) -> Float[np.ndarray, " unit"]:
    found = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    if found.ndim == 2:  # [layer, head], as `head_scores` gives them
        found = _of_heads(found, units)
    if found.shape != (len(units.labels),) or not np.isfinite(found).all():
        raise UnitError(
            f"baseline {name!r} does not fit the units",
            seen=f"shape {found.shape}" if found.shape != (len(units.labels),) else "NaN or infinity",
            expected=f"one finite value for each of {len(units.labels)} units",
            fix="Pass one value a unit, in the order of the labels, or [layer, head] of all heads.",
        )
    return found
