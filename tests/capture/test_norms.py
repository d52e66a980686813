"""Norms are read off modules in every precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests import toys
from tl_emergence import information_emergence
from tl_emergence.capture.norms import probe_norm


class RmsNormInFloat32(nn.Module):
    """As models of transformers have it: float32 inside, whatever the model's dtype."""

    def __init__(self, gain: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(gain), 1e-5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.float()
        y = y * (y.square().mean(dim=-1, keepdim=True) + self.eps).rsqrt()
        return self.weight * y.to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_norm_is_known_in_float64_also_where_it_works_in_float32_inside(dtype: torch.dtype) -> None:
    gain = torch.linspace(0.5, 1.5, 16, dtype=dtype)
    norm = probe_norm(RmsNormInFloat32(gain), 16, torch.zeros(1, dtype=dtype))
    assert norm is not None and norm.kind == "rms"
    torch.testing.assert_close(norm.gain, gain.double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", [kind for kind in toys.MODEL_KINDS if not kind.endswith("Pre")])
def test_a_model_in_float64_is_read_as_in_float32_with_the_same_value(kind: str, tokens: Any) -> None:
    options: dict[str, Any] = {"prepend_bos": False, "positions": [2]}
    single = information_emergence(toys.make_model(kind), tokens, **options)
    double = information_emergence(toys.make_model(kind, dtype=torch.float64), tokens, **options)
    # By default: without a norm the space would be "unit", with a warning.
    assert (single.space, double.space) == ("read", "read")
    torch.testing.assert_close(double.emergence, single.emergence.to(double.emergence), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_module_that_is_no_norm_is_not_taken_for_one(dtype: torch.dtype) -> None:
    like = torch.zeros(1, dtype=dtype)
    with torch.random.fork_rng(devices=[]):
        linear = nn.Linear(16, 16, dtype=dtype)
    assert probe_norm(linear, 16, like) is None
