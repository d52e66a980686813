"""A tiny Llama in the GGUF format, with its tokenizer: what a packaged model carries, but small."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.toys import D_MODEL, N_LAYERS

BYTES = [chr(number) for number in range(33, 127)]
TOKENS = ["<s>", "</s>", "<unk>", "Ġ", *BYTES, "Ġa", "ab"]
D_MLP = 32


def write_tiny_gguf(path: Path) -> Path:
    """Write the file and return its path."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_block_count(N_LAYERS)
    writer.add_embedding_length(D_MODEL)
    writer.add_feed_forward_length(D_MLP)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(D_MODEL // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["Ġ a", "a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(2)
    random = np.random.default_rng(0)
    square, wide, high = (D_MODEL, D_MODEL), (D_MLP, D_MODEL), (D_MODEL, D_MLP)
    shapes = {
        "token_embd": (len(TOKENS), D_MODEL),
        "output": (len(TOKENS), D_MODEL),
        "output_norm": (D_MODEL,),
    }
    for block in range(N_LAYERS):
        of_block = {
            "attn_norm": (D_MODEL,), "attn_q": square, "attn_k": square, "attn_v": square,
            "attn_output": square, "ffn_norm": (D_MODEL,), "ffn_gate": wide, "ffn_up": wide, "ffn_down": high,
        }  # fmt: skip
        shapes |= {f"blk.{block}.{name}": shape for name, shape in of_block.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
