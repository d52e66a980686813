"""Correlation over blocks, which are not exchangeable: neighbours in depth resemble each other.

A quantity that drifts with depth has fewer independent values than blocks. Permuting blocks then calls far
too many chance associations significant; a t test with an effective number of blocks does not.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

_SPEARMAN = 1.03  # sqrt(1.06): ranks on Fisher's scale (Fieller, Hartley and Pearson, Biometrika 44, 1957)
_NORMAL_95 = 1.959964


def autocorrelation(ranks: Float[np.ndarray, "*batch unit"], lags: int) -> Float[np.ndarray, "*batch lag"]:
    """Return the autocorrelation of centred values of length 1 at lags 1 to `lags`.

    r(k) = n / (n - k) sum_i u_i u_{i+k}

    Args:
        ranks: Scaled ranks (`statistics.unit_ranks`), in the order of the layers.
        lags: Largest lag.

    Example:
        >>> autocorrelation(np.array([0.5, -0.5, 0.5, -0.5]), 1).round(2).tolist()
        [-1.0]
    """
    n = ranks.shape[-1]
    products = [n / (n - k) * (ranks[..., :-k] * ranks[..., k:]).sum(axis=-1) for k in range(1, lags + 1)]
    return np.stack(products, axis=-1) if products else np.zeros((*ranks.shape[:-1], 0))


def effective_number(
    x: Float[np.ndarray, "*batch unit"], y: Float[np.ndarray, "*batch unit"]
) -> Float[np.ndarray, "*batch"]:
    """Return the number of independent units that a correlation of autocorrelated values is worth.

    1 / n* = 1 / n + 2 / n sum_{k=1}^{n/3} (n - k) / n r_x(k) r_y(k)

    (Pyper and Peterman, Can. J. Fish. Aquat. Sci. 55, 1998, equation 1.) n itself where 1 / n* is not
    positive or n* exceeds n. Left-out layers count as no distance: lags are counted in units that are there.

    Args:
        x: Scaled ranks (`statistics.unit_ranks`), freed of regressors or not, in the order of the layers.
        y: The same of the other variable.

    Example:
        >>> from tl_emergence.circuits.statistics import unit_ranks
        >>> trend = unit_ranks(np.arange(18.0))
        >>> float(effective_number(trend, trend).round(1))
        4.0
    """
    n = x.shape[-1]
    lags = n // 3
    weights = (n - np.arange(1, lags + 1)) / n
    inverse = 1 / n + 2 / n * (weights * autocorrelation(x, lags) * autocorrelation(y, lags)).sum(axis=-1)
    with np.errstate(divide="ignore"):
        return np.asarray(np.where(inverse * n > 1, 1 / inverse, n))


def t_test_p_value(
    correlation: Float[np.ndarray, "*batch"], number: Float[np.ndarray, "*batch"], regressors: int = 0
) -> Float[np.ndarray, "*batch"]:
    """Return the two-sided p-value of a correlation by a t test with n* - 2 - regressors degrees of freedom.

    t = r sqrt(df / (1 - r^2)). NaN, that is not testable, where df is 1 or less.

    Args:
        correlation: The correlation, partial or not.
        number: n* (`effective_number`).
        regressors: How many regressors were taken out of both variables.

    Example:
        >>> t_test_p_value(np.array([0.5, 0.5]), np.array([18.0, 3.0])).round(3).tolist()
        [0.035, nan]
    """
    from scipy.stats import t

    degrees = np.where(number - 2 - regressors > 1, number - 2 - regressors, np.nan)
    with np.errstate(divide="ignore"):
        statistic = np.abs(correlation) * np.sqrt(degrees / (1 - correlation**2))
    return np.asarray(2 * t.sf(statistic, degrees))


def effective_interval(correlation: float, number: float, regressors: int = 0) -> tuple[float, float]:
    """Return the interval of 95 % over units of a rank correlation of autocorrelated values.

    tanh( atanh r -+ 1.96 x 1.03 / sqrt(n* - regressors - 3) );  undefined (NaN) where n* - regressors <= 4.

    Args:
        correlation: Spearman's correlation, partial or not.
        number: n* (`effective_number`).
        regressors: How many regressors were taken out of both variables.

    Example:
        >>> low, high = effective_interval(0.5, 18.0)
        >>> round(low, 2), round(high, 2)
        (0.03, 0.79)
    """
    if not number - regressors > 4 or np.isnan(correlation):
        return float("nan"), float("nan")
    with np.errstate(divide="ignore"):
        middle = np.arctanh(correlation)
    half = _NORMAL_95 * _SPEARMAN / np.sqrt(number - regressors - 3)
    return float(np.tanh(middle - half)), float(np.tanh(middle + half))
