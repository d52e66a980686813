"""Held-out contrastive information: how many bits a critic can prove on rows it has not seen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.errors import SettingError
from tl_emergence.estimators.certified import CONFIDENCE, certified_nats
from tl_emergence.estimators.components import check_noisy_components, noise_like
from tl_emergence.estimators.critic import Critic, Task, contrastive_nats, train_critics
from tl_emergence.estimators.cross_fitting import widened_for_training
from tl_emergence.estimators.folds import (
    check_distinct,
    copied_pairs,
    distinct_rows,
    first_of_each,
    without_copies,
)
from tl_emergence.estimators.gaussian import collision
from tl_emergence.estimators.interface import (
    SATURATED_ABOVE,
    ChainEstimate,
    Estimate,
    StateChain,
    generator_for,
)
from tl_emergence.estimators.jackknife import blocks_of, jackknife_stderr
from tl_emergence.estimators.variates import (
    LINEAR_RIDGES,
    Ranks,
    Variates,
    linear_variates,
    normal_scores,
    prototype_variates,
    ranks,
)
from tl_emergence.estimators.vinfo import FOLDS, check_folds, means_without_blocks
from tl_emergence.estimators.workers import side_by_side

GROUP = 10
"""How many critics are trained as one batched network, at most. Values do not depend on it; seconds do:
`python -m benchmarks.nce_groups` measures them."""

_LEAST_ROWS_A_FOLD = 8
_STOPPING_SHARE = 10
_STOPPING_ROWS = 64
_UNRELATED = 0.3
_UNRELATED_OF_MANY = 1.5
_START_SCALES = torch.logspace(-1.6, 0.1, 18)


@dataclass(frozen=True, eq=False)
class _Part:
    """Which rows report, stop and train in one fold."""

    report: Int[Tensor, " report"]
    stop: Int[Tensor, " stopping"]
    train: Int[Tensor, " training"]
    generator: torch.Generator


@dataclass(frozen=True)
class NceEstimator:
    """A held-out contrastive lower bound, by a separable critic (InfoNCE, arXiv 1807.03748).

        I >= E mean_i [ f_ii - ln mean_j exp f_ij ],    f_ij = f(x_i) . g(y_j),

    in bits, j over all K rows of the report part, i included: no more than log2 K. Rows are cut into folds.
    Each reports once; a tenth of all rows (of few rows 64, or a quarter), drawn from the others, stops, and
    the rest trains, in steps:

    * coordinates become normal scores (ranks), their leading principal components where there are many;
    * canonical variates by ridge regression, training rows seen out of fold (`linear_variates`), and those
      of how near they are to k-means centres (`prototype_variates`);
    * the critic starts as that of Gaussian variates, of whichever of the two is better on the stopping rows,
      its scale chosen there; a network is trained on top, and kept where it is better there.

    One setting for all data. Beside the value of two matrices stands a certified limit: a lower confidence
    limit of 95 %, from the Nguyen-Wainwright-Jordan bound of the same critics (`certified_nats`), the error
    split over the folds, their mean. It holds for independent rows, whatever the critics are; the value
    itself is a bound in expectation. Emergence is a difference, which bounds nothing: there is no limit
    there. Noise of size sigma is added to x and y as a seeded draw where asked for.

    A critic whose value on the stopping rows is within chance reports exactly 0, error included; how many
    do not is in the settings of a pair (`folds_beyond_chance`). So 0.000 +- 0.000 says "nothing found", not
    "nothing there".

    Of copies of one pair of rows (`copied_pairs`; in a chain, of one prompt) one is measured, and its value
    counts as often as there are copies: no critic is asked about a pair that it was trained on. A row that
    recurs on one side only, such as that of one of 25 tokens, makes no copies, nor do pairs of which both
    sides recur with other partners: they are draws from a table. Where pairs repeat, no limit is certified
    (`certified_bits` is None, `repeated_rows` in the settings): they are no independent draws.

    The standard error is that of the delete-block jackknife over report rows, widened for critics that other
    rows would have given (`widened_for_training`). It is that of the value around its own mean over data
    sets: how far that mean, a lower bound, lies below the truth is not in it.

    Cost: for each fold, Cholesky factors of d dimensions, and up to 40 epochs over the training rows of
    networks of width 128; see benchmarks/README.md for seconds.
    """

    name: str = "nce"
    measures: str = "how many bits a critic can prove on rows that it has not seen"
    null_means: str = "0, up to its error"
    default_sigma: float = 0.0
    default_emergence_sigma: float = 0.5
    options: tuple[str, ...] = ("components", "folds")

    def check(self, sigmas: Sequence[float], options: Mapping[str, Any]) -> None:
        """Raise SettingError for a sigma below 0, fewer than one component, folds out of range."""
        check_noisy_components(sigmas, options.get("components"))
        if "folds" in options:
            check_folds(options["folds"])

    def pair(
        self,
        x: Float[Tensor, "sample d_x"],
        y: Float[Tensor, "sample d_y"],
        *,
        sigma: float,
        seed: int = 0,
        components: int | None = None,
        folds: int = FOLDS,
    ) -> Estimate:
        """Estimate I(x; y) from below; all coordinates unless fewer components are asked for."""
        settings = {
            "estimator": self.name,
            "sigma": sigma,
            "seed": seed,
            "components": components,
            "folds": folds,
        }
        n = len(x)
        repeated = n - len(distinct_rows(x, y).unique())
        settings["repeated_rows"] = repeated
        cap = math.log2(math.ceil(n / folds))
        if any(bool((m == m[:1]).all()) for m in (x, y)):
            return Estimate(0.0, 0.0, cap, False, "lower bound", settings=settings, certified_bits=0.0)
        _check_rows(n, folds)
        copy_of = copied_pairs(x, y)
        first = first_of_each(copy_of)
        check_distinct(len(first), n, _LEAST_ROWS_A_FOLD * folds)
        x, y = x[first], y[first]
        blocks = blocks_of(torch.arange(len(x)), seed).to(x.device)
        cap = math.log2(int(torch.bincount(blocks % folds).max()))
        # In the precision given: ranks are all that is read, and float32 may make rows equal.
        x, y = (m + sigma * noise_like(m, seed, "pair", side) for m, side in ((x, "x"), (y, "y")))
        nats = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        limits, steps, found_any = [], [], 0
        parts = list(_parts(blocks % folds, seed))
        of_x, of_y = ranks(x), ranks(y)
        error = (1 - CONFIDENCE) / folds

        def fold(part: _Part) -> tuple[Float[Tensor, " report"], float, Critic]:
            x, y = (normal_scores(of, part.train, components) for of in (of_x, of_y))
            (critic,) = train_critics([_task(x, y, part)])
            return _reported(critic, part), certified_nats(*_logits(critic, part), error), critic

        for part, (reported, limit, critic) in zip(parts, side_by_side(fold, parts, x.device), strict=True):
            nats[part.report] = reported
            limits.append(limit)
            steps.append(critic.steps)
            found_any += critic.beyond_chance
        bits, blocks = nats[copy_of] / math.log(2), blocks[copy_of]
        value = float(bits.mean())
        replicates = widened_for_training(means_without_blocks(bits, blocks), bits, blocks % folds)
        return Estimate(
            bits=value,
            stderr=float(jackknife_stderr(replicates)),
            cap_bits=cap,
            saturated=value > SATURATED_ABOVE * cap,
            direction="lower bound",
            pointwise=bits.float(),
            settings={
                **settings,
                "confidence": CONFIDENCE,
                "steps_kept": steps,
                "folds_beyond_chance": found_any,
            },
            certified_bits=None if repeated else sum(limits) / len(limits) / math.log(2),
        )

    def chain(
        self,
        chain: StateChain,
        *,
        sigmas: Sequence[float],
        seed: int = 0,
        components: int | None = 128,
        folds: int = FOLDS,
    ) -> ChainEstimate:
        """Estimate every scored pair of a chain at every sigma, for every series."""
        self.check(sigmas, {"components": components, "folds": folds})
        _check_rows(chain.rows.shape[1], folds)
        chain, copy_of = without_copies(chain, _LEAST_ROWS_A_FOLD * folds)
        n_series, n = chain.rows.shape
        blocks = blocks_of(torch.arange(n), seed)
        parts = list(_parts(blocks % folds, seed))
        cap = math.log2(int(torch.bincount(blocks % folds).max()))
        pointwise = torch.zeros(len(sigmas), len(chain.pairs), n_series, n, dtype=torch.float64)
        for t, rows in enumerate(chain.rows):
            for s, sigma in enumerate(sigmas):
                pointwise[s, :, t] = _series_nats(chain, t, rows, sigma, seed, components, parts)
        bits, blocks = pointwise[..., copy_of] / math.log(2), blocks[copy_of]
        replicates = widened_for_training(means_without_blocks(bits, blocks), bits, blocks % folds)
        counts = torch.arange(1, n_series + 1, dtype=torch.float64)[:, None]
        return ChainEstimate(
            bits=bits.mean(dim=3),
            stderr=jackknife_stderr(replicates),
            mean_stderr=jackknife_stderr(replicates.cumsum(dim=2) / counts),
            cap_bits=cap,
            direction="lower bound",
            pointwise=bits.float(),
            subsamples={},
            closest=torch.tensor([collision(x) for x in chain.states], dtype=torch.float64),
            replicates=replicates,
            settings={"estimator": self.name, "components": components, "folds": folds},
        )


def _check_rows(n: int, folds: int) -> None:
    """Raise SettingError for fewer than eight rows per fold."""
    if n < _LEAST_ROWS_A_FOLD * folds:
        raise SettingError(
            "too few rows for three disjoint parts",
            seen=f"{n} rows in {folds} folds",
            expected=f"at least {_LEAST_ROWS_A_FOLD * folds}",
            fix="Pass more rows, or fewer folds=.",
        )


def _parts(fold_of: Int[Tensor, " sample"], seed: int) -> Iterator[_Part]:
    """Yield the three parts of every fold in random order, whatever order the caller's rows have."""
    n, folds = len(fold_of), int(fold_of.max()) + 1
    for fold in range(folds):
        generator = generator_for(seed, "nce", fold)
        held = fold_of == fold
        others, report = (
            rows[torch.randperm(len(rows), generator=generator, device="cpu").to(rows.device)]
            for rows in ((~held).nonzero().flatten(), held.nonzero().flatten())
        )
        n_stop = max(n // _STOPPING_SHARE, min(_STOPPING_ROWS, n // 4))
        yield _Part(report, others[:n_stop], others[n_stop:], generator)


def _series_nats(
    chain: StateChain,
    t: int,
    rows: Int[Tensor, " sample"],
    sigma: float,
    seed: int,
    components: int | None,
    parts: Sequence[_Part],
) -> Float[Tensor, "pair sample"]:
    """Return the pointwise values of every scored pair; 0 where a state is constant."""
    device = chain.states[0].device
    rows = rows.to(device)
    noisy: dict[int, Ranks] = {}
    for i, number in enumerate(chain.numbers):
        x = chain.states[i][rows]
        if not bool((x == x[:1]).all()):
            noisy[i] = ranks(x + sigma * noise_like(x, seed, chain.name, t, number))
    varied = [k for k, (i, j) in enumerate(chain.pairs) if i in noisy and j in noisy]
    jobs = [(f, group) for f in range(len(parts)) for group in _even_groups(varied, GROUP)]

    def train(job: tuple[int, list[int]]) -> list[Float[Tensor, " report"]]:
        f, group = job
        part = replace(parts[f], **{k: getattr(parts[f], k).to(device) for k in ("report", "stop", "train")})
        pairs = [chain.pairs[k] for k in group]
        views = {
            i: normal_scores(noisy[i], part.train, components) for i in sorted({i for p in pairs for i in p})
        }
        tasks = []
        for i, j in pairs:
            draws = generator_for(seed, "nce", f, chain.name, t, chain.numbers[i])
            tasks.append(_task(views[i], views[j], replace(part, generator=draws)))
        return [_reported(critic, part).cpu() for critic in train_critics(tasks)]

    nats = torch.zeros(len(chain.pairs), len(rows), dtype=torch.float64)
    for (f, group), found in zip(jobs, side_by_side(train, jobs, device), strict=True):
        for k, reported in zip(group, found, strict=True):
            nats[k, parts[f].report] = reported
    return nats


def _even_groups(items: Sequence[int], most: int) -> list[list[int]]:
    """Cut a sequence into as few groups as there must be, of nearly equal size."""
    n_groups = math.ceil(len(items) / most)
    return [group.tolist() for group in np.array_split(np.array(items, dtype=int), n_groups)] if items else []


def _task(x: Float[Tensor, "row p"], y: Float[Tensor, "row q"], part: _Part) -> Task:
    """Prepare what a critic learns from: scaled variates, and the better start of two."""
    linear = linear_variates(x, y, part.train, LINEAR_RIDGES, part.generator)
    scale_x, scale_y = (
        _relevance(linear.correlations, m.shape[1], of.shape[1]) for m, of in ((x, linear.x), (y, linear.y))
    )
    near = prototype_variates(
        linear,
        _for_prototypes(scale_x, linear.correlations, x.shape[1]),
        _for_prototypes(scale_y, linear.correlations, y.shape[1]),
        part.train,
        part.generator,
    )
    start_x, start_y = max(
        (_scaled_start(variates, part.stop) for variates in (linear, near)), key=lambda found: found[0]
    )[1]
    return Task(
        input_x=_with_radius(linear.x * scale_x, part.train),
        input_y=_with_radius(linear.y * scale_y, part.train),
        start_x=start_x,
        start_y=start_y,
        train=part.train,
        stop=part.stop,
        generator=part.generator,
    )


def _relevance(r: Float[Tensor, " pair"], d: int, width: int) -> Float[Tensor, " variate"]:
    """Scale variates by their correlation; one with none keeps a share that falls with the dimension."""
    least = min(_UNRELATED, _UNRELATED_OF_MANY / math.sqrt(d))
    return least + (1 - least) * torch.nn.functional.pad(r, (0, width - len(r)))


def _for_prototypes(
    scale: Float[Tensor, " variate"], r: Float[Tensor, " pair"], d: int
) -> Float[Tensor, " variate"]:
    """Return the scale for clustering: those within chance are left out where they are a choice."""
    if d <= len(scale):
        return scale
    related = torch.nn.functional.pad(r, (0, len(scale) - len(r))) > 0
    return scale * related if bool(related.any()) else scale


def _with_radius(rows: Float[Tensor, "row k"], train: Int[Tensor, " training"]) -> Float[Tensor, "row k_1"]:
    """Add the standardised length of each row as a coordinate: heavy tails and spirals depend on it."""
    length = rows.norm(dim=1, keepdim=True)
    length = (length - length[train].mean()) / length[train].std().clamp_min(1e-9)
    size = rows[train].square().mean().sqrt()
    return torch.cat([rows, size * length], dim=1)


def _scaled_start(
    variates: Variates, stop: Int[Tensor, " stopping"]
) -> tuple[float, tuple[Float[Tensor, "row k"], Float[Tensor, "row k"]]]:
    """Return the critic of Gaussian variates at its best scale on the stopping rows, its value there first.

    ln p(y | x) / p(y) = [ r x y - r^2 (x^2 + y^2) / 2 ] / (1 - r^2) + constant for a pair of correlation r;
    the term of x alone cancels in the contrast.
    """
    r = variates.correlations
    k, weight = len(r), 1 - r.square()
    x = torch.cat([variates.x[:, :k] * (r / weight), torch.ones_like(variates.x[:, :1])], dim=1)
    own = -(variates.y[:, :k].square() @ (r.square() / weight))[:, None] / 2
    y = torch.cat([variates.y[:, :k], own], dim=1)
    logits = x[stop] @ y[stop].t()
    values = [float(contrastive_nats(float(scale) * logits).mean()) for scale in _START_SCALES]
    best = max(range(len(values)), key=values.__getitem__)
    return values[best], (float(_START_SCALES[best]) * x, y)


def _reported(critic: Critic, part: _Part) -> Float[Tensor, " report"]:
    return contrastive_nats(critic.x[part.report] @ critic.y[part.report].t()).double()


def _logits(critic: Critic, part: _Part) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits of stopping rows, of report rows, and of report x against stopping y."""
    (stop_x, stop_y), (report_x, report_y) = (
        (critic.x[rows], critic.y[rows]) for rows in (part.stop, part.report)
    )
    return stop_x @ stop_y.t(), report_x @ report_y.t(), report_x @ stop_y.t()
