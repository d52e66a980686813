"""Usable information about labels: how many bits of a token or class a linear probe reads, held out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from tl_emergence.checks import integer, number, seed_number
from tl_emergence.errors import SettingError, StateError
from tl_emergence.estimators.components import noise_like, principal_components
from tl_emergence.estimators.folds import copied_pairs, distinct_rows, first_of_each
from tl_emergence.estimators.interface import Estimate
from tl_emergence.estimators.jackknife import BLOCKS, blocks_of, jackknife_stderr
from tl_emergence.estimators.mutual_information import checked_rows
from tl_emergence.estimators.vinfo import FOLDS, check_folds, means_without_blocks
from tl_emergence.tensors import check_plain
from tl_emergence.torch_state import with_torch_defaults

# Penalties on half the squared weights, strongest first: the next starts where the last one ended.
_PENALTIES = tuple(10.0**k for k in range(0, -7, -1))
# Of the ridge regression that counts components, in units of the variance of a standardised one.
_STRENGTHS = torch.logspace(-4, 3, 15, dtype=torch.float64)
_FEWEST_COMPONENTS = 4
_ENOUGH_ROWS = 100
# Of the optimiser: where penalties are compared, each from the weights of the one before, few will do.
_STEPS, _STEPS_OF_CHOICE = 200, 30
_NULL_SPREADS = 2.0
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@with_torch_defaults
def usable_information(
    x: Float[Tensor, "sample d"],
    labels: Int[Tensor, " sample"],
    *,
    sigma: float = 0.0,
    seed: int = 0,
    components: int | None = None,
    folds: int = FOLDS,
) -> Estimate:
    """Measure how many bits of a label a softmax probe gets from x, on rows it has not seen.

    The predictive V-information (Xu et al., arXiv 2002.10689, definition 2) of the family V of multinomial
    logistic regressions, in bits:

        I_V(x -> label) = mean_i [ log2 q(label_i | x_i) - log2 q_0(label_i) ],

    with q_0 the label frequencies of the training rows, half a count added to each. Every row is held out
    once. The probe starts from q_0 and reads leading principal components, standardised. Everything is chosen
    on training rows:

    * how many components, 4, 8, 16, ... or all: the number of the least generalised cross-validation (Golub,
      Heath and Wahba 1979) of ridge regression on the labels. With all of them standardised, few rows in many
      dimensions are equally far apart, and nothing is read;
    * the penalty that pulls the weights to 0, by the bits gained on a quarter of the training rows by probes
      of the other three, number of components included; where they are few, on every quarter in turn. Where
      no penalty gains more than 2 standard errors there, the probe is q_0 and the gain exactly 0.

    Folds are drawn over the distinct rows of x: a copy of a row that is held out is never trained on, and of
    copies with one label one is measured, its value counting as often as there are copies. So the probe is
    asked about rows that are new to it, and a label of one distinct row only cannot be predicted.

    It is no more than I(x; label), in expectation, but for what the estimated frequencies cost the baseline:
    about (K - 1) / 2N ln 2 bits for K labels. That a probe reads a label does not say that the model uses it.
    The standard error is that of the delete-block jackknife over the held-out rows, probes held fixed.

    Args:
        x: One state a sample, as it is.
        labels: The token or class of each sample, one that recurs: whole numbers, of any value.
        sigma: Size of Gaussian noise added to the components of x as a seeded draw.
        seed: Seed of the noise, and of the folds.
        components: How many leading components of x the probe reads at most; by default it may read all of
            them, since a label may stand in small ones.
        folds: How many parts the rows are cut into, 2 to 20.

    Returns:
        The estimate with its pointwise values, the share of labels that the probe guesses right
        (`settings["accuracy"]`), the entropy of the labels (`settings["label_bits"]`), how many components
        the probe of each fold reads (`settings["components_read"]`, 0 where it reads nothing), and how many
        rows are copies of others (`settings["repeated_rows"]`).

    Raises:
        StateError: x is no finite float matrix of 20 distinct rows or more, labels are not one whole number
            per row, or most labels are those of one distinct row: what does not recur cannot be predicted.
        SettingError: Anything out of range.

    Cost: for each fold some hundred passes over x for each of up to 7 penalties, and for each number of
    components k an eigendecomposition of min(N, k) dimensions.

    Example:
        >>> import torch
        >>> labels = torch.arange(80) % 2
        >>> x = labels[:, None] + 0.1 * torch.randn(80, 1, generator=torch.Generator().manual_seed(0))
        >>> usable_information(x, labels).bits > 0.95
        True
    """
    sigma, seed, folds = number("sigma", sigma), seed_number(seed), check_folds(folds)
    if not (sigma >= 0 and math.isfinite(sigma)):
        raise SettingError(
            "sigma out of range", seen=sigma, expected="a finite number from 0 up", fix="Pass 0 for none."
        )
    components = None if components is None else integer("components", components, least=1)
    x = checked_rows("x", x)
    groups = distinct_rows(x).cpu()
    names, classes = _checked_labels(labels, groups)
    if len(x) < BLOCKS:
        raise StateError(
            "x has too few rows", seen=len(x), expected=f"at least {BLOCKS}", fix="Pass more samples."
        )
    distinct = int(groups.max()) + 1
    part = principal_components(x, torch.full((len(x),), 1 / len(x), dtype=torch.float64), components)
    rows = part.rows.cpu() + sigma * noise_like(part.rows.cpu(), seed, "labels")
    shares = torch.bincount(classes).double() / len(classes)
    settings = {
        "estimator": "vinfo",
        "family": "softmax",
        "sigma": sigma,
        "seed": seed,
        "folds": folds,
        "components": rows.shape[1],
        "rank": part.rank,
        "repeated_rows": len(x) - distinct,
        "variance_share": part.share,
        "labels": len(names),
        "label_bits": -float(torch.special.xlogy(shares, shares).sum()) / math.log(2),
    }
    if len(names) == 1 or part.rank == 0:
        settings |= {"components_read": [0] * folds, "accuracy": float(shares.max())}
        return Estimate(0.0, 0.0, None, False, "none", settings=settings)
    blocks = blocks_of(groups, seed, BLOCKS)
    # Of copies with one label one is measured: more of them are no more rows to learn from.
    copy_of = copied_pairs(groups[:, None], classes[:, None])
    first = first_of_each(copy_of)
    pointwise, right, read = _held_out(rows[first], classes[first], blocks[first], folds)
    pointwise, right, settings["components_read"] = pointwise[copy_of], right[copy_of], read
    stderr = float(jackknife_stderr(means_without_blocks(pointwise, blocks)))
    settings["accuracy"] = float(right.double().mean())
    return Estimate(
        float(pointwise.mean()), stderr, None, False, "none", pointwise=pointwise.float(), settings=settings
    )


def _checked_labels(
    labels: Tensor, groups: Int[Tensor, " sample"]
) -> tuple[Int[Tensor, " label"], Int[Tensor, " sample"]]:
    """Return the distinct labels, and the number of each sample's among them."""
    n = len(groups)
    if not isinstance(labels, Tensor) or labels.dtype not in _INTEGERS:
        raise StateError(
            "labels are not whole numbers",
            seen=str(labels.dtype) if isinstance(labels, Tensor) else type(labels).__name__,
            expected="an integer tensor [sample]",
            fix="Number the classes: torch.as_tensor(labels).unique(return_inverse=True)[1].",
        )
    check_plain("labels", labels)
    if labels.shape != (n,):
        raise StateError(
            "x and labels are not paired",
            seen=f"{n} rows of x and labels of shape {tuple(labels.shape)}",
            expected="one label for every row",
            fix="Pass the label of each sample, in the same order.",
        )
    names, classes = labels.cpu().unique(return_inverse=True)
    rows_of_label = torch.bincount(torch.stack([classes, groups], dim=1).unique(dim=0)[:, 0])
    single = int((rows_of_label[classes] == 1).sum())
    varied = len(names) > 1 and len(groups.unique()) > 1
    if varied and 2 * single > n:
        raise StateError(
            "labels that do not recur",
            seen=f"{single} of {n} samples whose label is that of one distinct row only",
            expected="at most half: a label must be seen on other rows to be predicted",
            fix="Choose labels that several distinct rows share, such as a token of a longer prompt. A "
            "finite set of rows has an exact value: mutual_information(..., estimator='exact').",
        )
    return names, classes


