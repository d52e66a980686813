"""Where a loaded model is: on the device asked for and in the dtype asked for, `cfg` in agreement."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import toys
from tl_emergence import models
from tl_emergence.errors import ModelLoadError, SettingError

pytestmark = pytest.mark.skipif(toys.LENS_MAJOR < 3, reason="needs a TransformerBridge")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.save_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def devices_of(model: Any) -> set[str]:
    return {str(tensor.device) for tensor in (*model.parameters(), *model.buffers())}


@pytest.mark.parametrize("device", ["cpu", "meta", torch.device("cpu")])
def test_parameters_and_buffers_are_on_the_device_asked_for(device: Any, checkpoint: Path) -> None:
    model = models.load(checkpoint, device=device)
    assert devices_of(model) == {str(device)} and str(model.cfg.device) == str(device)


@pytest.mark.skipif(toys.LENS_MAJOR < 4, reason="the module of 4.x that chooses a device")
def test_without_a_device_parameters_are_on_the_one_that_the_configuration_names(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a machine with CUDA: TransformerLens chooses a device that the weights are not on yet.
    source: Any = importlib.import_module("transformer_lens.model_bridge.sources.transformers.source")
    monkeypatch.setattr(source, "get_device", lambda: torch.device("meta"))
    model = models.load(checkpoint)
    assert devices_of(model) == {str(model.cfg.device)} == {"meta"}


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("device", ["no-such-device", "", 3.5, "cuda:99"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(device: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=f"no such device here: saw device={device!r}"):
        models.load(tmp_path, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_cuda_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ModelLoadError, match="no such device here: saw device='cuda'.*pass 'cpu'"):
        models.load(checkpoint, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_is_used_where_it_is_asked_for_and_by_default(checkpoint: Path) -> None:
    for model in (models.load(checkpoint, device="cuda"), models.load(checkpoint)):
        assert devices_of(model) == {"cuda:0"} and str(model.cfg.device) == "cuda:0"
        model.run_with_cache("France")


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        (None, torch.float32),
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        (torch.float16, torch.float16),
        ("torch.float64", torch.float64),
    ],
)
def test_parameters_are_of_the_dtype_asked_for(dtype: Any, wanted: torch.dtype, checkpoint: Path) -> None:
    model = models.load(checkpoint, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {wanted}
    assert model.cfg.dtype == wanted


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("dtype", ["float", torch.int8, torch.complex64, 32, "no-such-dtype"])
def test_a_dtype_that_no_model_runs_in_is_refused(dtype: Any, checkpoint: Path) -> None:
    with pytest.raises(ModelLoadError, match="not a dtype that a model runs in: saw dtype="):
        models.load(checkpoint, dtype=dtype)


def test_the_callers_defaults_neither_matter_nor_change(checkpoint: Path) -> None:
    tokens = torch.tensor([[10, 3, 11]])
    expected = models.load(checkpoint)(tokens)
    random_state = torch.random.get_rng_state()
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    try:
        model = models.load(checkpoint)
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_default_device() == torch.device("meta")
    finally:
        torch.set_default_device(None)  # type: ignore[arg-type]
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert torch.equal(model(tokens), expected)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("step", [1.5, "3", -1])
def test_a_step_that_is_no_whole_number_is_refused(step: Any) -> None:
    with pytest.raises(SettingError, match="step"):
        models.load("pythia-70m", step=step)
