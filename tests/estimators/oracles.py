"""Known answers and slow, obvious twins of the estimators."""

from __future__ import annotations

import math

import numpy as np
from scipy import integrate


def log_mixture(exponents: np.ndarray, weights: np.ndarray) -> float:
    """Return ln sum_j w_j exp(e_j)."""
    largest = exponents.max()
    return float(largest + np.log(weights @ np.exp(exponents - largest)))


def noise_information_slowly(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, sigma: float, draws: int, seed: int
) -> tuple[float, float]:
    """Return the noise information of weighted row pairs and its standard error, one row at a time.

    Straight from the definition, in float64, with random numbers of its own: no kernel trick, no mirrored
    draws, no shared products.
    """
    rng = np.random.default_rng(seed)
    values = np.zeros((len(x), draws))
    for i in range(len(x)):
        for d in range(draws):
            u = x[i] + sigma * rng.standard_normal(x.shape[1])
            v = y[i] + sigma * rng.standard_normal(y.shape[1])
            from_x = -((u - x) ** 2).sum(axis=1) / (2 * sigma**2)
            from_y = -((v - y) ** 2).sum(axis=1) / (2 * sigma**2)
            log_p_u = log_mixture(from_x, weights)
            log_p_v = log_mixture(from_y, weights)
            log_p_uv = log_mixture(from_x + from_y, weights)
            values[i, d] = (log_p_uv - log_p_u - log_p_v) / math.log(2)
    bits = float(weights @ values.mean(axis=1))
    stderr = math.sqrt(float((weights**2) @ values.var(axis=1, ddof=1)) / draws)
    return bits, stderr


def binary_capacity(ratio: float) -> float:
    """Return the capacity, in bits, of the binary-input Gaussian channel with amplitude / sigma = ratio."""

    def density(z: float) -> float:
        normal = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        return normal * np.logaddexp(0.0, -2 * ratio * ratio - 2 * ratio * z) / math.log(2)

    return 1.0 - integrate.quad(density, -12.0, 12.0, epsabs=1e-12)[0]


def two_point_information(a: float, b: float, sigma: float) -> float:
    """Return the noise information of the pairs (+a, +b) and (-a, -b)."""
    return binary_capacity(a / sigma) + binary_capacity(b / sigma) - binary_capacity(math.hypot(a, b) / sigma)


def pairwise_bound(distances: np.ndarray, weights: np.ndarray) -> float:
    """Return sum_i w_i * -ln sum_j w_j exp(-d_ij), in bits (Kolchinsky and Tracey, arXiv 1706.02419)."""
    return -sum(w * log_mixture(-row, weights) for w, row in zip(weights, distances, strict=True)) / math.log(
        2
    )


def noise_envelope(x: np.ndarray, y: np.ndarray, weights: np.ndarray, sigma: float) -> tuple[float, float]:
    """Return a lower and an upper bound of the noise information from pairwise distances alone."""
    dx = ((x[:, None] - x[None]) ** 2).sum(axis=2) / (2 * sigma**2)
    dy = ((y[:, None] - y[None]) ** 2).sum(axis=2) / (2 * sigma**2)
    kl = [pairwise_bound(d, weights) for d in (dx, dy, dx + dy)]
    bd = [pairwise_bound(d / 4, weights) for d in (dx, dy, dx + dy)]
    return bd[0] + bd[1] - kl[2], kl[0] + kl[1] - bd[2]
