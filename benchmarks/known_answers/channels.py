"""Capacities of channels, by quadrature and in closed form: the truths that the cases are made of."""

from __future__ import annotations

import math

import numpy as np
from scipy import integrate, optimize
from scipy.special import entr


def symmetric_channel_bits(k: int, flip: float) -> float:
    """Return the information through a k-ary symmetric channel with uniform input, in bits.

    A label becomes, with probability `flip`, one of the k - 1 others, each as likely:

        I = log2 k - H(flip) - flip log2(k - 1)
    """
    entropy = float(entr([flip, 1 - flip]).sum()) / math.log(2)
    return math.log2(k) - entropy - flip * math.log2(k - 1)


def flip_for_bits(k: int, bits: float) -> float:
    """Return the flip rate below that of independence at which a k-ary symmetric channel passes `bits`."""
    root = optimize.brentq(lambda flip: symmetric_channel_bits(k, flip) - bits, 0.0, 1 - 1 / k, xtol=1e-14)
    return float(root)  # type: ignore[arg-type]


def amplitude_capacity(levels: int, spacing: float) -> float:
    """Return the information in bits that equally likely, equally spaced levels pass through unit noise.

    I(K spacing + Z; K), K uniform on 0..levels-1, Z standard normal: h(K spacing + Z) - h(Z), by quadrature.
    With two levels this is the binary-input Gaussian channel of amplitude spacing / 2.
    """
    if spacing == 0:
        return 0.0
    centres = spacing * (np.arange(levels) - (levels - 1) / 2)

    def surprise(z: float, centre: float) -> float:
        # ln p(u | own level) - ln p(u), at u = centre + z
        ratios = np.logaddexp.reduce((z * z - (centre + z - centres) ** 2) / 2)
        return math.exp(-z * z / 2) / math.sqrt(2 * math.pi) * (math.log(levels) - ratios)

    nats = [integrate.quad(surprise, -12, 12, args=(c,), epsabs=1e-11, limit=500)[0] for c in centres]
    return float(np.mean(nats)) / math.log(2)


def shared_amplitude_bits(levels: int, in_x: float, in_y: float) -> float:
    """Return I(K a + Z; K b + Z') for unit noise: levels spaced by a in x and by b in y.

    A rotation of the plane of both leaves one axis on which the levels are spaced by sqrt(a^2 + b^2), and
    pure noise on the other, so that I = C(a) + C(b) - C(sqrt(a^2 + b^2)).
    """
    capacities = [amplitude_capacity(levels, spacing) for spacing in (in_x, in_y, math.hypot(in_x, in_y))]
    return capacities[0] + capacities[1] - capacities[2]
