"""Loading: real checkpoint formats on disk, packaged models, and what is not a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tl_emergence as tle
from tests import toys
from tl_emergence import model_cache, models
from tl_emergence.errors import ModelLoadError, SettingError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.save_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def copy_of(checkpoint: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.skipif(toys.LENS_MAJOR < 3, reason="needs a TransformerBridge")
def test_a_checkpoint_folder_loads_with_its_own_weights(checkpoint: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = models.load(checkpoint)
    tokens = torch.tensor([[10, 3, 11]])
    reference = AutoModelForCausalLM.from_pretrained(str(checkpoint), attn_implementation="eager")
    with torch.no_grad():
        assert torch.allclose(model(tokens), reference(tokens).logits, atol=1e-5)
    assert not model.training


@pytest.mark.skipif(toys.LENS_MAJOR < 3, reason="needs a TransformerBridge")
def test_a_loaded_checkpoint_is_measured_with_its_own_tokenizer(checkpoint: Path) -> None:
    model = models.load(checkpoint)
    prompts = tle.prompts.demonstrations("country", model, shots=2, n=32)
    found = tle.information_emergence(model, prompts)
    assert found.space == "read" and found.settings["bos_token_id"] == 0


@pytest.mark.skipif(toys.LENS_MAJOR < 3, reason="needs a TransformerBridge")
def test_a_hub_name_goes_to_the_loader_of_transformerlens(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The hub is out of reach in tests; its files are played by a checkpoint in the same format on disk.
    import importlib

    from transformers import AutoModelForCausalLM, AutoTokenizer

    bridge: Any = importlib.import_module("transformer_lens.model_bridge").TransformerBridge
    boot, asked = bridge.boot_transformers, []

    def from_disk(name: str, **options: Any) -> Any:
        asked.append(name)
        parts = {
            "hf_model": AutoModelForCausalLM.from_pretrained(str(checkpoint)),
            "tokenizer": AutoTokenizer.from_pretrained(str(checkpoint)),
        }
        return boot(name, **options, **parts)

    monkeypatch.setattr(bridge, "boot_transformers", from_disk)
    model = models.load("somebody/some-llama")
    assert asked == ["somebody/some-llama"] and not model.training
    prompts = tle.prompts.demonstrations("country", model, shots=2, n=16)
    assert tle.information_emergence(model, prompts).settings["model"] == "somebody/some-llama"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="model not found: saw 'no-such-organisation/no-such-model'"):
        models.load("no-such-organisation/no-such-model")


@pytest.mark.usefixtures("as_shipped")
def test_unknown_and_missing_model_classes_are_refused(checkpoint: Path) -> None:
    with pytest.raises(SettingError, match="unknown model class: saw 'hook'"):
        models.load(checkpoint, model_class="hook")  # type: ignore[arg-type]
    gone: Any = "hooked" if toys.LENS_MAJOR >= 4 else "bridge"
    if toys.LENS_MAJOR != 3:
        with pytest.raises(ModelLoadError, match="does not have that model class"):
            models.load(checkpoint, model_class=gone)


@pytest.mark.slow
def test_the_packaged_llama_is_converted_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TL_EMERGENCE_CACHE", str(tmp_path))
    model = models.load("smollm2-135m")
    assert (model.cfg.n_layers, model.cfg.d_model) == (30, 576)
    prompts = tle.prompts.demonstrations("animal", model, shots=2, n=64)
    found = tle.information_emergence(model, prompts, layers=[0, 15, 29])
    assert found.settings["model_note"] == "SmolLM2 135M Instruct, Q4_1, dequantised"
    assert found.space == "read" and found.collisions == 0
    assert float(found.macro[1, -1]) > 0 and float(found.macro.max()) <= 6.0 + 1e-6
    assert model_cache.is_intact(tmp_path / "smollm2-135m", models.PACKAGED["smollm2-135m"])
