"""Checkpoint folders: what is refused before anything is opened, and the loading itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tl_emergence.capture import compat
from tl_emergence.errors import ModelLoadError
from tl_emergence.model_guard import first_line, guarded_loading

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
_PICKLED = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
_WHOLE = "a folder with config.json, *.safetensors and a tokenizer"
_SAVE_AGAIN = "Save it again; for model_class='hooked' name the architecture with lens_name=."


def load_folder(folder: Path, lens_name: str, model_class: str, device: Any, dtype: Any) -> Any:
    """Load a checkpoint folder, weights unprocessed, with eager attention, on a device and in a dtype.

    Raises:
        ModelLoadError: Not a whole checkpoint, one that brings code, pickles or kernels, a quantised one, or
            weights that do not fit the configuration.
    """
    with guarded_loading(
        "the checkpoint cannot be loaded",
        folder,
        expected="a whole checkpoint of an architecture that TransformerLens supports",
        fix=_SAVE_AGAIN,
    ):
        check_folder(folder)
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **local)
        _check_tokenizer(folder, tokenizer)
        config = AutoConfig.from_pretrained(str(folder), **local)
        # Hooks see attention patterns with eager attention only; FlashAttention needs a GPU besides.
        config._attn_implementation = "eager"
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder),
            **local,
            use_safetensors=True,
            config=config,
            attn_implementation="eager",
            output_loading_info=True,
            **{compat.transformers_dtype_option(): dtype},
        )
        hf_model, report = loaded
        _check_weights(folder, hf_model, report)
        for parameter in hf_model.parameters():  # some architectures keep a few in float32
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
        return compat.wrap(hf_model, tokenizer, lens_name, model_class, device, dtype)


def check_folder(folder: Path) -> None:
    """Refuse a folder that is no whole checkpoint, or that asks for more than reading tensors.

    Raises:
        ModelLoadError: Files missing, pickled or damaged; a quantised checkpoint; an adapter; attention
            kernels from a repository.
    """
    _check_files(folder)
    config = _json_object(folder / "config.json")
    _check_config(folder, config)
    for index in sorted(folder.glob("*.safetensors.index.json")):
        _check_index(index)


def _check_files(folder: Path) -> None:
    present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    tensors = [name for name in present if name.endswith(".safetensors")]
    pickled = [name for name in present if name.endswith((*_PICKLED, ".bin.index.json"))]
    if "config.json" in present and pickled and not tensors:
        raise _pickles(folder, pickled)
    if "config.json" not in present or not tensors:
        raise ModelLoadError(
            "no checkpoint there",
            seen=f"{folder}: {present[:8] if folder.is_dir() else 'a file'}",
            expected=_WHOLE,
            fix="Save the model with save_pretrained (safe_serialization), tokenizer included.",
        )
    if "adapter_config.json" in present:
        raise ModelLoadError(
            "an adapter",
            seen=f"{folder} with adapter_config.json, which names another model as its base",
            expected=_WHOLE,
            fix="Merge it with peft first: model.merge_and_unload().save_pretrained(new_folder).",
        )
    if not any(name in present for name in _TOKENIZER_FILES):
        raise ModelLoadError(
            "no tokenizer there",
            seen=f"{folder} without any of {', '.join(_TOKENIZER_FILES)}",
            expected=_WHOLE,
            fix="Save it beside the model: tokenizer.save_pretrained(folder).",
        )


def _check_index(index: Path) -> None:
    """Refuse an index that names shards other than safetensors files beside it."""
    shards = _json_object(index).get("weight_map")
    if not (isinstance(shards, dict) and all(isinstance(name, str) for name in shards.values())):
        raise _damaged(index, "no weight_map of names of tensors to names of files")
    pickled = sorted({name for name in shards.values() if not name.endswith(".safetensors")})
    if pickled:
        raise _pickles(index, pickled)
    outside = sorted({name for name in shards.values() if "/" in name or "\\" in name})
    if outside:
        raise _damaged(index, f"files outside the folder: {outside[:3]}")


def _check_config(folder: Path, config: dict[str, Any]) -> None:
    for key, value in _settings(config):
        if key in ("quantization_config", "compression_config") and value:
            raise ModelLoadError(
                "a quantised checkpoint",
                seen=f"{folder}, quantised with {_quantiser(value)}",
                expected="plain floating-point weights, since ablation and noise need them",
                fix="Use the checkpoint it was made from; or dequantise it once where its own package runs: "
                "AutoModelForCausalLM.from_pretrained(folder).dequantize().save_pretrained(new_folder).",
            )
        if "attn_implementation" in key or "experts_implementation" in key:
            kernels = [name for name in _strings(value) if "/" in name]
            if kernels:
                raise ModelLoadError(
                    "an attention kernel from a repository, and code of a repository is never run",
                    seen=f"{folder}: {key} {kernels[0]!r}",
                    expected="'eager', 'sdpa', or no such setting",
                    fix=f"Delete {key!r} from config.json: the weights do not depend on it.",
                )


def _settings(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield all settings of a configuration, also those of the configurations inside it."""
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, dict):
            yield from inner.items()
            waiting.extend(inner.values())