def _held_out(
    x: Float[Tensor, "sample k"], classes: Int[Tensor, " sample"], blocks: Int[Tensor, " sample"], folds: int
) -> tuple[Float[Tensor, " sample"], Bool[Tensor, " sample"], list[int]]:
    """Return, by probes that have not seen the row, the bits gained on each and where the guess is right.

    And how many components the probe of each fold reads.
    """
    count = int(classes.max()) + 1
    bits, right = torch.zeros(len(x), dtype=torch.float64), torch.zeros(len(x), dtype=torch.bool)
    read = []
    for fold in range(folds):
        held = blocks % folds == fold
        penalty = _penalty(x[~held], classes[~held], count, blocks[~held])
        k = _components_read(x[~held], classes[~held], count)
        probe = _Probe.before(x[~held, :k], classes[~held], count)
        if penalty is not None:
            probe = probe.trained(x[~held, :k], classes[~held], penalty)
            bits[held] = probe.gain(x[held, :k], classes[held])
        right[held] = probe.log_probabilities(x[held, :k]).argmax(dim=1) == classes[held]
        read.append(0 if penalty is None else k)
    return bits, right, read


def _components_read(x: Float[Tensor, "row k"], classes: Int[Tensor, " row"], count: int) -> int:
    """Return the number of leading components whose ridge regression on the labels predicts best.

    The score is generalised cross-validation, M |y - H y|^2 / (M - tr H)^2 for M rows, at the best of some
    strengths; components are standardised and labels are one column per class, both centred.
    """
    m, most = x.shape
    widths = [_FEWEST_COMPONENTS * 2**i for i in range(most) if _FEWEST_COMPONENTS * 2**i < most] + [most]
    y = one_hot(classes, count).double()
    y = y - y.mean(dim=0)
    scale = x.std(dim=0)
    x = (x - x.mean(dim=0)) / torch.where(scale > 0, scale, 1.0)
    scores = [_cross_validation(x[:, :k], y, m) for k in widths]
    return widths[min(range(len(widths)), key=scores.__getitem__)]


