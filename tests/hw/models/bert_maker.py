"""A tiny BERT with random weights, as a GGUF file that llama.cpp can run."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁the", "▁cat", "▁sat", "▁dog", "▁ran", "▁down", "s"]
LAYERS, WIDTH, FORWARD, WINDOW = 2, 32, 64, 64


def write_bert(path: Path) -> Path:
    """Write the model."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("tiny bert")
    writer.add_context_length(WINDOW)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FORWARD)
    writer.add_head_count(4)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(0)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(WORDS)
    writer.add_token_scores([-1.0] * len(WORDS))
    writer.add_token_types([3, 2, 3, 3] + [1] * (len(WORDS) - 4))
    writer.add_token_type_count(2)
    for add, token in ((writer.add_pad_token_id, 0), (writer.add_unk_token_id, 1),
                       (writer.add_bos_token_id, 2), (writer.add_eos_token_id, 3),
                       (writer.add_sep_token_id, 3), (writer.add_mask_token_id, 1)):  # fmt: skip
        add(token)
    random = np.random.default_rng(7)
    shapes = {
        "token_embd.weight": (len(WORDS), WIDTH), "token_types.weight": (2, WIDTH),
        "position_embd.weight": (WINDOW, WIDTH), "token_embd_norm.weight": (WIDTH,),
        "token_embd_norm.bias": (WIDTH,),
    }  # fmt: skip
    for layer in range(LAYERS):
        start = f"blk.{layer}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes |= {f"{start}.{part}.weight": (WIDTH, WIDTH), f"{start}.{part}.bias": (WIDTH,)}
        for part in ("attn_output_norm", "layer_output_norm"):
            shapes |= {f"{start}.{part}.weight": (WIDTH,), f"{start}.{part}.bias": (WIDTH,)}
        shapes |= {
            f"{start}.ffn_up.weight": (FORWARD, WIDTH), f"{start}.ffn_up.bias": (FORWARD,),
            f"{start}.ffn_down.weight": (WIDTH, FORWARD), f"{start}.ffn_down.bias": (WIDTH,),
        }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(name, random.standard_normal(shape, np.float32) * 0.3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
