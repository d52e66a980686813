"""What a block's norm does to the residual stream, measured by probing the module itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tl_emergence.capture import compat
from tl_emergence.capture.protected import no_grad

NormKind = Literal["rms", "layer", "none"]
NormFunction = Callable[[Tensor], Tensor]

# Large against any epsilon under the root, exact in every float format, small enough to square in fp16.
# In float64 an epsilon of 1e-5 under 64 squared would still be seen.
_PROBE_SCALE = {torch.float64: 2.0**20}
_OTHER_SCALE = 64.0


@dataclass(frozen=True, eq=False)
class Norm:
    """A norm as a pure function of the state, in the state's own precision: no module, no hook.

    Attributes:
        kind: "rms" (divide by the root mean square), "layer" (centre first), "none" (identity).
        gain: Learned gain of each coordinate, as it acts (Gemma's offset of 1 is in it).
        bias: Learned bias of each coordinate; zeros where there is none.
        epsilon: Added to the mean square under the root.
    """

    kind: NormKind
    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    epsilon: float

    def __call__(self, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
        """Apply the norm, learned gain and bias included."""
        gain, bias = self.gain.to(x), self.bias.to(x)
        return standardise(x, self.kind, self.epsilon) * gain + bias


def centred(x: Float[Tensor, "*row d_model"], kind: NormKind) -> Float[Tensor, "*row d_model"]:
    """Return the part of a state that a kind of norm looks at: without its mean, for LayerNorm."""
    return x - x.mean(dim=-1, keepdim=True) if kind == "layer" else x


def standardise(
    x: Float[Tensor, "*row d_model"], kind: NormKind, epsilon: float
) -> Float[Tensor, "*row d_model"]:
    """Apply a norm without gain and bias."""
    if kind == "none":
        return x
    x = centred(x, kind)
    return x * (x.square().mean(dim=-1, keepdim=True) + epsilon).rsqrt()


def probe_norm(module: nn.Module, d_model: int, like: Tensor) -> Norm | None:
    """Read gain, bias and kind off a norm module by what it does to known vectors.

    A vector v with mean 0 and RMS 1 comes out of RMSNorm and of LayerNorm alike as gain * v + bias, so v
    and -v give both; adding a constant tells the two kinds apart. So one probe fits every version's
    naming of weights and offsets. Whether the answer is right is checked on real states in the preflight.

    Returns:
        The norm, or None when the module is no norm of a kind known here.
    """
    v = _zero_mean_unit_rms(d_model).to(like)
    probes = torch.stack([v, -v, v + 1.0, 2.0 * v])[:, None, :] * _PROBE_SCALE.get(like.dtype, _OTHER_SCALE)
    out = no_grad(compat.silent_copy(module))(probes)
    if out.shape != probes.shape:
        return None
    plus, minus, shifted, doubled = out[:, 0].cpu().to(torch.float64)
    gain = (plus - minus) / (2 * v.cpu().to(torch.float64))
    bias = (plus + minus) / 2
    # Norms of Hugging Face models work in float32 inside, also where the model is in float64.
    precision = max(torch.finfo(like.dtype).eps, torch.finfo(torch.float32).eps)
    tolerance = 4 * precision * (gain.abs().max() + bias.abs().max())
    if (doubled - plus).abs().max() > tolerance:
        identity = (plus - probes[0, 0].cpu()).abs().max() <= tolerance
        return no_norm(d_model) if identity else None
    kind: NormKind = "layer" if (shifted - plus).abs().max() <= 8 * tolerance else "rms"
    return Norm(kind, gain, bias, _epsilon(module))


def no_norm(d_model: int) -> Norm:
    """Return the identity, for models that read the residual stream as it is."""
    return Norm("none", torch.ones(d_model), torch.zeros(d_model), 0.0)


def _zero_mean_unit_rms(d: int) -> Float[Tensor, " d"]:
    """Return a vector without a zero entry: p in one half of the places and -q in the other."""
    n_plus, n_minus = (d + 1) // 2, d // 2
    p, q = (n_minus / n_plus) ** 0.5, (n_plus / max(n_minus, 1)) ** 0.5
    v = torch.full((d,), p)
    v[1::2] = -q
    return v


def _epsilon(module: nn.Module) -> float:
    for owner in (module, getattr(module, "original_component", None)):
        for name in ("eps", "variance_epsilon", "epsilon"):
            value = getattr(owner, name, None)
            if isinstance(value, float):
                return value
    return float(getattr(getattr(module, "cfg", None) or getattr(module, "config", None), "eps", 1e-5))
