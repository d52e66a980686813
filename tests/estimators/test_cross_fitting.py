"""The error of held-out means: wider than that of the rows alone, and wide enough where folds disagree."""

from __future__ import annotations

import pytest
import torch

from tl_emergence.estimators.cross_fitting import TRAINING, widened_for_training
from tl_emergence.estimators.jackknife import jackknife_stderr
from tl_emergence.estimators.vinfo import means_without_blocks

BLOCKS = torch.arange(200) % 20
VALUES = 1 + torch.randn(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def errors(values: torch.Tensor) -> tuple[float, float]:
    """Return the error of the rows alone and the one reported."""
    without = means_without_blocks(values, BLOCKS)
    wider = widened_for_training(without, values, BLOCKS % 5)
    assert torch.allclose(wider.mean(dim=-1), without.mean(dim=-1))
    return float(jackknife_stderr(without)), float(jackknife_stderr(wider))


def test_critics_that_all_found_something_widen_the_error_of_the_rows_by_a_quarter() -> None:
    rows, reported = errors(VALUES)
    assert reported == pytest.approx(TRAINING * rows)


def test_folds_that_found_nothing_beside_others_that_did_add_what_another_tip_would_change() -> None:
    values = torch.where(BLOCKS % 5 < 2, 0.0, VALUES)
    rows, reported = errors(values)
    mean = float(values.sum() / (values != 0).sum())
    assert reported == pytest.approx(((TRAINING * rows) ** 2 + 0.6 * 0.4 * mean**2) ** 0.5, rel=1e-3)


def test_nothing_found_has_no_error() -> None:
    assert errors(torch.zeros_like(VALUES)) == (0.0, 0.0)


def test_cells_do_not_depend_on_each_other() -> None:
    both = torch.stack([VALUES, torch.where(BLOCKS % 5 == 0, 0.0, VALUES)])
    together = jackknife_stderr(widened_for_training(means_without_blocks(both, BLOCKS), both, BLOCKS % 5))
    assert together.tolist() == pytest.approx([errors(one)[1] for one in both])
