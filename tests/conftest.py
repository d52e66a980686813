"""Shapes are checked at run time in the tests: jaxtyping's import hook with beartype, before any import."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for a hub is a mistake: fail at once
# Two processes that share the tests out have a thread each, as have the commands and notebooks they start:
# threads that wait for one another on the same core cost several times the work.
THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
if THREADS == 1:
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

from importlib.metadata import version

import jaxtyping

import tests.typecheck  # noqa: F401  (the hook below finds it by name)

# TransformerLens 2.x pins a beartype that does not know every hint used here (PathLike[str], for one).
if tuple(int(part) for part in version("beartype").split(".")[:2]) >= (0, 18):
    jaxtyping.install_import_hook("tl_emergence", "tests.typecheck.check")

import pytest
import torch

from tests import toys

torch.set_num_threads(THREADS)

# Files that take minutes go first, so that no process is left with one at the end.
LONG = ("test_tutorials", "test_nce", "test_usable_information", "test_gemma", "test_cli", "test_battery")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


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
