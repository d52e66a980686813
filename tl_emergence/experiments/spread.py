"""The spread of emergence over prompts beside errors: tables, correlations, and what noise leaves of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from tl_emergence.experiments.errors_of_lists import ERRORS, onset


def _arrays(
    space: str, kept: Mapping[int, Mapping[str, Any]]
) -> Iterator[tuple[int, Float[np.ndarray, "shot prompt"], dict[str, Float[np.ndarray, "shot prompt"]]]]:
    for seed, found in kept.items():
        errors = {name: np.array(found["errors"][name]) for name in ERRORS}
        yield seed, np.array(found["emergence"][space]), errors


def spread_rows(
    model: str, space: str, kept: Mapping[int, Mapping[str, Any]], exact: Mapping[int, Sequence[float]]
) -> list[dict[str, Any]]:
    """Return one row a seed and shot: mean emergence, its spread, the exact spread, the mean errors."""
    rows = []
    for seed, emergence, errors in _arrays(space, kept):
        for j in range(len(emergence)):
            rows.append(
                {
                    "model": model, "space": space, "seed": seed, "shot": j + 1,
                    "emergence": float(emergence[j].mean()),
                    "sd over prompts": float(emergence[j].std(ddof=1)), "exact sd": exact[seed][j],
                    "sd over blocks": float(kept[seed]["over layers"][space][j]),
                    **{name: float(values[j].mean()) for name, values in errors.items()},
                }
            )  # fmt: skip
    return rows


def onset_rows(
    model: str, space: str, kept: Mapping[int, Mapping[str, Any]], exact: Mapping[int, Sequence[float]]
) -> list[dict[str, Any]]:
    """Return one row a seed and error: where the spread peaks, where the error starts to rise, is largest."""
    rows = []
    for seed, emergence, errors in _arrays(space, kept):
        spread = emergence.std(axis=1, ddof=1)
        peak = int(spread.argmax()) + 1
        for name, values in errors.items():
            starts = onset(values)
            rows.append(
                {
                    "model": model, "space": space, "seed": seed, "error": name, "peak of spread": peak,
                    "exact peak": int(np.argmax(exact[seed])) + 1, "sd at peak": float(spread[peak - 1]),
                    "sd at last": float(spread[-1]),
                    "starts": float("nan") if starts is None else float(starts),
                    "largest": int(values.mean(axis=1).argmax()) + 1,
                }
            )  # fmt: skip
    return rows


def correlation_rows(
    model: str, space: str, kept: Mapping[int, Mapping[str, Any]], resamples: int
) -> list[dict[str, Any]]:
    """Return Spearman's correlations of spread and errors, over shots and over prompts, with intervals."""
    generator = np.random.default_rng(0)
    rows = []
    drawn = {
        seed: generator.integers(0, emergence.shape[1], (resamples, emergence.shape[1]))
        for seed, emergence, _ in _arrays(space, kept)
    }
    for error in ERRORS:
        for over, statistic in (("shots", _over_shots), ("prompts", _over_prompts)):
            estimate, replicates, each = [], [], []
            for seed, emergence, errors in _arrays(space, kept):
                pair = emergence, errors[error]
                each.append(statistic(*pair))
                estimate.append(each[-1])
                count = resamples if over == "shots" else resamples // 4
                replicates.append([statistic(*(x[:, draw] for x in pair)) for draw in drawn[seed][:count]])
            value = float(np.mean(estimate))
            means = np.mean(replicates, axis=0)
            low, high = (
                np.quantile(means[~np.isnan(means)], [0.025, 0.975]) if not np.isnan(value) else (np.nan,) * 2
            )
            rows.append(
                {
                    "model": model, "space": space, "over": over, "error": error, "spearman": value,
                    "low": float(low), "high": float(high),
                    "lowest seed": float(np.min(each)), "highest seed": float(np.max(each)),
                }
            )  # fmt: skip
    return rows


def noise_rows(
    model: str, emergence: Mapping[str, Sequence[Any]], other: Mapping[str, Sequence[Any]]
) -> list[dict[str, Any]]:
    """Return one row a space and shot: what the estimator's own noise makes of the spread.

    Args:
        model: Its name.
        emergence: Pointwise emergence [shot][prompt] by space.
        other: The same, measured again with other noise.

    Example:
        >>> first, second = [[0.0, 1.0, 5.0, 2.0]], [[0.5, 0.5, 5.0, 2.0]]
        >>> [row] = noise_rows("toy", {"read": first}, {"read": second})
        >>> round(row["noise sd"], 2), round(row["agreement"], 2)
        (0.29, 0.95)
    """
    rows = []
    for space, values in emergence.items():
        for j, pair in enumerate(zip(values, other[space], strict=True)):
            one, two = (np.array(x) for x in pair)
            rows.append(
                {
                    "model": model, "space": space, "shot": j + 1, "sd over prompts": float(one.std(ddof=1)),
                    "noise sd": float((one - two).std(ddof=1) / 2**0.5),
                    "agreement": _spearman(abs(one - one.mean()), abs(two - two.mean())),
                }
            )  # fmt: skip
    return rows


def _over_shots(
    emergence: Float[np.ndarray, "shot prompt"], error: Float[np.ndarray, "shot prompt"]
) -> float:
    return _spearman(emergence.std(axis=1), error.mean(axis=1))


def _over_prompts(
    emergence: Float[np.ndarray, "shot prompt"], error: Float[np.ndarray, "shot prompt"]
) -> float:
    far = np.abs(emergence - emergence.mean(axis=1, keepdims=True))
    found = [_spearman(a, b) for a, b in zip(far, error, strict=True)]
    known = [value for value in found if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Return Spearman's correlation; NaN where one of the two does not vary."""
    from scipy.stats import rankdata

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])