def _strings(value: Any) -> list[str]:
    values = value.values() if isinstance(value, dict) else [value]
    return [text for text in values if isinstance(text, str)]


def _quantiser(settings: Any) -> str:
    if not isinstance(settings, dict):
        return "settings that cannot be read"
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        return "bitsandbytes"
    return str(settings.get("quant_method", "an unnamed method"))


def _check_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Refuse a tokenizer that was made from nothing, as transformers makes one where its files are gone."""
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ModelLoadError(
            "a tokenizer without vocabulary",
            seen=f"{folder}: {len(tokenizer)} tokens, all of them special",
            expected="the tokenizer that the model was trained with",
            fix="Save it beside the model: tokenizer.save_pretrained(folder).",
        )


def _check_weights(folder: Path, hf_model: Any, report: Any) -> None:
    """Refuse weights that the file lacks, that have another shape, or of blocks that would be left out."""
    gaps = {kind: report.get(kind) for kind in ("missing_keys", "mismatched_keys") if report.get(kind)}
    if gaps:
        raise ModelLoadError(
            "weights that are not in the checkpoint",
            seen=f"{folder}: {gaps}",
            expected="a tensor of the right shape for each parameter of the configuration",
            fix="Save it again; the file or config.json belongs to another model.",
        )
    n_blocks = getattr(hf_model.config.get_text_config(), "num_hidden_layers", None)
    numbers = [re.search(r"\.(\d+)\.", name) for name in report.get("unexpected_keys") or ()]
    beyond = sorted({int(m[1]) for m in numbers if m and n_blocks is not None and int(m[1]) >= n_blocks})
    # Multi-token prediction blocks are behind the last one on purpose; transformers does not report them.
    if beyond:
        raise ModelLoadError(
            "blocks that the configuration leaves out",
            seen=f"{folder}: weights of blocks {beyond[:8]}, num_hidden_layers {n_blocks}",
            expected="as many blocks in config.json as in the file",
            fix="Save it again; the file or config.json belongs to another model.",
        )


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, first_line(error)) from error
    if not isinstance(content, dict):
        raise _damaged(path, f"{type(content).__name__}, not an object")
    return content


def _damaged(path: Path, why: str) -> ModelLoadError:
    return ModelLoadError(
        "the checkpoint cannot be loaded",
        seen=f"{path}: {why}",
        expected="the JSON file that save_pretrained wrote",
        fix=_SAVE_AGAIN,
    )


def _pickles(where: Path, names: list[str]) -> ModelLoadError:
    return ModelLoadError(
        "pickled weights, which can run code when they are opened",
        seen=f"{where}: {', '.join(names[:3])}",
        expected="weights in *.safetensors",
        fix="If you trust the file, load it with transformers yourself and save it with save_pretrained.",
    )
