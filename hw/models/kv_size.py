"""The size of a model's KV cache and buffers, computed from its header, before anything is loaded.

An upper bound where the header does not say enough. Pure.
"""

from __future__ import annotations

from typing import NamedTuple

from .gguf_header import Header, Scalar

_SLIDING_PERIOD = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "cohere2": 4, "exaone4": 4,
}  # fmt: skip
"""Architectures in which all layers but each n-th look back over the sliding window alone, unless
their header says which."""
_PAD_CELLS = 256


class KvShape(NamedTuple):
    """Elements of one token's keys and values: in layers that see the whole context, and in those
    that see ``sliding_tokens``."""

    keys: int
    values: int
    sliding_keys: int
    sliding_values: int
    sliding_tokens: int

    def size_bytes(self, window: int, ubatch: int, key_size: float, value_size: float) -> int:
        """Return the size of one seat's cache; ``key_size`` and ``value_size`` in bytes."""
        token = self.keys * key_size + self.values * value_size
        sliding = self.sliding_keys * key_size + self.sliding_values * value_size
        held = min(window, _padded(self.sliding_tokens + ubatch))
        return int(_padded(window) * token + _padded(held) * sliding)


def kv_shape(header: Header) -> KvShape:
    """Return the shape of a model's cache."""
    arch = header.architecture
    layers = header.number(f"{arch}.block_count")
    heads = header.numbers(f"{arch}.attention.head_count", layers, 0)
    kv_heads = header.numbers(f"{arch}.attention.head_count_kv", layers, max(heads, default=0))
    usual = header.number(f"{arch}.embedding_length") // max(1, max(heads, default=1))
    key = header.number(f"{arch}.attention.key_length", usual)
    value = header.number(f"{arch}.attention.value_length", usual)
    sliding_key = header.number(f"{arch}.attention.key_length_swa", key)
    sliding_value = header.number(f"{arch}.attention.value_length_swa", value)
    keys, values = [0, 0], [0, 0]
    with_cache = layers - header.number(f"{arch}.attention.shared_kv_layers")
    for layer, sliding in enumerate(_sliding_layers(header, layers)[:with_cache]):
        keys[sliding] += kv_heads[layer] * (sliding_key if sliding else key)
        values[sliding] += kv_heads[layer] * (sliding_value if sliding else value)
    window = header.number(f"{arch}.attention.sliding_window")
    return KvShape(keys[0], values[0], keys[1], values[1], window)


def buffer_bytes(header: Header, ubatch: int, seats: int) -> int:
    """Estimate what llama.cpp reserves besides weights and KV: logits and layers of a batch."""
    arch = header.architecture
    vocabulary = header.lengths.get("tokenizer.ggml.tokens", 0)
    embedding = header.number(f"{arch}.embedding_length")
    forward = max(header.numbers(f"{arch}.feed_forward_length", 1, 4 * embedding))
    return 4 * (vocabulary * (ubatch + seats) + ubatch * (2 * forward + 6 * embedding))


def _sliding_layers(header: Header, layers: int) -> list[bool]:
    """Return, for each layer, if it has a sliding window."""
    arch = header.architecture
    if not header.number(f"{arch}.attention.sliding_window"):
        return [False] * layers
    pattern: int | float | bool | str | list[Scalar] = header.values.get(
        f"{arch}.attention.sliding_window_pattern", _SLIDING_PERIOD.get(arch, 1)
    )
    if isinstance(pattern, list):
        return [
            bool(pattern[layer % len(pattern)]) if pattern else False for layer in range(layers)
        ]
    period = pattern if isinstance(pattern, int) else 1
    return [bool(period) and layer % period < period - 1 for layer in range(layers)]


def _padded(tokens: int) -> int:
    return -(-tokens // _PAD_CELLS) * _PAD_CELLS
