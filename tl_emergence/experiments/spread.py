"""The spread of emergence over prompts beside errors: tables, correlations, and what noise leaves of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.experiments.errors_of_lists import ERRORS, onset
from tl_emergence.prompts.prefixes import prefix_ids

if TYPE_CHECKING:
    from tl_emergence.prompts import PromptSet


def exact_pointwise(prompts: PromptSet) -> Float[Tensor, "pos prompt"]:
    """Return exact emergence prompt by prompt: what differs between prompts without any model.

    log2(N / prompts of the same prefix), less the mean over its tokens of log2(N / prompts with that token
    there). Its mean over prompts is exact emergence.

    Example:
        >>> import torch
        >>> from tl_emergence.prompts import from_tokens
        >>> exact_pointwise(from_tokens(torch.tensor([[5, 1], [5, 2]]))).tolist()
        [[0.0, 0.0], [0.5, 0.5]]
    """
    n = len(prompts)

    def information(ids: Int[Tensor, " prompt"]) -> Float[Tensor, " prompt"]:
        _, inverse, counts = ids.unique(return_inverse=True, return_counts=True)
        return (n / counts.double()).log2()[inverse]

    macro = torch.stack([information(ids) for ids in prefix_ids(prompts.tokens)])
    alone = torch.stack([information(column) for column in prompts.tokens.T])
    return macro - alone.cumsum(dim=0) / torch.arange(1, len(alone) + 1)[:, None]


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
        over_blocks = _sd_over_blocks(_blocks(kept[seed], space))
        shuffled = kept[seed]["shuffled"].get(space)
        for j in range(len(emergence)):
            rows.append(
                {
                    "model": model, "space": space, "seed": seed, "shot": j + 1,
                    "emergence": float(emergence[j].mean()),
                    "sd over prompts": float(emergence[j].std(ddof=1)), "exact sd": exact[seed][j],
                    "shuffled sd": math.nan if shuffled is None else float(np.std(shuffled[j], ddof=1)),
                    "sd over blocks": float(over_blocks[j]),
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
    means = {seed: _means(_blocks(found, space), drawn[seed]) for seed, found in kept.items()}
    for error in ERRORS:
        about = {"model": model, "space": space, "error": error}
        for over, statistic in (("shots", _over_shots), ("prompts", _over_prompts)):
            count = resamples if over == "shots" else resamples // 4
            each, replicates = [], []
            for seed, emergence, errors in _arrays(space, kept):
                pair = emergence, errors[error]
                each.append(statistic(*pair))
                replicates.append([statistic(*(x[:, draw] for x in pair)) for draw in drawn[seed][:count]])
            rows.append({**about, "over": over, "spread": "prompts", **_interval(each, replicates)})
        mean_errors = {
            seed: np.stack(
                [errors[error].mean(axis=1), *(errors[error][:, d].mean(axis=1) for d in drawn[seed])]
            )
            for seed, _, errors in _arrays(space, kept)
        }
        found = {
            seed: [_spearman(a.std(axis=1), b) for a, b in zip(means[seed], mean_errors[seed], strict=True)]
            for seed in kept
        }
        each, replicates = [of[0] for of in found.values()], [of[1:] for of in found.values()]
        rows.append({**about, "over": "shots", "spread": "blocks", **_interval(each, replicates)})
        if len(kept) > 1:
            by_seed = np.stack([means[seed].mean(axis=2) for seed in kept]).std(axis=0)
            of_error = np.mean([mean_errors[seed] for seed in kept], axis=0)
            one = [_spearman(a, b) for a, b in zip(by_seed, of_error, strict=True)]
            rows.append({**about, "over": "shots", "spread": "seeds", **_interval([one[0]], [one[1:]])})
    return rows


def _interval(each: Sequence[float], replicates: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return the mean over seeds in which both sides vary, its interval, and the lowest and highest seed."""
    known = [k for k, value in enumerate(each) if not np.isnan(value)]
    if not known:
        return dict.fromkeys(("spearman", "low", "high", "lowest seed", "highest seed"), math.nan)
    means = np.mean([replicates[k] for k in known], axis=0)
    low, high = np.quantile(means[~np.isnan(means)], [0.025, 0.975])
    values = [each[k] for k in known]
    return {
        "spearman": float(np.mean(values)), "low": float(low), "high": float(high),
        "lowest seed": float(np.min(values)), "highest seed": float(np.max(values)),
    }  # fmt: skip


def _blocks(found: Mapping[str, Any], space: str) -> Float[np.ndarray, "shot block prompt"]:
    return np.array(found["blocks"][space])


def _sd_over_blocks(values: Float[np.ndarray, "shot block prompt"]) -> Float[np.ndarray, " shot"]:
    return values.mean(axis=2).std(axis=1, ddof=min(1, values.shape[1] - 1))


def _means(
    values: Float[np.ndarray, "shot block prompt"], drawn: Int[np.ndarray, "resample prompt"]
) -> Float[np.ndarray, "draw shot block"]:
    """Return means over prompts: first over all, then over each resample."""
    n = values.shape[2]
    weights = np.stack([np.bincount(draw, minlength=n) for draw in drawn]) / n
    every = np.concatenate([np.full((1, n), 1 / n), weights])
    return np.einsum("sbp,dp->dsb", values, every)


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
