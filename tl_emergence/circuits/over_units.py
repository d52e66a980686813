"""What other units (heads or blocks) would change: intervals over units, and the test against chance.

Heads of one layer are exchangeable: they are permuted for the test and resampled for the interval. Blocks
are not: an effective number of blocks stands for how many independent ones they are worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int

from tl_emergence.circuits.effective_number import effective_interval, effective_number, t_test_p_value
from tl_emergence.circuits.resampling import draw_units, units_difference_interval, units_interval
from tl_emergence.circuits.statistics import degrees_left, depth_regressors, permutation_p_value, unit_ranks

_NAN = float("nan")


@dataclass(frozen=True)
class OverUnits:
    """One correlation over units.

    Attributes:
        low: Lower end of its 95 % interval over units.
        high: Upper end.
        p: Two-sided p-value: by permutation of heads, by a t test of blocks; NaN where not testable.
        n_effective: Effective number of blocks; NaN for heads.
    """

    low: float
    high: float
    p: float
    n_effective: float


@dataclass(frozen=True)
class PairOverUnits:
    """A correlation, the same with depth held fixed, and the intervals of differences from baselines."""

    plain: OverUnits
    partial: OverUnits
    differences: tuple[tuple[float, float], ...]


def over_units(
    x: Float[np.ndarray, "split unit"],
    y: Float[np.ndarray, "split unit"],
    estimate: Float[np.ndarray, " value"],
    *,
    layers: Int[np.ndarray, " unit"],
    within: bool,
    depth: Float[np.ndarray, "unit regressor"],
    baselines: Sequence[Float[np.ndarray, " unit"]],
    resamples: int,
    permutations: int,
    seeds: tuple[np.random.Generator, np.random.Generator],
) -> PairOverUnits:
    """Return intervals and tests over units of a correlation that is averaged over splits of the prompts.

    Args:
        x: Means of the score.
        y: Means of the effect.
        estimate: Spearman's correlation, the partial one, then that of every baseline with the effect.
        layers: Layer of every unit.
        within: Whether units of one layer only are compared.
        depth: What is held fixed for the partial correlation.
        baselines: Trivial scores.
        resamples: Resamples of the units, where they are heads.
        permutations: Permutations for p, where they are heads.
        seeds: Generators of the resamples and of the permutations.

    Cost: splits x (resamples + permutations) sorts of n numbers for heads; nothing to speak of for blocks.
    """
    if len(set(layers.tolist())) == len(layers):
        return _over_blocks(x, y, estimate, layers, depth, len(baselines))
    draws, permuting = seeds
    groups = layers if within else np.zeros_like(layers)
    state = permuting.bit_generator.state
    p_plain = _permuted(x, y, None, groups, permutations, permuting)
    permuting.bit_generator.state = state  # both tests see the same permutations
    p_partial = _permuted(x, y, depth, groups, permutations, permuting)
    everywhere = draw_units(np.zeros_like(layers), resamples, draws)
    inside = draw_units(layers, resamples, draws) if within else everywhere
    plain = _resampled(x, y, everywhere, None)
    low, high = units_interval(estimate[0], plain, len(layers))
    partial_low, partial_high = units_interval(
        estimate[1], _resampled(x, y, inside, (layers, within)), len(layers)
    )
    drawn_baselines = [_resampled(values[None], y, everywhere, None) for values in baselines]
    differences = [
        units_difference_interval(
            abs(estimate[0]) - abs(estimate[2 + k]),
            np.sign(estimate[0]) * plain - np.sign(estimate[2 + k]) * values,
        )
        for k, values in enumerate(drawn_baselines)
    ]
    return PairOverUnits(
        OverUnits(low, high, p_plain, _NAN),
        OverUnits(partial_low, partial_high, p_partial, _NAN),
        tuple(differences),
    )


def _over_blocks(
    x: Float[np.ndarray, "split unit"],
    y: Float[np.ndarray, "split unit"],
    estimate: Float[np.ndarray, " value"],
    layers: Int[np.ndarray, " unit"],
    depth: Float[np.ndarray, "unit regressor"],
    n_baselines: int,
) -> PairOverUnits:
    order = np.argsort(layers, kind="stable")

    def of_blocks(given: Float[np.ndarray, "unit regressor"] | None, value: float) -> OverUnits:
        regressors = 0 if given is None else given.shape[1]
        u, v = unit_ranks(x, given)[:, order], unit_ranks(y, given)[:, order]
        if np.isnan(u).any() or np.isnan(v).any() or np.isnan(value):
            return OverUnits(_NAN, _NAN, _NAN, _NAN)
        numbers = effective_number(u, v)
        # A sum of products can pass 1 by rounding, where nothing is defined.
        p = t_test_p_value(np.clip((u * v).sum(axis=-1), -1.0, 1.0), numbers, regressors)
        # A split that cannot be tested counts as no evidence.
        p_value = _NAN if np.isnan(p).all() else float(np.median(np.where(np.isnan(p), 1.0, p)))
        number = float(np.median(numbers))
        return OverUnits(
            *effective_interval(float(np.clip(value, -1.0, 1.0)), number, regressors), p_value, number
        )

    # A difference of two correlations over so few blocks that depend on each other has no interval here.
    return PairOverUnits(
        of_blocks(None, float(estimate[0])),
        of_blocks(depth, float(estimate[1])),
        tuple((_NAN, _NAN) for _ in range(n_baselines)),
    )


def _permuted(
    x: Float[np.ndarray, "split unit"],
    y: Float[np.ndarray, "split unit"],
    given: Float[np.ndarray, "unit regressor"] | None,
    groups: Int[np.ndarray, " unit"],
    permutations: int,
    generator: np.random.Generator,
) -> float:
    if given is not None and degrees_left(given) < 2:
        return _NAN
    return permutation_p_value(
        unit_ranks(x, given), unit_ranks(y, given), groups=groups, permutations=permutations,
        generator=generator,
    )  # fmt: skip


def _resampled(
    x: Float[np.ndarray, "any_split unit"],
    y: Float[np.ndarray, "split unit"],
    drawn: Int[np.ndarray, "resample drawn"],
    held: tuple[Int[np.ndarray, " unit"], bool] | None,
) -> Float[np.ndarray, " resample"]:
    """Return the correlation of every resample of the units, averaged over splits.

    Args:
        x: Score, or one row of a baseline.
        y: Effect.
        drawn: Units of each resample.
        held: Layers, and whether within layers, where depth is held fixed.
    """
    chosen = [rearrange(values[:, drawn], "split resample unit -> resample split unit") for values in (x, y)]
    if held is None:
        a, b = (unit_ranks(values) for values in chosen)
        return np.asarray((a * b).sum(axis=-1).mean(axis=-1))
    layers, within = held
    if within:  # as many units of each layer in every resample, in order: one set of regressors serves all
        same = depth_regressors(layers[drawn[0]], within)
        if degrees_left(same) < 2:
            return np.full(len(drawn), np.nan)
        a, b = (unit_ranks(values, same) for values in chosen)
        return np.asarray((a * b).sum(axis=-1).mean(axis=-1))
    rows = []
    for units, u, v in zip(drawn, *chosen, strict=True):
        given = depth_regressors(layers[units], within)
        rows.append((unit_ranks(u, given) * unit_ranks(v, given)).sum(axis=-1).mean())
    return np.array(rows)
