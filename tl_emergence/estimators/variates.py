"""Canonical variates of two states, seen out of fold: what a contrastive critic starts from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

MOST_VARIATES = 32
INNER_FOLDS = 4
LINEAR_RIDGES = (0.1, 0.3, 1.0)
PROTOTYPE_RIDGES = (0.01, 0.1)
PROTOTYPES = 32
_LARGEST_CORRELATION = 0.98
_LLOYD_ITERATIONS = 15
_POWER_ITERATIONS = 6


@dataclass(frozen=True, eq=False)
class Variates:
    """Paired canonical variates of all rows.

    Training rows are seen by directions that were found without them, the other rows by those found on all
    of the training part: so the variates of training rows tell little more than those of new rows, and what
    is learned from them holds for both. A little more they tell: the rotation that takes one set of
    directions onto the other has seen all training rows.

    Attributes:
        x: The variates of x, of variance 1 on the training part.
        y: Those of y.
        correlations: The correlations of pairs of variates on the training part, out of fold; 0 where they
            are within chance.
    """

    x: Float[Tensor, "row m_x"]
    y: Float[Tensor, "row m_y"]
    correlations: Float[Tensor, " pair"]


@dataclass(frozen=True, eq=False)
class Ranks:
    """The rows of a matrix in the order of each of its coordinates: sorted once, for every training part.

    Attributes:
        order: Which row stands where, coordinate by coordinate.
        first: The place of the first row of the same value; None where no value occurs twice.
        last: That of the last row of the same value.
    """

    order: Int[Tensor, "d row"]
    first: Int[Tensor, "d row"] | None
    last: Int[Tensor, "d row"] | None


def ranks(x: Float[Tensor, "row d"]) -> Ranks:
    """Sort each coordinate of the rows."""
    values, order = x.t().contiguous().sort(dim=1)
    fresh = values[:, 1:] != values[:, :-1]
    if bool(fresh.all()):
        return Ranks(order, None, None)
    n = x.shape[0]
    places = torch.arange(n, device=x.device).expand_as(order)
    edge = torch.ones_like(fresh[:, :1])
    first = torch.where(torch.cat([edge, fresh], dim=1), places, 0).cummax(dim=1).values
    last = torch.where(torch.cat([fresh, edge], dim=1), places, n).flip(1).cummin(dim=1).values.flip(1)
    return Ranks(order, first, last)


def normal_scores(
    x: Ranks, train: Int[Tensor, " training"], most: int | None
) -> Float[Tensor, "row component"]:
    """Replace each coordinate by the normal quantile of its rank among the training rows, and centre it.

    A monotone map of each coordinate keeps the mutual information and takes heavy tails away. Where there
    are more coordinates than `most`, the leading principal components of the training rows are returned.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0], [9.0], [100.0]])
        >>> [round(score, 2) for score in normal_scores(ranks(x), torch.arange(3), None).flatten().tolist()]
        [-1.22, 0.0, 1.22]
    """
    n_rows, n = x.order.shape[1], len(train)
    known = torch.zeros(n_rows, dtype=torch.int32, device=train.device)
    known[train] = 1
    here = known[x.order]
    up_to = here.cumsum(dim=1, dtype=torch.int32)
    below = up_to - here
    if x.first is not None and x.last is not None:
        below, up_to = below.gather(1, x.first), up_to.gather(1, x.last)
    quantile = ((below + up_to + 1).float() / (2 * (n + 1))).clamp(0.5 / (n + 1), 1 - 0.5 / (n + 1))
    scores = torch.empty_like(quantile).scatter_(1, x.order, torch.special.ndtri(quantile)).t().contiguous()
    scores = scores - scores[train].mean(dim=0)
    scores = scores / scores[train].square().mean().sqrt().clamp_min(1e-12)
    if most is None or scores.shape[1] <= most:
        return scores
    directions = torch.linalg.eigh(_precise(scores[train].t() @ scores[train])).eigenvectors
    return scores @ directions.flip(1)[:, :most].to(scores)


def linear_variates(
    x: Float[Tensor, "row p"],
    y: Float[Tensor, "row q"],
    train: Int[Tensor, " training"],
    ridges: Sequence[float],
    generator: torch.Generator,
) -> Variates:
    """Return the leading canonical variates of two centred views, by ridge regression on the training rows.

    The ridge, in units of the mean variance, is that of the largest Gaussian information out of fold.
    """
    n = len(train)
    parts = [train[j::INNER_FOLDS] for j in range(INNER_FOLDS)]
    moments = [tuple(_precise(a[p].t() @ b[p]) for a, b in ((x, x), (y, y), (x, y))) for p in parts]
    s_xx, s_yy, s_xy = (torch.stack(part).sum(dim=0) for part in zip(*moments, strict=True))
    found = None
    for ridge in ridges:
        to_x, to_y = _directions(s_xx / n, s_yy / n, s_xy / n, ridge, generator)
        of_x, of_y = x @ to_x.to(x), y @ to_y.to(y)
        for part, own in zip(parts, moments, strict=True):
            left = n - len(part)
            without_x, without_y = _directions(
                (s_xx - own[0]) / left, (s_yy - own[1]) / left, (s_xy - own[2]) / left, ridge, generator
            )
            turn_x, turn_y = _alignment(without_x, without_y, to_x, to_y, s_xx, s_yy)
            of_x[part] = x[part] @ (without_x @ turn_x).to(x)
            of_y[part] = y[part] @ (without_y @ turn_y).to(y)
        of_x = of_x / of_x[train].std(dim=0).clamp_min(1e-9)
        of_y = of_y / of_y[train].std(dim=0).clamp_min(1e-9)
        pairs = min(of_x.shape[1], of_y.shape[1])
        r = (of_x[train, :pairs] * of_y[train, :pairs]).mean(dim=0)
        r = torch.where(r > 2 / math.sqrt(n), r, 0.0).clamp_max(_LARGEST_CORRELATION)
        information = float(-torch.log1p(-r.square()).sum())
        if found is None or information > found[0]:
            found = (information, Variates(of_x, of_y, r))
    assert found is not None
    return found[1]


def prototype_variates(
    variates: Variates,
    of_x: Float[Tensor, " m_x"],
    of_y: Float[Tensor, " m_y"],
    train: Int[Tensor, " training"],
    generator: torch.Generator,
) -> Variates:
    """Return the canonical variates of variates and of how near each row is to prototypes.

    The prototypes are the centres of k-means on the training rows, each side on its own, coordinates scaled
    as given: where rows gather around the words of a list, a centre knows its word without its noise.
    """
    features = []
    for rows, scale in ((variates.x, of_x), (variates.y, of_y)):
        scaled = rows * scale
        centres = _k_means(scaled[train], generator)
        gaps = torch.cdist(scaled, centres).square()
        spread = gaps[train].min(dim=1).values.mean().clamp_min(1e-12)
        near = math.sqrt(len(centres)) * torch.softmax(-gaps / spread, dim=1)
        both = torch.cat([rows, near], dim=1)
        features.append(both - both[train].mean(dim=0))
    return linear_variates(features[0], features[1], train, PROTOTYPE_RIDGES, generator)


def _precise(m: Float[Tensor, "p q"]) -> Float[Tensor, "p q"]:
    """Return a small matrix in float64: LAPACK's float32 SVD of a finite one may end in NaN.

    On the processor where the device has no float64.
    """
    return m.to("cpu" if m.device.type == "mps" else m.device, torch.float64)


def _directions(
    s_xx: Float[Tensor, "p p"],
    s_yy: Float[Tensor, "q q"],
    s_xy: Float[Tensor, "p q"],
    ridge: float,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "p m_x"], Float[Tensor, "q m_y"]]:
    """Return the leading canonical directions of x and of y; all of them where there are few."""
    white_x, white_y = _whitener(s_xx, ridge), _whitener(s_yy, ridge)
    between = white_x.t() @ s_xy @ white_y
    if min(between.shape) > 2 * MOST_VARIATES:
        left, right = _leading_singular_vectors(between, generator)
    else:
        left, _, right = torch.linalg.svd(between, full_matrices=True)
        right = right.t()
    return white_x @ left[:, :MOST_VARIATES], white_y @ right[:, :MOST_VARIATES]


def _whitener(s: Float[Tensor, "k k"], ridge: float) -> Float[Tensor, "k k"]:
    level = (ridge * s.diagonal().mean()).clamp_min(1e-9)
    factor = torch.linalg.cholesky(s + level * torch.eye(len(s), dtype=s.dtype, device=s.device))
    return torch.linalg.solve_triangular(
        factor, torch.eye(len(s), dtype=s.dtype, device=s.device), upper=False
    ).t()


def _leading_singular_vectors(
    m: Float[Tensor, "p q"], generator: torch.Generator
) -> tuple[Float[Tensor, "p k"], Float[Tensor, "q k"]]:
    """Return leading singular vectors by randomised subspace iteration (Halko, Martinsson, Tropp 2011)."""
    start = torch.randn(m.shape[1], MOST_VARIATES + 8, generator=generator, device="cpu").to(m)
    basis = torch.linalg.qr(m @ start).Q
    for _ in range(_POWER_ITERATIONS):
        basis = torch.linalg.qr(m @ torch.linalg.qr(m.t() @ basis).Q).Q
    other, small = torch.linalg.qr(m.t() @ basis)
    left, _, right = torch.linalg.svd(small.t())
    return basis @ left, other @ right.t()


def _alignment(
    from_x: Float[Tensor, "p m_x"],
    from_y: Float[Tensor, "q m_y"],
    to_x: Float[Tensor, "p m_x"],
    to_y: Float[Tensor, "q m_y"],
    s_xx: Float[Tensor, "p p"],
    s_yy: Float[Tensor, "q q"],
) -> tuple[Float[Tensor, "m_x m_x"], Float[Tensor, "m_y m_y"]]:
    """Return the rotations that take one set of directions onto another: Procrustes, one for both sides."""
    overlap_x, overlap_y = from_x.t() @ s_xx @ to_x, from_y.t() @ s_yy @ to_y
    if overlap_x.shape == overlap_y.shape:
        turn = _nearest_rotation(overlap_x + overlap_y)
        return turn, turn
    return _nearest_rotation(overlap_x), _nearest_rotation(overlap_y)


def _nearest_rotation(m: Float[Tensor, "k k"]) -> Float[Tensor, "k k"]:
    left, _, right = torch.linalg.svd(m)
    return left @ right


def _k_means(rows: Float[Tensor, "row k"], generator: torch.Generator) -> Float[Tensor, "centre k"]:
    """Return the centres of k-means, started by k-means++; fewer where there are fewer distinct rows."""
    first = int(torch.randint(len(rows), (1,), generator=generator, device="cpu"))
    centres = rows[first : first + 1]
    for _ in range(PROTOTYPES - 1):
        gaps = torch.cdist(rows, centres).min(dim=1).values.square().double().cpu()
        if float(gaps.sum()) <= 1e-9 * len(rows):
            break
        ahead = gaps.cumsum(dim=0)
        drawn = torch.rand(1, generator=generator, device="cpu", dtype=torch.float64) * ahead[-1]
        pick = int(torch.searchsorted(ahead, drawn).clamp_max(len(rows) - 1))
        centres = torch.cat([centres, rows[pick : pick + 1]])
    for _ in range(_LLOYD_ITERATIONS):
        nearest = torch.cdist(rows, centres).argmin(dim=1)
        count = torch.bincount(nearest, minlength=len(centres))[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        centres = torch.where(count > 0, sums / count.clamp_min(1), centres)
    return centres
