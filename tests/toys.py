"""Small real parts for unit tests: models, a tokenizer and checkpoints in the real formats."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tl_emergence.prompts.lists import LISTS

LENS_MAJOR = int(version("transformer-lens").split(".")[0])
MODEL_KINDS = [
    *(["bridge-RMS", "bridge-LN"] if LENS_MAJOR >= 3 else []),
    *(["hooked-RMS", "hooked-LN", "hooked-LNPre"] if LENS_MAJOR < 4 else []),
]
N_LAYERS, D_MODEL, VOCABULARY = 2, 16, 90

TOKENS = torch.tensor(
    [[5, 9, 7], [6, 9, 7], [5, 9, 8], [6, 9, 8], [7, 9, 5], [8, 9, 5], [7, 9, 6], [8, 9, 6]]
)
"""Eight prompts of three content tokens; the middle one is constant, prefixes are shared."""


def make_model(kind: str, *, dtype: torch.dtype = torch.float32, seed: int = 1, **changes: Any) -> Any:
    family, norm = kind.split("-")
    shape = {
        "n_layers": N_LAYERS,
        "d_model": D_MODEL,
        "n_ctx": 16,
        "d_head": 8,
        "n_heads": 2,
        "d_vocab": VOCABULARY,
        "d_mlp": 32,
        "act_fn": "gelu",
        "normalization_type": norm,
        "seed": seed,
        "initializer_range": 0.3,
        "default_prepend_bos": False,
        **changes,
    }
    if family == "bridge":
        from transformer_lens.model_bridge import TransformerBridge

        boot: Any = TransformerBridge.boot_native  # type: ignore[attr-defined]
        model: Any = boot(shape)
    else:
        lens: Any = importlib.import_module("transformer_lens")
        # Seeding the config seeds the global generator: a test toy must not do that to its neighbours.
        with torch.random.fork_rng(devices=[]):
            model = lens.HookedTransformer(lens.HookedTransformerConfig(**shape))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and "ln" in name and not name.endswith(("bias", ".b")):
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
    return (model if dtype == torch.float32 else model.to(dtype)).eval()


def save_tokenizer(folder: Path) -> Any:
    """Write a word-level tokenizer that knows the entity lists, and load it as users do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    words = ["<bos>", "<unk>", "x", ",", ".", ":", "\n", "Ċ", "Ġand", ";"]
    words += [f"Ġ{word}" for entities in LISTS.values() for word in entities]
    # "Ivory Coast" is two tokens, whatever stands before.
    words += ["ĠIvory", "ĠCoast"]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    raw.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<bos>", eos_token="<bos>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(str(folder))


def save_checkpoint(folder: Path, *, n_layers: int = N_LAYERS) -> Path:
    """Write a small Llama checkpoint with its tokenizer, in the format of real ones."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = save_tokenizer(folder)
    config = LlamaConfig(
        num_hidden_layers=n_layers,
        hidden_size=D_MODEL,
        intermediate_size=32,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return folder


def save_parallel_checkpoint(folder: Path) -> Path:
    """Write a small Pythia-like checkpoint: attention and MLP side by side in a block."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    tokenizer = save_tokenizer(folder)
    config = GPTNeoXConfig(
        num_hidden_layers=N_LAYERS,
        hidden_size=D_MODEL,
        intermediate_size=32,
        num_attention_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.3,
        use_parallel_residual=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPTNeoXForCausalLM(config)
    model.save_pretrained(folder)
    return folder


def make_post_norm_model(kind: str, tokenizer: Any) -> Any:
    """Return a small model with norms behind attention and MLP as well as before them, as Gemma 3 has."""
    if not kind.startswith("bridge"):
        return make_model(kind, use_normalization_before_and_after=True)
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        num_hidden_layers=N_LAYERS,
        hidden_size=D_MODEL,
        intermediate_size=32,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        pad_token_id=None,
        initializer_range=0.3,
    )
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = Gemma3ForCausalLM(config).eval()
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)
    model.config.architectures = ["Gemma3ForCausalLM"]
    boot: Any = TransformerBridge.boot_transformers
    return boot("google/gemma-3-270m", hf_model=model, tokenizer=tokenizer, device="cpu").eval()


def lens_knows(name: str) -> bool:
    """Whether this TransformerLens knows a model: 2.x goes by a list, later ones by architecture."""
    if LENS_MAJOR > 2:
        return True
    known = importlib.import_module("transformer_lens.loading_from_pretrained")  # gone from 4.x
    return name in known.OFFICIAL_MODEL_NAMES
