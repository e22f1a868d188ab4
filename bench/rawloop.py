"""A bare llama_decode loop with the core's settings: the yardstick for everything above it.

A process of its own, loaded once: for each line of JSON on its standard input it runs one batch of
generations and answers with a line of JSON.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path

from aios.hw import exact, models
from aios.hw.engine import EngineSettings, Message, Row
from aios.hw.llama import LlamaEngine, lib, logits_at


def main() -> None:
    """``python -m aios.bench.rawloop SEATS``."""
    settings = EngineSettings(
        path=models.resolve("default", Path()), seats=int(sys.argv[1]),
        cache_dir=sys.argv[2] if len(sys.argv) > 2 else None,
    )  # fmt: skip
    engine = exact.open_engine(settings)
    assert isinstance(engine, LlamaEngine)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        seconds = _generate(engine, order["prompt"], order["tokens"])
        print(json.dumps({"tokens_per_s": (order["tokens"] - 1) / seconds}), flush=True)


def _generate(engine: LlamaEngine, prompt: str, count: int) -> float:
    """Seconds from the first token to the last, greedy, without anything but llama_decode."""
    engine.trim(0, 0)
    tokens = engine.tokenize_chat([Message("user", prompt)])
    logits = engine.decode([Row(0, 0, tokens, True)])[0]
    batch, context, vocab = engine._batch.struct, engine._context, engine.info.vocab_size
    token, position = int(logits.argmax()), len(tokens)
    batch.n_tokens = 1
    batch.seq_id[0][0] = 0
    batch.logits[0] = 1
    start = time.perf_counter()
    for _ in range(count - 1):
        batch.token[0], batch.pos[0] = token, position
        if lib.llama_decode(context, batch):
            raise RuntimeError("llama_decode failed")
        pointer = lib.llama_get_logits_ith(context, 0)
        address = ctypes.cast(pointer, ctypes.c_void_p).value or 0
        token, position = int(logits_at(address, vocab).argmax()), position + 1
    seconds = time.perf_counter() - start
    engine._lengths[0] = position
    return seconds


if __name__ == "__main__":
    main()