def _cross_validation(x: Float[Tensor, "row k"], y: Float[Tensor, "row label"], m: int) -> float:
    """Return the least generalised cross-validation error of ridge regression over the strengths."""
    if x.shape[1] < m:
        variances, directions = torch.linalg.eigh(x.t() @ x)
        explained = (directions.t() @ (x.t() @ y)).square().sum(dim=1) / variances.clamp_min(1e-12)
    else:
        variances, left = torch.linalg.eigh(x @ x.t())
        explained = (left.t() @ y).square().sum(dim=1)
    used = variances > variances[-1] * m * torch.finfo(torch.float64).eps
    variances, explained = variances[used], explained[used]
    shares = variances / (variances + m * _STRENGTHS[:, None])
    left_over = y.square().sum() - (2 * shares - shares.square()) @ explained
    freedom = 1 - (1 + shares.sum(dim=1)) / m
    return float((left_over / freedom.square()).min())


def _penalty(
    x: Float[Tensor, "row k"], classes: Int[Tensor, " row"], count: int, blocks: Int[Tensor, " row"]
) -> float | None:
    """Return the penalty whose probes gain most on rows that they have not seen; None if none gains.

    These rows are a quarter of the training rows, or as many quarters as it takes to have enough of them.
    """
    names = blocks.unique()
    quarters = [torch.isin(blocks, names[k::4]) for k in range(min(4, len(names)))]
    quarters = quarters[: math.ceil(_ENOUGH_ROWS / max(1, int(quarters[0].sum())))]
    parts = []
    for held in quarters:
        k = _components_read(x[~held], classes[~held], count)
        parts.append(((x[~held, :k], classes[~held]), (x[held, :k], classes[held])))
    probes = [_Probe.before(*train, count=count) for train, _ in parts]
    best, chosen = -math.inf, None
    for penalty in _PENALTIES:
        probes = [
            probe.trained(*train, penalty=penalty, steps=_STEPS_OF_CHOICE)
            for probe, (train, _) in zip(probes, parts, strict=True)
        ]
        gains = torch.cat([probe.gain(*test) for probe, (_, test) in zip(probes, parts, strict=True)])
        if float(gains.mean()) <= best:
            break  # weaker penalties fit the rows that they see, and no others
        best = float(gains.mean())
        if best > _NULL_SPREADS * float(gains.std()) / math.sqrt(len(gains)):
            chosen = penalty
    return chosen


