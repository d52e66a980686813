"""Small checkpoints of many architectures, and the names of their parts in transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from tests import toys

VOCABULARY, WIDTH, N_LAYERS, N_HEADS = 48, 32, 3, 4
BOS = 0

_SHARED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "max_position_embeddings": 64,
    "initializer_range": 0.25,
    "bos_token_id": BOS,
    "eos_token_id": BOS,
    "pad_token_id": None,
}
_GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": WIDTH,
    "n_layer": N_LAYERS,
    "n_head": N_HEADS,
    "n_positions": 64,
    "initializer_range": 0.25,
    "bos_token_id": BOS,
    "eos_token_id": BOS,
}
_OPT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "ffn_dim": 48,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "max_position_embeddings": 64,
    "init_std": 0.25,
    "word_embed_proj_dim": WIDTH,
    "bos_token_id": BOS,
    "eos_token_id": BOS,
    "pad_token_id": 1,
}
_GEMMA: dict[str, Any] = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4}
_GEMMA4: dict[str, Any] = {
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "global_head_dim": 8,
    "sliding_window": 4,
    "num_kv_shared_layers": 1,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
}


@dataclass(frozen=True)
class Family:
    """An architecture, and the names of its parts in transformers.

    Attributes:
        name: What the README calls it.
        config: The name of its config class.
        options: What its config differs in from the others.
        blocks: The path of the list of blocks.
        projection: In a block, the module that the outputs of the heads go into, side by side.
        written: In a block, the module whose output the MLP adds to the stream.
        first_norm: In a block, the norm that reads the stream first; empty where none does (OLMo 2).
        final_norm: The path of the last norm.
    """

    name: str
    config: str
    options: dict[str, Any]
    blocks: str = "model.layers"
    projection: str = "self_attn.o_proj"
    written: str = "mlp"
    first_norm: str = "input_layernorm"
    final_norm: str = "model.norm"

    def make_config(self) -> Any:
        shared = _SHARED if self.config[:4] not in ("GPT2", "GPTB", "OPTC") else {}
        return getattr(transformers, self.config)(**{**shared, **self.options})


_GPT2_PARTS: dict[str, Any] = {
    "blocks": "transformer.h",
    "projection": "attn.c_proj",
    "first_norm": "ln_1",
    "final_norm": "transformer.ln_f",
}
_NEOX_PARTS: dict[str, Any] = {
    "blocks": "gpt_neox.layers",
    "projection": "attention.dense",
    "final_norm": "gpt_neox.final_layer_norm",
}
_MIXTRAL = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}
_NEO_ATTENTION = {"attention_types": [[["global", "local", "global"], 1]]}
_BEHIND = "post_feedforward_layernorm"

FAMILIES = {
    family.name: family
    for family in (
        Family("GPT-2", "GPT2Config", _GPT2, **_GPT2_PARTS),
        Family(
            "GPT-Neo",
            "GPTNeoConfig",
            {"num_layers": N_LAYERS, "num_heads": N_HEADS, **_NEO_ATTENTION},
            **{**_GPT2_PARTS, "projection": "attn.attention.out_proj"},
        ),
        Family("GPT-BigCode", "GPTBigCodeConfig", {**_GPT2, "multi_query": True}, **_GPT2_PARTS),
        Family("Llama", "LlamaConfig", {"num_key_value_heads": 2}),
        Family("Mistral", "MistralConfig", {"num_key_value_heads": 2, "sliding_window": 4}),
        Family("Qwen 2", "Qwen2Config", {"num_key_value_heads": 2}),
        Family("Qwen 3", "Qwen3Config", {"num_key_value_heads": 2, "head_dim": 16}),
        Family("Gemma 1", "GemmaConfig", {"num_key_value_heads": 1, "head_dim": 8}),
        Family(
            "Gemma 2",
            "Gemma2Config",
            {
                **_GEMMA,
                "num_key_value_heads": 2,
                "attn_logit_softcapping": 5.0,
                "final_logit_softcapping": 3.0,
            },
            written=_BEHIND,
        ),
        Family("Gemma 3", "Gemma3TextConfig", {**_GEMMA, "num_key_value_heads": 1}, written=_BEHIND),
        Family("Gemma 4", "Gemma4TextConfig", _GEMMA4, written=_BEHIND),
        Family("GPT-NeoX, sequential", "GPTNeoXConfig", {"use_parallel_residual": False}, **_NEOX_PARTS),
        Family("GPT-NeoX, parallel", "GPTNeoXConfig", {"use_parallel_residual": True}, **_NEOX_PARTS),
        Family("Phi", "PhiConfig", {}, projection="self_attn.dense", final_norm="model.final_layernorm"),
        Family("OLMo 2", "Olmo2Config", {"num_key_value_heads": 2}, written=_BEHIND, first_norm=""),
        Family(
            "BLOOM",
            "BloomConfig",
            {"n_layer": N_LAYERS, "n_head": N_HEADS, "pad_token_id": 1},
            blocks="transformer.h",
            projection="self_attention.dense",
            written="mlp.dense_4h_to_h",
            final_norm="transformer.ln_f",
        ),
        Family(
            "OPT",
            "OPTConfig",
            _OPT,
            blocks="model.decoder.layers",
            projection="self_attn.out_proj",
            written="fc2",
            first_norm="self_attn_layer_norm",
            final_norm="model.decoder.final_layer_norm",
        ),
        Family(
            "Mixtral",
            "MixtralConfig",
            {"num_key_value_heads": 2, **_MIXTRAL},
            written="mlp" if toys.LENS_MAJOR > 2 else "block_sparse_moe",
        ),
    )
}


def save_family(family: Family, folder: Path) -> Path:
    """Write a checkpoint with random weights, gains and biases, with a tokenizer whose BOS is token 0."""
    from transformers import AutoModelForCausalLM

    toys.save_tokenizer(folder)
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(family.make_config())
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and ("norm" in name or "ln" in name) and name.endswith("weight"):
                parameter.add_(0.5 * torch.rand(parameter.shape, generator=generator) - 0.25)
            elif parameter.ndim == 1 and name.endswith("bias"):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return folder
