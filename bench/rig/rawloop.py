"""A bare llama_decode loop with the core's settings: the baseline for everything above it.

A separate process that loads the model once. For each line of JSON on standard input it runs one
batch of generations and answers with a line of JSON.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path

from aios.hw.chat.chat import user_prompt
from aios.hw.engine.engine import EngineSettings, Row, Tokens
from aios.hw.engine.llama import LlamaEngine
from aios.hw.engine.llama_lib import lib, logits_at
from aios.hw.models import names
from aios.hw.tuning import exact_settings
from aios.hw.tuning.idle_work import find_settings


def main() -> None:
    """Serve standard input: ``python -m aios.bench.rig.rawloop SEATS [CACHE [tuned]]``."""
    settings = EngineSettings(
        path=names.resolve("default", Path()), seats=int(sys.argv[1]),
        cache_dir=sys.argv[2] if len(sys.argv) > 2 else None, look_up_tuned="tuned" in sys.argv,
    )  # fmt: skip
    if settings.cache_dir:
        find_settings(settings)
    engine = exact_settings.open_engine(settings)
    assert isinstance(engine, LlamaEngine)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        prompts = [user_prompt(engine, text) for text in order["prompts"]]
        start_s = time.perf_counter()
        tokens = _prefill(engine, prompts)
        filled_s = time.perf_counter()
        _generate(engine, tokens, order["tokens"])
        end_s = time.perf_counter()
        print(json.dumps({"decode_s": end_s - filled_s, "seconds": end_s - start_s}), flush=True)


def _prefill(engine: LlamaEngine, prompts: list[Tokens]) -> list[int]:
    """Compute the prompts in as few batches as hold them; return the first token of each."""
    first: dict[int, int] = {}
    rows: list[Row] = []
    room = engine.info.batch_tokens
    for seat in range(engine.info.seats):
        engine.trim(seat, 0)
    for seat, prompt in enumerate(prompts):
        if sum(len(row.tokens) for row in rows) + len(prompt) > room:
            first |= {s: int(logits.argmax()) for s, logits in engine.decode(rows).items()}
            rows = []
        rows.append(Row(seat, 0, prompt, True))
    first |= {s: int(logits.argmax()) for s, logits in engine.decode(rows).items()}
    return [first[seat] for seat in range(len(prompts))]


def _generate(engine: LlamaEngine, tokens: list[int], count: int) -> None:
    """Generate ``count`` tokens for each prompt, the first included, by llama_decode alone."""
    batch, context, vocab = engine._batch.struct, engine._context, engine.info.vocab_size
    positions = [engine.length(seat) for seat in range(len(tokens))]
    batch.n_tokens = len(tokens)
    for row in range(len(tokens)):
        batch.seq_id[row][0] = row
        batch.logits[row] = 1
    for _ in range(count - 1):
        for row, token in enumerate(tokens):
            batch.token[row], batch.pos[row] = token, positions[row]
        if lib.llama_decode(context, batch):
            raise RuntimeError("llama_decode failed")
        for row in range(len(tokens)):
            pointer = lib.llama_get_logits_ith(context, row)
            address = ctypes.cast(pointer, ctypes.c_void_p).value or 0
            tokens[row] = int(logits_at(address, vocab).argmax())
            positions[row] += 1
    engine._lengths[: len(tokens)] = positions


if __name__ == "__main__":
    main()
