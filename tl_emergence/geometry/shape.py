"""How a cloud of states lies in its space: dimension, spread over a prompt, length and direction."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tl_emergence.errors import StateError
from tl_emergence.tensors import float_tensor, row_weights
from tl_emergence.torch_state import with_torch_defaults

# Eigenvalues of a covariance fall below 0 by rounding, in float32 too.
_BELOW_ZERO = 1e-5


@with_torch_defaults
def effective_rank(variances: Float[Tensor, " direction"]) -> float:
    """Return the effective rank: the exponential of the entropy of the normalised singular values.

    exp( - sum_i p_i ln p_i ),  p_i = s_i / sum_j s_j,  s_i = sqrt(variance_i)

    (Roy and Vetterli, EUSIPCO 2007, definition 1), where s_i are, up to a factor that cancels, the singular
    values of the centred matrix of states. It is the rank where all directions weigh the same, and less
    where they do not; no more than one below the number of distinct states. Constant states: 0. Others
    take the entropy of the variances themselves, which is smaller.

    Args:
        variances: Eigenvalues of the covariance of the states, as in `PrincipalComponents.variances`.

    Raises:
        StateError: No dense float tensor of one dimension, empty, NaN or infinity, variances below 0.

    Cost: one pass over the variances.

    Example:
        >>> round(effective_rank(torch.tensor([4.0, 4.0, 0.0])), 6)
        2.0
    """
    singular = _scaled_variances(variances).sqrt()
    total = singular.sum()
    if total == 0:
        return 0.0
    return float(torch.special.entr(singular / total).sum().exp())


@with_torch_defaults
def participation_ratio(variances: Float[Tensor, " direction"]) -> float:
    """Return the participation ratio (tr S)^2 / tr(S^2) of a covariance S.

    As usual in neuroscience (for one, Gao et al., bioRxiv 214262). It is d for d directions of equal
    variance, and near 1 where one direction dominates, as massive activations make it. Constant states: 0.

    Args:
        variances: Eigenvalues of the covariance of the states, as in `PrincipalComponents.variances`.

    Raises:
        StateError: No dense float tensor of one dimension, empty, NaN or infinity, variances below 0.

    Cost: one pass over the variances.

    Example:
        >>> participation_ratio(torch.tensor([4.0, 4.0, 0.0]))
        2.0
    """
    scaled = _scaled_variances(variances)
    squares = scaled.square().sum()
    return float(scaled.sum().square() / squares) if squares > 0 else 0.0


def _scaled_variances(variances: Float[Tensor, " direction"]) -> Float[Tensor, " direction"]:
    """Return checked variances in float64, the largest of them 1, so that their squares are numbers."""
    v = float_tensor("variances", variances, "direction").double()
    largest, smallest = float(v.max()), float(v.min())
    if smallest < -_BELOW_ZERO * max(largest, 0.0):
        raise StateError(
            "variances below 0",
            seen=f"{smallest:g}",
            expected="eigenvalues of a covariance: 0 or more",
            fix="Pass torch.linalg.eigvalsh(x.T.cov()), or the squares of the singular values of the states.",
        )
    return v.clamp_min(0.0) / largest if largest > 0 else v


@with_torch_defaults
def prompt_entropy(x: Float[Tensor, "prompt pos d"]) -> Float[Tensor, "prompt pos"]:
    """Return the prompt entropy of every prefix of every prompt, in bits.

    S = - sum_i p_i log2 p_i,  p_i = lambda_i(K) / tr K,  K = Z Z^T,

    with Z the states of the tokens 0..t of one prompt, as they are (not centred): the matrix-based entropy
    of Skean et al. (arXiv 2502.02013), in its von Neumann limit alpha -> 1. The tokens of a prompt that
    all have one direction give 0, orthogonal ones of equal length log2(t + 1). It says nothing of other
    prompts: shared by all prompts or not, directions count alike. States that are all 0 give 0.

    Args:
        x: The states of the tokens of each prompt.

    Raises:
        StateError: No dense float tensor of three dimensions, empty, NaN or infinity.

    Cost: N T^2 d operations, and N eigenvalue problems of each size 1..T: N T^4.

    Example:
        >>> prompt_entropy(torch.eye(4)[None]).round(decimals=3)
        tensor([[0.0000, 1.0000, 1.5850, 2.0000]], dtype=torch.float64)
    """
    x = float_tensor("x", x, "prompt pos d").double()
    # The entropy does not depend on the scale: without one, squares of very large or small states are lost.
    x = x / _scale(x, dim=(1, 2))
    gram = x @ x.transpose(1, 2)
    found = [_von_neumann_bits(gram[:, : t + 1, : t + 1]) for t in range(x.shape[1])]
    return torch.stack(found, dim=1)


def _von_neumann_bits(gram: Float[Tensor, "prompt pos pos"]) -> Float[Tensor, " prompt"]:
    eigenvalues = torch.linalg.eigvalsh(gram).clamp_min(0.0)
    total = eigenvalues.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.special.entr(eigenvalues / total).sum(dim=1) / torch.log(gram.new_tensor(2.0))


@with_torch_defaults
def mean_norm(x: Float[Tensor, "row d"], weights: Float[Tensor, " row"]) -> float:
    """Return the weighted mean of the Euclidean norms of rows, in units of their space.

    The weights need not sum to 1.

    Raises:
        StateError: No dense float tensor [row, d], empty, NaN or infinity; weights that do not fit the rows.

    Cost: N d.

    Example:
        >>> mean_norm(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([0.5, 0.5]))
        3.0
    """
    x = float_tensor("x", x, "row d").double()
    scale = _scale(x, dim=(1,))
    norms = (x / scale).norm(dim=1) * scale[:, 0]
    return float(norms @ row_weights(weights, len(x), x.device))


@with_torch_defaults
def cosine_to_previous(
    x: Float[Tensor, "row d"], previous: Float[Tensor, "row d"], weights: Float[Tensor, " row"]
) -> float:
    """Return the weighted mean of the cosines between the rows of a state and those of the state before.

    1 where a block only scales what it reads. A row of zeros has no direction and counts as 0. The weights
    need not sum to 1.

    Raises:
        StateError: No dense float tensors [row, d] of one shape on one device, empty, NaN or infinity;
            weights that do not fit the rows.

    Cost: N d.

    Example:
        >>> x, before = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[2.0, 0.0], [2.0, 0.0]])
        >>> cosine_to_previous(x, before, torch.tensor([0.5, 0.5]))
        0.5
    """
    x, previous = (float_tensor(n, m, "row d").double() for n, m in (("x", x), ("previous", previous)))
    if x.shape != previous.shape or x.device != previous.device:
        raise StateError(
            "x and previous are not paired",
            seen=f"x {tuple(x.shape)} on {x.device}, previous {tuple(previous.shape)} on {previous.device}",
            expected="the same rows, of one width and on one device",
            fix="Pass the states of the same prompts at two layers, in the same order.",
        )
    # A cosine does not depend on the scale, and the library takes norms below 1e-8 for 0.
    x, previous = x / _scale(x, dim=(1,)), previous / _scale(previous, dim=(1,))
    cosines = torch.nn.functional.cosine_similarity(x, previous, dim=1)
    return float(cosines @ row_weights(weights, len(x), x.device))


def _scale(x: Float[Tensor, "*size"], dim: tuple[int, ...]) -> Float[Tensor, "*kept"]:
    """Return the largest absolute value along some dimensions, which are kept; 1 where all values are 0."""
    largest = x.abs().amax(dim=dim, keepdim=True)
    return torch.where(largest > 0, largest, 1.0)
