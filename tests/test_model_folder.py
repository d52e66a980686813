"""Checkpoint folders: every kind of damage is one ModelLoadError that says what to do; nothing else is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import toys
from tl_emergence import models
from tl_emergence.errors import ModelLoadError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.save_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def copy_of(checkpoint: Path, folder: Path) -> Path:
    return Path(shutil.copytree(checkpoint, folder))


def with_settings(checkpoint: Path, folder: Path, **settings: Any) -> Path:
    """Return a copy of a checkpoint with other settings in its config.json."""
    path = copy_of(checkpoint, folder) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return folder


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
    with pytest.raises(ModelLoadError, match="pickled weights, which can run code.*saw .*pytorch_model.bin"):
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


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut in half": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "another kind of JSON": lambda content: b"[1]",
    "null": lambda content: b"null",
    "nested too deep": lambda content: b"[" * 200_000,
    "not UTF-8": lambda content: b"\xff\xfe" + content,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
)
def test_a_damaged_file_is_one_load_error_with_its_cause(
    name: str, damage: str, checkpoint: Path, tmp_path: Path
) -> None:
    path = copy_of(checkpoint, tmp_path / "damaged") / name
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(ModelLoadError, match=f"cannot be loaded: saw .*{tmp_path.name}") as raised:
        models.load(path.parent)
    assert raised.value.__cause__ is not None or "not an object" in str(raised.value)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_folder_in_place_of_a_file_is_one_load_error(name: str, checkpoint: Path, tmp_path: Path) -> None:
    path = copy_of(checkpoint, tmp_path / "damaged") / name
    path.unlink()
    path.mkdir()
    with pytest.raises(ModelLoadError):
        models.load(path.parent)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 32}, "cannot be loaded"),
        ({"hidden_size": "sixteen"}, "cannot be loaded"),
        ({"num_hidden_layers": 3}, "weights that are not in the checkpoint: saw .*layers.2"),
        ({"num_hidden_layers": 1}, r"blocks that the configuration leaves out: saw .*\[1\]"),
        ({"num_attention_heads": 0}, "cannot be loaded"),
        ({"vocab_size": 10}, "cannot be loaded"),
        ({"hidden_act": "no-such-function"}, "cannot be loaded"),
        ({"model_type": "no-such-model"}, "cannot be loaded"),
        ({"model_type": "t5"}, "cannot be loaded"),
        ({"model_type": "gpt2"}, "weights that are not in the checkpoint|cannot be loaded"),
        ({"rope_scaling": {"rope_type": "no-such-type"}}, "cannot be loaded"),
    ],
)
def test_a_configuration_that_does_not_fit_the_weights_is_refused(
    settings: dict[str, Any], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError, match=message):
        models.load(with_settings(checkpoint, tmp_path / "other", **settings))


def test_a_tokenizer_without_words_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    path = copy_of(checkpoint, tmp_path / "wordless") / "tokenizer.json"
    found = json.loads(path.read_text())
    found["model"]["vocab"] = {}
    path.write_text(json.dumps(found))
    with pytest.raises(ModelLoadError, match="a tokenizer without vocabulary: saw .*2 tokens"):
        models.load(path.parent)


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes"),
        ({"text_config": {"quantization_config": {"quant_method": "awq"}}}, "awq"),
    ],
)
def test_a_quantised_checkpoint_is_refused_with_what_to_do(
    settings: dict[str, Any], method: str, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError, match=f"a quantised checkpoint: saw .*with {method}.*dequantise"):
        models.load(with_settings(checkpoint, tmp_path / "quantised", **settings))


@pytest.mark.skipif(toys.LENS_MAJOR < 3, reason="needs a TransformerBridge")
@pytest.mark.parametrize(
    "settings",
    [
        {"_attn_implementation": "flash_attention_2"},
        {"attn_implementation": "flash_attention_2"},
        {"attn_implementation": {"": "flash_attention_3"}},
        # Transformers has Llama itself: the code that the folder names is not needed.
        {"auto_map": {"AutoModelForCausalLM": "modeling.Llama", "AutoConfig": "modeling.Config"}},
    ],
)
def test_a_setting_that_the_weights_do_not_depend_on_changes_nothing(
    settings: dict[str, Any], checkpoint: Path, tmp_path: Path
) -> None:
    tokens = torch.tensor([[10, 3, 11]])
    model = models.load(with_settings(checkpoint, tmp_path / "flash", **settings))
    assert torch.equal(model(tokens), models.load(checkpoint)(tokens))


def test_an_adapter_is_refused_with_what_to_do(checkpoint: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoint, tmp_path / "adapter")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')
    with pytest.raises(ModelLoadError, match="an adapter: saw .*merge_and_unload"):
        models.load(folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"model.norm.weight": "../model.safetensors"}}, "files outside the folder"),
        ({"weight_map": {"model.norm.weight": "gone.safetensors"}}, "cannot be loaded"),
        ({"weight_map": {"model.norm.weight": 3}}, "no weight_map"),
        ({}, "no weight_map"),
    ],
)
def test_an_index_of_files_that_are_not_there_is_refused(
    index: dict[str, Any], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    folder = copy_of(checkpoint, tmp_path / "sharded")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelLoadError, match=message):
        models.load(folder)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("name", ["x" * 5000, "somebody/" + "y" * 300, "nul\0byte", ""])
def test_a_path_that_cannot_be_one_is_a_load_error(name: str) -> None:
    with pytest.raises(ModelLoadError):
        models.load(name)
