"""Resampling of prompts and of units: disjoint halves, and an interval for either source of chance.

The mean score and the mean effect of the same prompts share those prompts' noise, and so correlate where the
units do not. Hence the score is taken from one half and the effect from the other, over several splits. Each
half has half the prompts, which attenuates: the correlation here is the one to expect between a score of N/2
prompts and an effect of N/2 others, not that of infinitely many, and the interval is for the same number.
`ceiling` says how far below 1 it is held.

Other prompts are one source of chance, other units (heads) another: 72 heads measured on 2,048 prompts hardly
move with the prompts, and still are 72 draws. Both intervals are given, that over units first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

# Resampling adds noise to noise, which flattens ranks and so their spread: intervals from N draws covered
# 86 to 94 % of the time in simulations. Drawn four times as many, they move half as far, and are doubled.
_MORE = 4
_NORMAL_95 = 1.959964
_UNDEFINED = 0.05  # share of resamples that may hold one unit over and over, and so no correlation
_ELEMENTS = 4_000_000  # of the weights held at a time: 32 MB

Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From means of score and effect, [resample, split, unit], to values [resample, value]."""


def disjoint_halves(
    n_prompts: int, splits: int, generator: np.random.Generator
) -> Bool[np.ndarray, "split prompt"]:
    """Return random halves of the prompts, each followed by its complement.

    In pairs, because the mean over a half and its complement is the mean over all: averaged over the two, no
    prompt counts for more than another.

    Args:
        n_prompts: Number of prompts; of an odd number one half has one more.
        splits: Number of halves, even.
        generator: Source of the halves.

    Example:
        >>> found = disjoint_halves(6, 2, np.random.default_rng(0))
        >>> found.sum(axis=1).tolist(), bool((found[0] ^ found[1]).all())
        ([3, 3], True)
    """
    halves = np.zeros((splits, n_prompts), dtype=bool)
    for split in range(0, splits, 2):
        halves[split, generator.permutation(n_prompts)[: n_prompts // 2]] = True
        halves[split + 1] = ~halves[split]
    return halves


def weighted_means(
    values: Float[np.ndarray, "unit prompt"],
    halves: Bool[np.ndarray, "split prompt"],
    weights: Float[np.ndarray, "resample prompt"],
) -> Float[np.ndarray, "resample split unit"]:
    """Return the weighted mean of every unit over the prompts of every half.

    Cost: resamples x splits x prompts x units operations.

    Example:
        >>> values, half = np.array([[1.0, 2.0, 4.0]]), np.array([[True, True, False]])
        >>> weighted_means(values, half, np.ones((1, 3))).tolist()
        [[[1.5]]]
    """
    shares = weights[:, None, :] * halves
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares @ values.T


def bootstrap(
    x: Float[np.ndarray, "unit prompt"],
    y: Float[np.ndarray, "unit other_prompt"],
    statistic: Statistic,
    *,
    halves: tuple[Bool[np.ndarray, "split prompt"], Bool[np.ndarray, "split other_prompt"]],
    copies: tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, " other_prompt"]],
    same_prompts: bool,
    resamples: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, "resample value"]:
    """Return a statistic of resampled prompts, by a Bayesian bootstrap of 4 N draws.

    Every prompt gets a weight w = gamma(4) / 4, of mean 1 and variance 1/4, instead of a count (Rubin, Ann.
    Stat. 9, 1981, with N draws): to first order the same as drawing 4 N rows of N, but no row is twice in a
    sample, so that no half shares a prompt with the other and none is empty. The values were estimated
    once, on distinct prompts, and are only averaged here. The spread is half of that of another sample of N
    prompts; `correlation_interval` doubles it.

    The halves are the same in every resample, so that which were drawn is no part of the spread.

    Args:
        x: Scores.
        y: Effects.
        statistic: What to compute of the means.
        halves: For the scores and for the effects, which prompts are in each split.
        copies: For the scores and for the effects, how often each prompt is in its set: copies share a draw.
        same_prompts: Whether prompt i of both is one prompt, with one weight.
        resamples: Number of resamples.
        generator: Source of the weights.

    Cost: 2 x resamples x splits x prompts x units operations, 32 MB of weights at a time.

    Example:
        >>> x, whole, once = np.arange(20.0)[None], np.ones((1, 20), bool), np.ones(20)
        >>> drawn = bootstrap(x, x, lambda a, b: a[:, 0], halves=(whole, whole), copies=(once, once),
        ...                   same_prompts=True, resamples=4000, generator=np.random.default_rng(0))
        >>> float((2 * drawn.std()).round(1)), float((x.std() / 20**0.5).round(1))  # the error of a mean
        (1.3, 1.3)
    """
    size = max(1, _ELEMENTS // (len(halves[0]) * max(x.shape[1], y.shape[1])))
    found = []
    for start in range(0, resamples, size):
        count = min(size, resamples - start)
        x_weights = generator.standard_gamma(_MORE, (count, x.shape[1]))
        y_weights = x_weights if same_prompts else generator.standard_gamma(_MORE, (count, y.shape[1]))
        x_means = weighted_means(x, halves[0], x_weights * copies[0])
        found.append(statistic(x_means, weighted_means(y, halves[1], y_weights * copies[1])))
    return np.concatenate(found)


def correlation_interval(
    estimate: float, replicates: Float[np.ndarray, " resample"], n_units: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the interval of a rank correlation: the spread of resamples, set around the estimate.

    tanh( atanh(estimate) -+ z_{confidence} 2 sd_b(atanh r_b) )

    Around the estimate, because resampled correlations lie nearer to 0 than it does; on Fisher's scale
    (Biometrika 10, 1915), where the spread hardly depends on the value. A correlation counts as no nearer to
    1 than half of what the swap of two neighbouring ranks takes away, 6 / (n (n^2 - 1)).

    It is an interval over prompts with the units fixed: of ranks that no resample changes it has no width.

    Args:
        estimate: The correlation as measured.
        replicates: The same of `bootstrap`.
        n_units: Number of units.
        confidence: Probability that the interval covers.

    Returns:
        Both ends; NaN where the estimate or a replicate is.

    Example:
        >>> spread = np.random.default_rng(0).standard_normal(4000)
        >>> low, high = correlation_interval(0.5, np.tanh(0.5 + 0.1 * spread), 32)
        >>> round(low, 1), round(high, 1)
        (0.2, 0.7)
    """
    if np.isnan(estimate) or np.isnan(replicates).any():
        return float("nan"), float("nan")
    limit = 1 - 6 / (n_units * (n_units**2 - 1))
    spread = _half_width(np.arctanh(np.clip(replicates, -limit, limit)), confidence)
    if spread == 0:
        return float(estimate), float(estimate)
    middle = np.arctanh(np.clip(estimate, -limit, limit))
    low, high = np.tanh(middle - spread), np.tanh(middle + spread)
    return float(min(low, estimate)), float(max(high, estimate))


def draw_units(
    groups: Int[np.ndarray, " unit"], resamples: int, generator: np.random.Generator
) -> Int[np.ndarray, "resample drawn"]:
    """Return units drawn with replacement, m - 1 of the m units of each group, groups in order.

    m - 1, so that the variance of a mean over units comes out unbiased (Rao and Wu, J. Am. Stat. Assoc. 83,
    1988): drawn m of m, four heads per layer would seem a quarter less variable than they are.

    Args:
        groups: Group of every unit: its layer, where layers are held fixed; one number for all, where not.
        resamples: Number of resamples.
        generator: Source of the draws.

    Example:
        >>> draw_units(np.array([0, 0, 1, 1, 1]), 2, np.random.default_rng(0)).shape
        (2, 3)
    """
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    drawn = [units[generator.integers(0, len(units), (resamples, len(units) - 1))] for units in members]
    return np.concatenate(drawn, axis=1)


def units_interval(
    estimate: float, replicates: Float[np.ndarray, " resample"], n_units: int
) -> tuple[float, float]:
    """Return the 95 % interval of a rank correlation over units: tanh( atanh r -+ 1.96 sd_b(atanh r_b) ).

    Args:
        estimate: The correlation as measured.
        replicates: The same of resampled units (`draw_units`).
        n_units: Number of units.

    Returns:
        Both ends; NaN where the estimate is, or where more than one in twenty replicates is (too few units
        per group).

    Example:
        >>> spread = np.random.default_rng(0).standard_normal(4000)
        >>> low, high = units_interval(0.5, np.tanh(0.5 + 0.1 * spread), 32)
        >>> round(low, 1), round(high, 1)
        (0.3, 0.6)
    """
    defined = _defined(replicates)
    if np.isnan(estimate) or defined is None:
        return float("nan"), float("nan")
    limit = 1 - 6 / (n_units * (n_units**2 - 1))
    half = _NORMAL_95 * float(np.arctanh(np.clip(defined, -limit, limit)).std())
    middle = np.arctanh(np.clip(estimate, -limit, limit))
    return float(min(np.tanh(middle - half), estimate)), float(max(np.tanh(middle + half), estimate))


def units_difference_interval(
    estimate: float, replicates: Float[np.ndarray, " resample"]
) -> tuple[float, float]:
    """Return the 95 % interval over units of a difference of two correlations: d -+ 1.96 sd_b(d_b).

    Args:
        estimate: The difference as measured.
        replicates: The same of resampled units.

    Returns:
        Both ends; NaN as for `units_interval`.
    """
    defined = _defined(replicates)
    if np.isnan(estimate) or defined is None:
        return float("nan"), float("nan")
    half = _NORMAL_95 * float(defined.std())
    return float(estimate - half), float(estimate + half)


def _defined(replicates: Float[np.ndarray, " resample"]) -> Float[np.ndarray, " defined"] | None:
    """Return the replicates that are defined, or None where too many are not."""
    undefined = np.isnan(replicates)
    return None if undefined.mean() > _UNDEFINED or undefined.all() else replicates[~undefined]


def difference_interval(
    estimate: float, replicates: Float[np.ndarray, " resample"], confidence: float = 0.95
) -> tuple[float, float]:
    """Return estimate -+ z_{confidence} 2 sd_b(d_b): the interval of a difference of two correlations.

    Args:
        estimate: The difference as measured.
        replicates: The same of `bootstrap`.
        confidence: Probability that the interval covers.

    Returns:
        Both ends; NaN where the estimate or a replicate is.

    Example:
        >>> difference_interval(0.25, np.array([0.25, 0.25]))
        (0.25, 0.25)
    """
    if np.isnan(estimate) or np.isnan(replicates).any():
        return float("nan"), float("nan")
    spread = _half_width(replicates, confidence)
    return estimate - spread, estimate + spread


def _half_width(replicates: Float[np.ndarray, " resample"], confidence: float) -> float:
    from scipy.stats import norm

    if np.ptp(replicates) < 1e-12:
        return 0.0
    return float(norm.ppf((1 + confidence) / 2) * _MORE**0.5 * replicates.std())