@dataclass(frozen=True, eq=False)
class _Probe:
    """q(label | x) proportional to q_0(label) exp(w_label . x), x standardised and with a constant."""

    mean: Float[Tensor, " k"]
    scale: Float[Tensor, " k"]
    log_frequencies: Float[Tensor, " label"]
    weights: Float[Tensor, "input label"]

    @classmethod
    def before(cls, x: Float[Tensor, "row k"], classes: Int[Tensor, " row"], count: int) -> _Probe:
        """Return the baseline: label frequencies, no weights."""
        scale = x.std(dim=0)
        counts = torch.bincount(classes, minlength=count).double() + 0.5
        return cls(
            x.mean(dim=0),
            torch.where(scale > 0, scale, 1.0),
            (counts / counts.sum()).log(),
            x.new_zeros(x.shape[1] + 1, count),
        )

    def trained(
        self, x: Float[Tensor, "row k"], classes: Int[Tensor, " row"], penalty: float, steps: int = _STEPS
    ) -> _Probe:
        """Return the probe of least mean cross-entropy in nats + penalty / 2 |w|^2, from these weights on."""
        inputs, target = self._inputs(x), one_hot(classes, len(self.log_frequencies)).double()
        weights = self.weights.clone()
        optimiser = torch.optim.LBFGS(
            [weights],
            max_iter=steps,
            tolerance_grad=1e-5,
            tolerance_change=1e-9,
            line_search_fn="strong_wolfe",
        )

        def loss() -> float:
            log_q = (self.log_frequencies + inputs @ weights).log_softmax(dim=1)
            # By its formula: gradients are not recorded in the caller's no_grad or inference mode.
            weights.grad = inputs.t() @ (log_q.exp() - target) / len(inputs) + penalty * weights
            return float(-(target * log_q).sum() / len(inputs) + penalty / 2 * weights.square().sum())

        optimiser.step(loss)
        return replace(self, weights=weights)

    def gain(self, x: Float[Tensor, "row k"], classes: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        """Return log2 q(label | x) - log2 q_0(label), row by row."""
        own = self.log_probabilities(x).gather(1, classes[:, None])[:, 0]
        return (own - self.log_frequencies[classes]) / math.log(2)

    def log_probabilities(self, x: Float[Tensor, "row k"]) -> Float[Tensor, "row label"]:
        """Return ln q of every label."""
        return (self.log_frequencies + self._inputs(x) @ self.weights).log_softmax(dim=1)

    def _inputs(self, x: Float[Tensor, "row k"]) -> Float[Tensor, "row input"]:
        return torch.nn.functional.pad((x - self.mean) / self.scale, (0, 1), value=1.0)
