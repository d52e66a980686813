"""Shapes are checked at run time in the tests: jaxtyping's import hook with beartype, before any import."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for a hub is a mistake: fail at once

from importlib.metadata import version

import jaxtyping

import tests.typecheck  # noqa: F401  (the hook below finds it by name)

# TransformerLens 2.x pins a beartype that does not know every hint used here (PathLike[str], for one).
if tuple(int(part) for part in version("beartype").split(".")[:2]) >= (0, 18):
    jaxtyping.install_import_hook("tl_emergence", "tests.typecheck.check")

import pytest
import torch

from tests import toys

torch.set_num_threads(2)


@pytest.fixture
def as_shipped() -> Iterator[None]:
    """Switch the run-time shape checks off: what users get is the package's own typed errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return toys.save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session", params=toys.MODEL_KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    """Return a small random model of every class and norm that the installed TransformerLens has."""
    return toys.make_model(request.param)


@pytest.fixture(scope="session")
def tokens() -> torch.Tensor:
    return toys.TOKENS


@pytest.fixture(scope="session")
def toy() -> Any:
    """Return one small model, where the class does not matter."""
    return toys.make_model(toys.MODEL_KINDS[0])
