"""Rank correlation, its partial and permutation forms, reliability and false-discovery control, on arrays.

Everything here has leading `*batch` axes, so that thousands of resamples are one call; SciPy ranks, and its
own `spearmanr` is the oracle of the tests. Generators are passed: no global random state is used.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

_AT_ONCE = 1000  # permutations held at a time
_NO_SPREAD = 1e-9  # a residual below this share of the spread of the ranks is rounding


def unit_ranks(
    values: Float[np.ndarray, "*batch unit"], given: Float[np.ndarray, "unit regressor"] | None = None
) -> Float[np.ndarray, "*batch unit"]:
    """Return ranks over units, centred, freed of regressors by least squares, scaled to length 1.

    r / |r|,  r = M rank(v),  M = 1 - Z (Z^T Z)^+ Z^T,  Z = [1, given]

    so that the inner product of two is Spearman's correlation, partial where `given` is. Ties share their
    mean rank. NaN where nothing is left: constant values, or values that the regressors explain.

    Args:
        values: What to rank, along the last axis.
        given: Regressors, such as `depth_regressors`; a constant is always added.

    Cost: one sort of n numbers a row, and n times the number of regressors.

    Example:
        >>> unit_ranks(np.array([1.0, 10.0, 100.0])).round(3).tolist()
        [-0.707, 0.0, 0.707]
    """
    from scipy.stats import rankdata

    ranks = rankdata(values, axis=-1)
    centred = ranks - ranks.mean(axis=-1, keepdims=True)
    left = centred
    if given is not None:
        basis = _basis(given)
        left = centred - (centred @ basis) @ basis.T
    length = np.linalg.norm(left, axis=-1, keepdims=True)
    spread = np.linalg.norm(centred, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(length > _NO_SPREAD * np.maximum(spread, 1.0), left / length, np.nan)


def _basis(given: Float[np.ndarray, "unit regressor"]) -> Float[np.ndarray, "unit dimension"]:
    """Return an orthonormal basis of what the centred regressors span."""
    from scipy.linalg import orth

    return orth(given - given.mean(axis=0))


def rank_correlation(
    x: Float[np.ndarray, "*batch unit"], y: Float[np.ndarray, "*batch unit"]
) -> Float[np.ndarray, "*batch"]:
    """Return Spearman's rank correlation over units; NaN where either is constant.

    Cost: two sorts a row.

    Example:
        >>> float(rank_correlation(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 4.0, 9.0, 8.0])).round(3))
        0.8
    """
    return np.asarray((unit_ranks(x) * unit_ranks(y)).sum(axis=-1))


def partial_rank_correlation(
    x: Float[np.ndarray, "*batch unit"],
    y: Float[np.ndarray, "*batch unit"],
    given: Float[np.ndarray, "unit regressor"],
) -> Float[np.ndarray, "*batch"]:
    """Return the correlation of what regressors leave of the ranks of x and of y.

    With the ranks of one variable as the regressor this is the partial Spearman correlation

    (r_xy - r_xz r_yz) / sqrt( (1 - r_xz^2) (1 - r_yz^2) )

    of the textbooks (for one, Kendall and Stuart, volume 2, chapter 27, on ranks). NaN where nothing is left.

    Args:
        x: One variable.
        y: The other.
        given: What is held fixed, such as `depth_regressors`.

    Cost: that of `unit_ranks`, twice.

    Example:
        >>> depth = np.arange(6.0)
        >>> x, y = depth + [0.3, 0, 0, 1.5, 0, 0], depth + [0, 0, 1.5, 0, 0, 0.3]
        >>> found = partial_rank_correlation(x, y, depth[:, None])
        >>> float(rank_correlation(x, y).round(2)), float(found.round(2))
        (0.83, -0.54)
    """
    return np.asarray((unit_ranks(x, given) * unit_ranks(y, given)).sum(axis=-1))


def depth_regressors(layers: Int[np.ndarray, " unit"], within: bool) -> Float[np.ndarray, "unit regressor"]:
    """Return what to hold fixed for depth to have no say.

    Several units a layer (`within`): an indicator of each layer, which takes out any function of depth. One
    unit a layer: depth and its square, which take out trends and humps; finer shapes stay.

    Args:
        layers: Block number of every unit.
        within: Whether to compare only units of the same layer.

    Example:
        >>> depth_regressors(np.array([0, 0, 1]), within=True).tolist()
        [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    """
    if within:
        return (layers[:, None] == np.unique(layers)).astype(np.float64)
    depth = (layers - layers.mean()) / max(1.0, float(np.ptp(layers)))
    return np.stack([depth, depth**2], axis=1)


def degrees_left(given: Float[np.ndarray, "unit regressor"]) -> int:
    """Return the number of units less what the regressors and a constant take.

    Example:
        >>> degrees_left(depth_regressors(np.arange(18), within=False))
        15
    """
    return len(given) - 1 - _basis(given).shape[1]


def permutation_p_value(
    x: Float[np.ndarray, "split unit"],
    y: Float[np.ndarray, "split unit"],
    *,
    groups: Int[np.ndarray, " unit"],
    permutations: int,
    generator: np.random.Generator,
) -> float:
    """Return the two-sided p-value of a correlation, by permuting the units of y within groups.

    p = median over splits of (1 + #{ |c_b - c| >= |c_0 - c| }) / (1 + B),  c_b = sum_u x_u y_{b(u)}

    (Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9, 2010), with c_0 the value as measured and c the
    expectation over all permutations. Between-group differences are the same in every permutation, so with
    layers as groups the test is one of the correlation within layers, whatever depth does; whether x and y
    are freed of the layer means before makes no difference but to scale.

    In one split score and effect share no prompt, so that its p-value is exact. The mean correlation over
    splits has no such test: the splits together use every prompt on both sides, and noise that score and
    effect share widens the mean beyond what permutation shows. The median of p-values keeps their level
    (to a factor of 2 at the very worst: Ruschendorf, Adv. Appl. Probab. 14, 1982; where splits differ, they
    make it smaller than it says, not larger).

    Args:
        x: Scaled ranks (`unit_ranks`), one row a split of the prompts.
        y: The same of the other variable.
        groups: Units of one group are exchangeable under the null hypothesis.
        permutations: B.
        generator: Source of the permutations.

    Returns:
        The p-value; NaN where x or y is, or where no group has two units.

    Cost: splits x B x n, and B sorts of n numbers.

    Example:
        >>> x = unit_ranks(np.arange(8.0))[None]
        >>> generator = np.random.default_rng(0)
        >>> permutation_p_value(x, x, groups=np.zeros(8, int), permutations=999, generator=generator)
        0.001
    """
    if np.isnan(x).any() or np.isnan(y).any() or len(np.unique(groups)) == len(groups):
        return float("nan")
    expected = _mean_over_permutations(x, y, groups)
    least = np.abs((x * y).sum(axis=1) - expected) - 1e-12  # rounding is no difference
    count = np.zeros(len(x), dtype=np.int64)
    for start in range(0, permutations, _AT_ONCE):
        drawn = _permutations_within(groups, min(_AT_ONCE, permutations - start), generator)
        found = np.stack(
            [y_of_split[drawn] @ x_of_split for x_of_split, y_of_split in zip(x, y, strict=True)]
        )
        count += (np.abs(found - expected[:, None]) >= least[:, None]).sum(axis=1)
    return float(np.median((1 + count) / (1 + permutations)))


def _mean_over_permutations(
    x: Float[np.ndarray, "split unit"], y: Float[np.ndarray, "split unit"], groups: Int[np.ndarray, " unit"]
) -> Float[np.ndarray, " split"]:
    member = (groups[:, None] == np.unique(groups)).astype(np.float64)
    return ((x @ member) * (y @ member) / member.sum(axis=0)).sum(axis=1)


def _permutations_within(
    groups: Int[np.ndarray, " unit"], count: int, generator: np.random.Generator
) -> Int[np.ndarray, "permutation unit"]:
    """Return permutations that shuffle every group and move nothing across."""
    order = np.argsort(groups, kind="stable")
    number = np.unique(groups[order], return_inverse=True)[1]
    drawn = np.empty((count, len(groups)), dtype=np.int64)
    drawn[:, order] = order[np.argsort(number + generator.random((count, len(groups))), axis=1)]
    return drawn


def spearman_brown(reliability: float, times: float) -> float:
    """Return the reliability of a mean over `times` as many prompts: k r / (1 + (k - 1) r).

    (Spearman 1910, Brown 1910, both Brit. J. Psychol. 3.) Below 0 it is no reliability: returned as it is.

    Example:
        >>> spearman_brown(0.5, 2)
        0.6666666666666666
    """
    return reliability if reliability <= 0 else times * reliability / (1 + (times - 1) * reliability)


def ceiling(x_reliability: float, y_reliability: float) -> float:
    """Return the correlation that perfect agreement would show: sqrt(rel_x rel_y).

    (Spearman, Am. J. Psychol. 15, 1904, the attenuation formula; exact for Pearson's correlation, close for
    ranks.) 0 where either reliability is not above 0.

    Example:
        >>> ceiling(0.25, 1.0)
        0.5
    """
    return float(np.sqrt(max(x_reliability, 0.0) * max(y_reliability, 0.0)))


def q_values(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Return Benjamini-Hochberg q-values over a family of tests; NaN is no test and stays NaN.

    (J. R. Stat. Soc. B 57, 1995; `scipy.stats.false_discovery_control`.)

    Example:
        >>> q_values(np.array([0.01, 0.04, np.nan])).tolist()
        [0.02, 0.04, nan]
    """
    from scipy.stats import false_discovery_control

    tests: Bool[np.ndarray, " test"] = ~np.isnan(p)
    found = np.full(len(p), np.nan)
    if tests.any():
        found[tests] = false_discovery_control(p[tests])
    return found


def each_row(
    function: Callable[[np.ndarray, np.ndarray], float],
    x: Float[np.ndarray, "split unit"],
    y: Float[np.ndarray, "split unit"],
) -> float:
    """Return the mean over splits of a SciPy correlation of one row at a time; NaN if any is constant.

    Example:
        >>> from scipy.stats import kendalltau
        >>> rows = np.array([[1.0, 2.0, 3.0]])
        >>> each_row(lambda a, b: float(kendalltau(a, b)[0]), rows, rows)
        1.0
    """
    if (np.ptp(x, axis=1) == 0).any() or (np.ptp(y, axis=1) == 0).any():
        return float("nan")
    return float(np.mean([function(a, b) for a, b in zip(x, y, strict=True)]))
