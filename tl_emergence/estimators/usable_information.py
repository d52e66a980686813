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
from tl_emergence.estimators.interface import Estimate
from tl_emergence.estimators.jackknife import BLOCKS, blocks_of, jackknife_stderr
from tl_emergence.estimators.mutual_information import checked_rows
from tl_emergence.estimators.vinfo import FOLDS, check_folds, means_without_blocks

# Penalties on half the squared weights, strongest first: the next starts where the last one ended.
_PENALTIES = tuple(10.0**k for k in range(0, -7, -1))
_NULL_SPREADS = 2.0
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


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
    once. The probe starts from q_0; its weights on the leading components, standardised, are pulled to 0 by a
    penalty chosen on a quarter of the training rows. Where no penalty gains more than 2 standard errors
    there, the probe is q_0 and the gain exactly 0.

    It is no more than I(x; label), in expectation, but for what the estimated frequencies cost the baseline:
    about (K - 1) / 2N ln 2 bits for K labels. That a probe reads a label does not say that the model uses it.
    The standard error is that of the delete-block jackknife over the held-out rows, probes held fixed.

    Args:
        x: One state a sample, as it is.
        labels: The token or class of each sample, one that recurs: whole numbers, of any value.
        sigma: Size of Gaussian noise added to the components of x as a seeded draw.
        seed: Seed of the noise, and of the folds.
        components: How many leading components of x the probe reads; all by default, since what it reads may
            stand in small ones.
        folds: How many parts the rows are cut into, 2 to 20.

    Returns:
        The estimate with its pointwise values, the share of labels that the probe guesses right
        (`settings["accuracy"]`) and the entropy of the labels (`settings["label_bits"]`).

    Raises:
        StateError: x is no finite float matrix of 20 rows or more, labels are not one whole number a row, or
            most of them occur once: what does not recur cannot be predicted.
        SettingError: Anything out of range.

    Cost: for each fold some hundred passes over x for each of up to 7 penalties.

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
    names, classes = _checked_labels(labels, len(x))
    if len(x) < BLOCKS:
        raise StateError(
            "x has too few rows", seen=len(x), expected=f"at least {BLOCKS}", fix="Pass more samples."
        )
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
        "variance_share": part.share,
        "labels": len(names),
        "label_bits": -float(torch.special.xlogy(shares, shares).sum()) / math.log(2),
    }
    if len(names) == 1 or part.rank == 0:
        return Estimate(0.0, 0.0, None, False, "none", settings={**settings, "accuracy": float(shares.max())})
    blocks = blocks_of(len(x), seed)
    pointwise, right = _held_out(rows, classes, blocks, folds)
    stderr = float(jackknife_stderr(means_without_blocks(pointwise, blocks)))
    settings["accuracy"] = float(right.double().mean())
    return Estimate(
        float(pointwise.mean()), stderr, None, False, "none", pointwise=pointwise.float(), settings=settings
    )


def _checked_labels(labels: Tensor, n: int) -> tuple[Int[Tensor, " label"], Int[Tensor, " sample"]]:
    """Return the distinct labels, and the number of each sample's among them."""
    if not isinstance(labels, Tensor) or labels.dtype not in _INTEGERS:
        raise StateError(
            "labels are not whole numbers",
            seen=str(labels.dtype) if isinstance(labels, Tensor) else type(labels).__name__,
            expected="an integer tensor [sample]",
            fix="Number the classes: torch.as_tensor(labels).unique(return_inverse=True)[1].",
        )
    if labels.shape != (n,):
        raise StateError(
            "x and labels are not paired",
            seen=f"{n} rows of x and labels of shape {tuple(labels.shape)}",
            expected="one label for every row",
            fix="Pass the label of each sample, in the same order.",
        )
    names, classes, counts = labels.cpu().unique(return_inverse=True, return_counts=True)
    single = int((counts == 1).sum())
    if 2 * single > n:
        raise StateError(
            "labels that do not recur",
            seen=f"{single} of {n} labels occur once",
            expected="at most half: a label must be seen in training to be predicted",
            fix="Choose labels that recur, such as one token of the prompt; prompts themselves do not.",
        )
    return names, classes


def _held_out(
    x: Float[Tensor, "sample k"], classes: Int[Tensor, " sample"], blocks: Int[Tensor, " sample"], folds: int
) -> tuple[Float[Tensor, " sample"], Bool[Tensor, " sample"]]:
    """Return the bits gained on each row by a probe that has not seen it, and where its guess is right."""
    count = int(classes.max()) + 1
    bits, right = torch.zeros(len(x), dtype=torch.float64), torch.zeros(len(x), dtype=torch.bool)
    for fold in range(folds):
        held = blocks % folds == fold
        penalty = _penalty(x[~held], classes[~held], count, blocks[~held])
        probe = _Probe.before(x[~held], classes[~held], count)
        if penalty is not None:
            probe = probe.trained(x[~held], classes[~held], penalty)
            bits[held] = probe.gain(x[held], classes[held])
        right[held] = probe.log_probabilities(x[held]).argmax(dim=1) == classes[held]
    return bits, right


def _penalty(
    x: Float[Tensor, "row k"], classes: Int[Tensor, " row"], count: int, blocks: Int[Tensor, " row"]
) -> float | None:
    """Return the penalty whose probe gains most on a quarter of the training rows; None if none gains."""
    quarter = torch.isin(blocks, blocks.unique()[::4])
    probe = _Probe.before(x[~quarter], classes[~quarter], count)
    best, chosen = -math.inf, None
    for penalty in _PENALTIES:
        probe = probe.trained(x[~quarter], classes[~quarter], penalty)
        gains = probe.gain(x[quarter], classes[quarter])
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

    def trained(self, x: Float[Tensor, "row k"], classes: Int[Tensor, " row"], penalty: float) -> _Probe:
        """Return the probe of least mean cross-entropy in nats + penalty / 2 |w|^2, from these weights on."""
        inputs, target = self._inputs(x), one_hot(classes, len(self.log_frequencies)).double()
        weights = self.weights.clone()
        optimiser = torch.optim.LBFGS(
            [weights], max_iter=200, tolerance_grad=1e-5, tolerance_change=1e-9, line_search_fn="strong_wolfe"
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
