"""Emergence criteria: what a whole tells about its future, and about its parts', beyond its parts.

For parts X_1..X_n of a system, a whole V made of them, and a prime for one step later,

    Psi   = I(V; V') - sum_j I(X_j; V')
    Delta = max_j [ I(V; X_j') - sum_i I(X_i; X_j') ]
    Gamma = max_j I(V; X_j')

(Rosas, Mediano et al., arXiv 2004.08220). Psi > 0 is enough for causal emergence, Delta > 0 for downward
causation, Psi > 0 with Gamma = 0 for causal decoupling. Neither Psi nor Delta below 0 shows that there is
none: both subtract what parts share once for every part that has it, so that **redundancy makes them very
negative**. The positions of a prompt, each of which has read the ones before, are very redundant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.checks import seed_number
from tl_emergence.errors import StateError
from tl_emergence.estimators.components import principal_components
from tl_emergence.estimators.folds import distinct_rows
from tl_emergence.estimators.gaussian import JointScatter, joint_scatter, null_stderr
from tl_emergence.estimators.interface import generator_for
from tl_emergence.estimators.jackknife import blocks_of, jackknife_stderr
from tl_emergence.geometry.settings import GeometrySettings, Whole
from tl_emergence.tensors import check_squares, float_tensor, label_tensor, row_weights
from tl_emergence.torch_state import with_torch_defaults


@dataclass(frozen=True)
class EmergenceCriteria:
    """The three emergence criteria of Rosas et al. (arXiv 2004.08220), in bits.

    Attributes:
        psi: I(V; V') - sum_j I(X_j; V'). Very negative where parts are redundant, which shows nothing.
        delta: max_j [ I(V; X_j') - sum_i I(X_i; X_j') ]. Negative under redundancy too.
        gamma: max_j I(V; X_j').
        psi_stderr: Standard error of `psi`; 0 for a distribution that was given.
        delta_stderr: Standard error of `delta`. The maximum over parts is biased upward by about as much.
        gamma_stderr: Standard error of `gamma`, whose maximum is biased likewise.
    """

    psi: float
    delta: float
    gamma: float
    psi_stderr: float = 0.0
    delta_stderr: float = 0.0
    gamma_stderr: float = 0.0


@with_torch_defaults
def discrete_criteria(
    x: Int[Tensor, "row part"],
    x_next: Int[Tensor, "row part"],
    v: Int[Tensor, " row"],
    v_next: Int[Tensor, " row"],
    *,
    weights: Float[Tensor, " row"] | None = None,
) -> EmergenceCriteria:
    """Return the emergence criteria of a discrete system, from plug-in entropies.

    Exact where rows and weights enumerate the distribution. From a sample, each information is biased
    upward by about (K_x - 1) (K_y - 1) / (2 N ln 2) bits for K_x and K_y values.

    Args:
        x: Labels of the parts, one row a joint state.
        x_next: Labels of the parts one step later.
        v: Labels of the whole: a function of the row of x.
        v_next: The same function of the row of x_next.
        weights: Weight of each row, all the same by default; they need not sum to 1.

    Raises:
        StateError: Not integer tensors, shapes that do not fit each other, no row, weights that are none.

    Cost: (parts + 1)^2 sorts of N numbers.

    Example:
        >>> bits = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
        >>> now, later = bits.repeat_interleave(4, 0), bits.repeat(4, 1)
        >>> kept = now.sum(1) % 2 == later[:, 0]  # the first bit becomes the parity of both
        >>> now, later = now[kept], later[kept]
        >>> discrete_criteria(now, later, now.sum(1) % 2, later.sum(1) % 2)
        EmergenceCriteria(psi=0.0, delta=1.0, gamma=1.0, psi_stderr=0.0, delta_stderr=0.0, gamma_stderr=0.0)
    """
    x, x_next = label_tensor("x", x, "row part"), label_tensor("x_next", x_next, "row part")
    v, v_next = label_tensor("v", v, "row"), label_tensor("v_next", v_next, "row")
    p = _row_weights(x, x_next, v, v_next, weights)
    parts, parts_next = list(x.t()), list(x_next.t())

    def bits(a: Int[Tensor, " row"], b: Int[Tensor, " row"]) -> Float[Tensor, " run"]:
        return _plug_in(a, b, p)[None]

    between = torch.stack([torch.stack([bits(a, b) for b in parts_next]) for a in parts])
    to_whole, to_parts = (torch.stack([bits(a, v_next) for a in parts]), [bits(v, b) for b in parts_next])
    psi, delta, gamma = _criteria(bits(v, v_next), to_whole, torch.stack(to_parts), between)[:, 0].tolist()
    return EmergenceCriteria(psi, delta, gamma)


@with_torch_defaults
def gaussian_criteria(
    x: Float[Tensor, "part sample d"],
    x_next: Float[Tensor, "part sample d_next"],
    *,
    whole: Whole = "concatenation",
    components: int = 4,
    sigma: float = 0.5,
    seed: int = 0,
) -> EmergenceCriteria:
    """Return the emergence criteria of states as if they were jointly Gaussian, small-sample bias removed.

    X_j are the leading principal components of part j, with noise of size sigma added as a seeded draw, as
    in the `gaussian` estimator. V are the leading components of all X_j side by side, noise included
    ("concatenation"), or those of the mean of the states over parts, with a draw of its own ("mean"); V' is
    the same of the step after. One part is its own whole: Psi and Delta are then 0.

    The theory asks that V be made of the parts. "concatenation" is; "mean" is made of the states, and may
    know components that the parts, cut to their leading ones, do not: a positive Psi can come from that.
    **Psi is very negative where parts are redundant** (and Delta follows), which does not show that there
    is no emergence. Only linear dependence is seen: the XOR systems of the paper give 0 here.

    Args:
        x: The states of each part, for paired samples.
        x_next: The states of each part one step later.
        whole: "concatenation" or "mean".
        components: Leading components kept of every part and of the whole. Constant parts have none and
            contribute 0: Delta, a maximum over parts, is not below 0 then.
        sigma: Noise floor, above 0.
        seed: Seed of the noise and of the jackknife's blocks.

    Raises:
        SettingError: Settings or seed out of range; components too many for so few samples.
        StateError: Not float tensors, shapes that do not fit each other, one sample, NaN or infinity.

    Cost: an eigendecomposition of min(N, d) dimensions a part and step, then (parts + 1)^2 covariances of
    2 `components` dimensions: 0.1 s of one core for 8 parts, N = 2,048, d = 64.

    Example:
        >>> x = torch.randn(1, 500, 3, generator=torch.Generator().manual_seed(0)).expand(4, -1, -1)
        >>> found = gaussian_criteria(x, x)  # four copies, and nothing that one of them does not know
        >>> found.psi < -5, found.delta < -5, found.gamma > 2
        (True, True, True)
    """
    settings = GeometrySettings(components, whole, sigma)
    seed = seed_number(seed)
    x = float_tensor("x", x, "part sample d")
    x_next = float_tensor("x_next", x_next, "part sample d_next")
    _check_states(x, x_next)
    sides = []
    for side, states in (("now", x), ("next", x_next)):
        parts = [noisy_components(part, settings, seed, side, "part", j) for j, part in enumerate(states)]
        mean = states.double().mean(dim=0) if whole == "mean" else None
        sides.append((whole_of(parts, mean, settings, seed, side), parts))
    (v, parts), (v_next, parts_next) = sides
    copies = distinct_rows(*x, *x_next).cpu()
    return step_criteria(parts, [v], parts_next, [v_next], copies, seed)[0]


def noisy_components(
    x: Float[Tensor, "sample d"], settings: GeometrySettings, seed: int, *label: object
) -> Float[Tensor, "sample component"]:
    """Return the leading components of samples, with a seeded draw of the noise floor."""
    leading = principal_components(x, _equal_weights(x), settings.components)
    return with_noise(leading.rows, settings, seed, *label)


def _equal_weights(x: Float[Tensor, "sample d"]) -> Float[Tensor, " sample"]:
    return torch.full((len(x),), 1 / len(x), dtype=torch.float64)


def with_noise(
    x: Float[Tensor, "sample component"], settings: GeometrySettings, seed: int, *label: object
) -> Float[Tensor, "sample component"]:
    """Return components on the CPU with a draw of the noise floor that seed and label name."""
    draw = torch.randn(
        *x.shape, generator=generator_for(seed, "geometry", *label), device="cpu", dtype=torch.float64
    )
    return x.cpu() + settings.sigma * draw


def whole_of(
    parts: Sequence[Float[Tensor, "sample _component"]],
    mean: Float[Tensor, "sample d"] | None,
    settings: GeometrySettings,
    seed: int,
    *label: object,
) -> Float[Tensor, "sample component"]:
    """Return V: the leading components of a mean state with noise, or of the noisy parts side by side."""
    if len(parts) == 1:
        return parts[0]
    if mean is not None:
        return noisy_components(mean, settings, seed, *label, "whole", len(parts))
    side_by_side = torch.cat(list(parts), dim=1)
    # No noise of its own: the parts have theirs, and V must not be seen worse than they are.
    return principal_components(side_by_side, _equal_weights(side_by_side), settings.components).rows


def step_criteria(
    parts: Sequence[Float[Tensor, "sample _component"]],
    wholes: Sequence[Float[Tensor, "sample _component"]],
    parts_next: Sequence[Float[Tensor, "sample _component"]],
    wholes_next: Sequence[Float[Tensor, "sample _component"]],
    copies: Int[Tensor, " sample"],
    seed: int,
) -> list[EmergenceCriteria]:
    """Return the criteria of one step for each whole: the last is of all parts, each before of one less.

    The errors are jackknifed, copies (samples of one number) in one block, but no less than those of
    independent Gaussians, as in the `gaussian` estimator: the variance of a sum of independent pairs is that
    of one pair with their dimensions added.
    """
    n, most = len(parts[0]), len(parts)
    joint = joint_scatter([*parts, *wholes, *parts_next, *wholes_next], blocks_of(copies, seed))
    # Variables by their number: parts, wholes, the parts after, the wholes after.
    first_next = most + len(wholes)
    later = range(first_next, first_next + most)
    between = _informations(joint, range(most), later)
    found = []
    for k, (v, v_next) in enumerate(zip(wholes, wholes_next, strict=True)):
        some = most - len(wholes) + k + 1
        runs = _criteria(
            _informations(joint, [most + k], [first_next + most + k])[0, 0],
            _informations(joint, range(some), [first_next + most + k])[:, 0],
            _informations(joint, [most + k], later[:some])[0],
            between[:some, :some],
        )
        widest = max(part.shape[1] for part in parts_next[:some])
        # One part is its own whole: its Psi and Delta are 0 without error.
        together = v.shape[1] + sum(part.shape[1] for part in parts[:some]) if some > 1 else 0
        dimensions = ((together, v_next.shape[1]), (together, widest), (v.shape[1], widest))
        least = torch.tensor([null_stderr(p, q, n) for p, q in dimensions], dtype=torch.float64)
        stderr = torch.maximum(jackknife_stderr(runs[:, 1:]), least)
        found.append(EmergenceCriteria(*runs[:, 0].tolist(), *stderr.tolist()))
    return found


def _informations(joint: JointScatter, x: Sequence[int], y: Sequence[int]) -> Float[Tensor, "x y run"]:
    """Return the Gaussian information of every variable of x with every one of y."""
    return torch.stack([torch.stack([_gaussian_bits(joint, i, j) for j in y]) for i in x])


def _criteria(
    whole: Float[Tensor, " run"],
    to_whole: Float[Tensor, "part run"],
    to_parts: Float[Tensor, "part run"],
    between: Float[Tensor, "part part run"],
) -> Float[Tensor, "criterion run"]:
    """Return Psi, Delta and Gamma of I(V;V'), I(X_j;V'), I(V;X_j') and I(X_i;X_j')."""
    downward = to_parts - between.sum(dim=0)
    return torch.stack([whole - to_whole.sum(dim=0), downward.amax(dim=0), to_parts.amax(dim=0)])


def _gaussian_bits(joint: JointScatter, i: int, j: int) -> Float[Tensor, " run"]:
    if 0 in (joint.width(i), joint.width(j)):
        return torch.zeros_like(joint.left)  # a constant tells exactly nothing
    return joint.information(i, j)


def _plug_in(a: Int[Tensor, " row"], b: Int[Tensor, " row"], p: Float[Tensor, " row"]) -> Float[Tensor, ""]:
    pair = torch.stack([a, b], dim=1)
    return _entropy(a[:, None], p) + _entropy(b[:, None], p) - _entropy(pair, p)


def _entropy(labels: Int[Tensor, "row label"], p: Float[Tensor, " row"]) -> Float[Tensor, ""]:
    ids = torch.unique(labels, dim=0, return_inverse=True)[1]
    return torch.special.entr(torch.bincount(ids, weights=p)).sum() / torch.log(p.new_tensor(2.0))


def _row_weights(
    x: Int[Tensor, "row part"],
    x_next: Int[Tensor, "row part"],
    v: Int[Tensor, " row"],
    v_next: Int[Tensor, " row"],
    weights: Float[Tensor, " row"] | None,
) -> Float[Tensor, " row"]:
    """Return the probabilities of the rows of tensors that fit each other."""
    fits = (
        x.ndim == 2 and x.numel() > 0 and x.shape == x_next.shape and v.shape == v_next.shape == x.shape[:1]
    )
    if not fits:
        raise StateError(
            "parts and wholes do not fit each other",
            seen=f"x {tuple(x.shape)}, x_next {tuple(x_next.shape)}, v {tuple(v.shape)}, "
            f"v_next {tuple(v_next.shape)}",
            expected="x and x_next of one shape [row, part], v and v_next [row]",
            fix="Label the whole of each row: v = x.sum(1) % 2.",
        )
    for name, rows, whole in (("v", x, v), ("v_next", x_next, v_next)):
        kinds = len(torch.unique(rows, dim=0))
        if len(torch.unique(torch.cat([rows, whole[:, None].to(rows)], dim=1), dim=0)) > kinds:
            raise StateError(
                f"{name} is no function of the parts",
                seen="rows with the same parts and different wholes",
                expected="one whole for each row of parts",
                fix="Compute it from the parts: v = x.sum(1) % 2.",
            )
    return row_weights(torch.ones(len(x)) if weights is None else weights, len(x), x.device)


def _check_states(x: Float[Tensor, "part sample d"], x_next: Float[Tensor, "part sample d_next"]) -> None:
    if x.shape[:2] != x_next.shape[:2] or x.device != x_next.device:
        raise StateError(
            "the two steps do not fit each other",
            seen=f"x {tuple(x.shape)} on {x.device}, x_next {tuple(x_next.shape)} on {x_next.device}",
            expected="x [part, sample, d] and x_next [part, sample, d_next] on one device",
            fix="Stack the states of the parts: torch.stack([part_0, part_1]).",
        )
    if x.shape[1] < 2:
        raise StateError("one sample", seen=1, expected="at least 2", fix="Information needs a set of them.")
    check_squares("x", x)
    check_squares("x_next", x_next)
