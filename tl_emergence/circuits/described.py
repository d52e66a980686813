"""What a metric is, in JSON values: kept with results, and compared where a run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_emergence.capture.spaces import Space
from tl_emergence.circuits.metrics import InformationMetric, LogitMetric, Metric
from tl_emergence.errors import SettingError


def described_metric(metric: Metric, default_space: Space | None) -> dict[str, Any]:
    """Return what a metric's numbers depend on, in JSON values."""
    if isinstance(metric, LogitMetric):
        about = {"fingerprint": metric.fingerprint} if metric.fingerprint else {}
        return {"unit": metric.unit, "positions": list(metric.positions or ()), **about}
    return {
        "unit": metric.unit,
        "layers": list(metric.layers or ()),
        "positions": list(metric.positions or ()),
        "space": metric.space or default_space,
        "sigma": metric.sigma,
        "emergence": metric.emergence,
    }


def note_macro(settings: dict[str, Any], metrics: Sequence[Metric], macro: Float[Tensor, "metric 2"]) -> None:
    """Add, for each metric of states, its clean macro and the share of its cells that is saturated."""
    for metric, (mean, saturated) in zip(metrics, macro.tolist(), strict=True):
        if isinstance(metric, InformationMetric):
            settings["metrics"][metric.name] |= {"clean_macro": mean, "saturated": saturated}


def check_same_metrics(
    metrics: Sequence[Metric], baseline: Float[Tensor, "metric prompt"], saved: dict[str, Tensor] | None
) -> None:
    """Raise SettingError where a work folder holds other clean values of a metric."""
    if saved is None:
        return
    for metric, now, before in zip(metrics, baseline, saved["values"], strict=True):
        if not torch.allclose(now, before, rtol=1e-3, atol=1e-4):
            raise SettingError(
                "the work folder belongs to another metric",
                seen=f"other clean values of {metric.name!r}",
                expected="those that the folder holds",
                fix="Choose another workdir, or delete that folder.",
            )
