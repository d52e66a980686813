"""Load the induction model as it was at a step of its training."""

from __future__ import annotations

import importlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from tl_emergence.errors import SettingError
from tutorials.induction.sequences import LENGTH, VOCABULARY

CHECKPOINTS = Path(__file__).parent / "checkpoints"
N_LAYERS, N_HEADS, D_MODEL, D_HEAD = 2, 4, 64, 16
SEED = 0

_CONFIG = {
    "n_layers": N_LAYERS,
    "n_heads": N_HEADS,
    "d_model": D_MODEL,
    "d_head": D_HEAD,
    "n_ctx": LENGTH + 1,
    "d_vocab": VOCABULARY,
    "attn_only": True,
    "normalization_type": "RMS",
    "positional_embedding_type": "standard",
    "model_name": "induction",
    "seed": SEED,
}

# How the parameters of a bridge become those that HookedTransformer has: the names and shapes of the files.
_FROM_BRIDGE = {
    "tok_embed.weight": ("embed.W_E", "v m -> v m"),
    "pos.weight": ("pos_embed.W_pos", "p m -> p m"),
    "ln1.weight": ("ln1.w", "m -> m"),
    **{
        name: entry
        for x in "qkv"
        for name, entry in {
            f"attn.{x}.weight": (f"attn.W_{x.upper()}", "(h d) m -> h m d"),
            f"attn.{x}.bias": (f"attn.b_{x.upper()}", "(h d) -> h d"),
        }.items()
    },
    "attn.o.weight": ("attn.W_O", "m (h d) -> h d m"),
    "attn.o.bias": ("attn.b_O", "m -> m"),
    "ln_out.weight": ("ln_final.w", "m -> m"),
    "head.weight": ("unembed.W_U", "v m -> m v"),
}


def kept_steps() -> tuple[int, ...]:
    """Return the training steps whose weights are kept, in order."""
    return tuple(sorted(int(path.stem.removeprefix("step_")) for path in CHECKPOINTS.glob("*.safetensors")))


def training_log() -> list[dict[str, float]]:
    """Return what was measured during training, one entry a kept step: losses in bits, best head scores."""
    return json.loads((CHECKPOINTS / "log.json").read_text())


def load_induction_model(step: int | None = None) -> Any:
    """Return the induction model with the weights of a training step, the last one by default.

    A TransformerBridge in TransformerLens 4, a HookedTransformer before; in float32, in eval mode.

    Raises:
        SettingError: No weights were kept at that step.
    """
    steps = kept_steps()
    chosen = steps[-1] if step is None and steps else step
    if chosen not in steps:
        raise SettingError(
            "no weights of that step",
            seen=repr(chosen),
            expected=f"one of {list(steps)}",
            fix="Choose one of these, or train again: python -m tutorials.induction.train.",
        )
    model = new_model()
    write_weights(model, load_file(CHECKPOINTS / f"step_{chosen:05}.safetensors"))
    return model.eval()


def new_model(d_model: int = D_MODEL) -> Any:
    """Return a model before training, its weights drawn from SEED; the global generator is as before."""
    sizes = {"d_model": d_model, "d_head": d_model // N_HEADS}
    with torch.random.fork_rng(devices=[]):
        if int(version("transformer-lens").split(".")[0]) >= 4:
            bridge: Any = importlib.import_module("transformer_lens.model_bridge").TransformerBridge
            return bridge.boot_native({**_CONFIG, **sizes}, model_name="induction")
        lens: Any = importlib.import_module("transformer_lens")
        config = {"device": "cpu", **_CONFIG, **sizes}
        return lens.HookedTransformer(lens.HookedTransformerConfig(**config))


def read_weights(model: Any) -> dict[str, Tensor]:
    """Return copies of the weights, under the names and in the shapes that HookedTransformer has."""
    found = {}
    for name, parameter in model.named_parameters():
        canonical, pattern = _canonical(name)
        value = rearrange(parameter.detach(), pattern, **_sizes(pattern))
        found[canonical] = value.clone(memory_format=torch.contiguous_format)
    return found


@torch.no_grad()
def write_weights(model: Any, weights: dict[str, Tensor]) -> None:
    """Put weights, as `read_weights` gives them, into a model; what they lack (a bias of the logits) is 0."""
    for name, parameter in model.named_parameters():
        canonical, pattern = _canonical(name)
        if canonical not in weights:
            parameter.zero_()
            continue
        left, right = pattern.split(" -> ")
        back = f"{right} -> {left}"
        parameter.copy_(rearrange(weights[canonical].float(), back, **_sizes(back)))


def _canonical(name: str) -> tuple[str, str]:
    """Return the HookedTransformer's name of a parameter, and how its axes get there."""
    plain = name.replace("._original_component", "")
    block, rest = "", plain
    if plain.startswith("layers."):
        _, number, rest = plain.split(".", 2)
        block = f"blocks.{number}."
    if rest not in _FROM_BRIDGE:
        return plain, "... -> ..."
    canonical, pattern = _FROM_BRIDGE[rest]
    return block + canonical, pattern


def _sizes(pattern: str) -> dict[str, int]:
    return {"h": N_HEADS} if "(h d)" in pattern else {}
