"""The window that memory allows, from headers of several architectures."""

from __future__ import annotations

from pathlib import Path

import pytest

from aios.hw.engine import window
from aios.hw.engine.engine import EngineSettings, LoadError
from aios.hw.engine.window import choose_window
from aios.hw.models import model_files
from aios.hw.models.gguf_header import Header
from aios.hw.models.kv_size import kv_shape
from aios.hw.models.names import resolve
from tests.hw.models.gguf_maker import write

MIB = 1 << 20


def _header(path: Path, arch: str = "llama", **numbers: int) -> Header:
    given = {
        "block_count": 12, "embedding_length": 1024, "attention.head_count": 16,
        "attention.head_count_kv": 4, "feed_forward_length": 2048,
    }  # fmt: skip
    given |= {key.replace("__", "."): value for key, value in numbers.items()}
    made = write(path / f"{arch}{len(numbers)}.gguf", arch=arch,
                 numbers={f"{arch}.{key}": value for key, value in given.items()})  # fmt: skip
    return model_files.check(made)


def test_the_real_head_size_counts(tmp_path: Path) -> None:
    plain = kv_shape(_header(tmp_path))
    assert (plain.keys, plain.values) == (12 * 4 * 64, 12 * 4 * 64)
    wide = kv_shape(_header(tmp_path, "qwen3", attention__key_length=128,
                            attention__value_length=96))  # fmt: skip
    assert (wide.keys, wide.values) == (12 * 4 * 128, 12 * 4 * 96)


def test_layers_with_a_sliding_window_hold_less(tmp_path: Path) -> None:
    gemma = kv_shape(_header(tmp_path, "gemma3", attention__sliding_window=512))
    assert (gemma.keys, gemma.sliding_keys) == (2 * 256, 10 * 256)
    whole = kv_shape(_header(tmp_path, "gemma3")).size_bytes(8192, 512, 2, 2)
    assert gemma.size_bytes(8192, 512, 2, 2) < whole / 3
    assert gemma.size_bytes(256, 512, 2, 2) == 256 * 12 * 256 * 4
    odd = kv_shape(_header(tmp_path, "unheard", attention__sliding_window=512))
    assert odd.sliding_keys == 0, "an upper bound"
    told = kv_shape(_header(tmp_path, "unheard", attention__sliding_window=512,
                            attention__sliding_window_pattern=2))  # fmt: skip
    assert told.keys == told.sliding_keys


def test_layers_without_attention_hold_nothing(tmp_path: Path) -> None:
    mamba = kv_shape(_header(tmp_path, "mamba", attention__head_count=0,
                             attention__head_count_kv=0))  # fmt: skip
    assert mamba.size_bytes(4096, 512, 2, 2) == 0


def _choose(header: Header, **settings: int) -> window.Window:
    made = EngineSettings(path=str(header.path), seats=4, **settings)  # type: ignore[arg-type]
    return choose_window(header, made, "f16")


def test_the_window_is_made_to_fit_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = _header(tmp_path)
    token = 12 * 4 * 64 * 2 * 2
    assert _choose(header).tokens == 4096
    fixed = _choose(header, context_tokens=256).memory_bytes - 4 * 256 * token
    some = _choose(header, memory_bytes=fixed + 4 * 1024 * token)
    assert some.tokens == 1024 and some.memory_bytes == fixed + 4 * 1024 * token
    assert _choose(header, memory_bytes=fixed + 4 * 1024 * token - 1).tokens == 768
    with pytest.raises(LoadError, match=r"needs .* MiB: .*--memory is .* raise it, use fewer --s"):
        _choose(header, memory_bytes=fixed)
    with pytest.raises(LoadError, match="4 seats of 2048 tokens"):
        _choose(header, memory_bytes=fixed + 4 * 1024 * token, context_tokens=2048)
    with pytest.raises(LoadError, match="exceeds the 4096 tokens"):
        _choose(header, context_tokens=8192)
    assert _choose(header, window_limit=512).tokens == 512
    monkeypatch.setattr(window, "memory_bytes", lambda: 4 * 4 * 512 * token)
    assert _choose(header).tokens == 512, "a quarter of what the machine has"


@pytest.mark.real
def test_the_computed_size_is_the_real_one() -> None:
    from aios.hw.engine.llama import LlamaEngine
    from aios.hw.tuning.exact_settings import RUNGS

    path = resolve("default", Path())
    engine = LlamaEngine(EngineSettings(path=path, seats=1, context_tokens=256), RUNGS[0])
    shape = kv_shape(model_files.check(Path(path)))
    token = shape.size_bytes(256, 512, 34 / 32, 2) / 256
    assert token <= engine.info.image_token_bytes <= token * 1.01
    engine.close()
