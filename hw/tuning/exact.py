"""Exactness: which settings give an agent the same tokens alone and together, on this machine.

Flash attention with q8_0 keys is bit-exact for many models, but not for all, and nobody can tell
without trying; f16 values beside such keys are read back faster. So a ladder of settings, fastest
first, is climbed by a self-test when a model is first loaded: sequences alone, then staggered in
shared batches, in other seats, saved, loaded and recomputed with another number of threads, must
give the same logits to the last bit. A model for which no rung passes is loaded with the last, and
says that it is not exact. Each verdict is kept by model, build, CPU, threads and seats (eight stand
for more).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec
import numpy as np

from aios.hw.engine.engine import Engine, EngineSettings, LoadError, Logits, Row, Rung, Tokens
from aios.hw.engine.fake import FakeEngine

from . import profile
from .candidate import score
from .measure import look
from .verdict import Finding, Verdict

log = logging.getLogger("aios.exact")

RUNGS = (
    Rung("q8_0/f16 KV, mixed batches", kv_type="q8_0/f16"),
    Rung("q8_0 KV, mixed batches"),
    Rung("q8_0 KV, prefill apart", mixed=False),
    Rung("q8_0 KV, prefill apart, no repacking", mixed=False, extra_buffers=False),
    Rung("one request at a time", mixed=False, extra_buffers=False, width=1),
)
UNTESTED = (Rung("f16 KV, mixed batches, untested", kv_type="f16"), *RUNGS[:2])
"""What the fastest is chosen from when exactness is off."""
_LENGTHS = (23, 90, 530, 5, 41, 12, 67, 8)
_CHUNK = 64
_GENERATED = 6


class _Fastest(msgspec.Struct, frozen=True):
    """Tokens/s of agents' mix, by the settings' names."""

    scores: dict[str, float]


def open_engine(settings: EngineSettings) -> Engine:
    """The model with the fastest settings that are exact, or, with exactness off, the fastest of
    all. Raises LoadError.

    A profile of ``aios model tune`` is in force when there is one: its file is loaded and its rung
    tried first. ``info.exact`` says whether the settings passed.
    """
    if settings.path == "fake" or settings.path.startswith("fake:"):
        return FakeEngine(settings)
    from aios.hw.engine import llama_lib

    device = llama_lib.device(settings.gpu_layers)
    tuned, problem = profile.look_up(settings, llama_lib.build(), device)
    if tuned:
        try:
            engine = _climb(profile.apply(settings, tuned), _ladder(tuned.rung))
        except LoadError as error:
            problem = str(error)
        else:
            text = f"{engine.info.description}; {profile.says(tuned)}"
            engine.declare(msgspec.structs.replace(engine.info, tuned=tuned, description=text))
            return engine
    engine = _climb(settings, RUNGS) if settings.exact else _fastest(settings)
    if problem:
        log.warning("%s: loaded as it is: %s", settings.path, problem)
        text = f"{engine.info.description}; not as tuned: {problem}"
        engine.declare(msgspec.structs.replace(engine.info, description=text))
    return engine


def _fastest(settings: EngineSettings) -> Engine:
    """The engine with the fastest settings of all, measured once and kept."""
    from aios.hw.engine.llama import LlamaEngine

    engine = LlamaEngine(settings, UNTESTED[0])
    file = Finding(settings, engine.info, "fastest", repr(UNTESTED))
    kept = file.read(_Fastest)
    if kept is None:
        scores = {engine.info.rung.name: score(look(engine))}
        for rung in UNTESTED[1:]:
            engine.close()
            engine = LlamaEngine(settings, rung)
            scores[rung.name] = score(look(engine))
        kept = _Fastest(scores)
        file.write(kept)
    rung = max(UNTESTED, key=lambda each: kept.scores.get(each.name, 0.0))
    if engine.info.rung != rung:
        engine.close()
        engine = LlamaEngine(settings, rung)
    return engine


def _ladder(first: Rung) -> tuple[Rung, ...]:
    """The rungs in the order to try them, beginning with the one that was chosen."""
    return (first, *(rung for rung in RUNGS if rung != first))


def _climb(settings: EngineSettings, ladder: Sequence[Rung]) -> Engine:
    """The engine with the first rung that passes; with the first, when exactness is off."""
    from aios.hw.engine.llama import LlamaEngine

    engine = LlamaEngine(settings, ladder[0])
    if not settings.exact:
        return engine
    for rung in ladder:
        known = Verdict(settings, engine.info, rung)
        if known.exact is False:
            continue
        if engine.info.rung != rung:
            engine.close()
            engine = LlamaEngine(settings, rung)
        if known.exact or passes(engine):
            known.keep(True)
            engine.declare(msgspec.structs.replace(engine.info, exact=True))
            return engine
        known.keep(False)
        log.info("%s: not exact with %s", settings.path, rung.name)
    return _inexact(engine, settings, ladder[-1])


def _inexact(engine: Engine, settings: EngineSettings, last: Rung) -> Engine:
    """No rung passes: the last, and said so."""
    from aios.hw.engine.llama import LlamaEngine

    if engine.info.rung != last:
        engine.close()
        engine = LlamaEngine(settings, last)
    log.warning("%s is not exact with any settings: a reply that was interrupted may differ from "
                "one that was not", settings.path)  # fmt: skip
    text = f"{engine.info.description}; not exact with any settings"
    engine.declare(msgspec.structs.replace(engine.info, description=text))
    return engine


def passes(engine: Engine) -> bool:
    """The self-test. Leaves all seats empty."""
    info = engine.info
    lengths = [min(n, info.context_tokens - _GENERATED - 2) for n in _LENGTHS][: info.seats]
    prompts = [_prompt(info.vocab_size, n, seed) for seed, n in enumerate(lengths)]
    alone = [_alone(engine, prompt) for prompt in prompts]
    together = _together(engine, prompts, [tokens for tokens, _ in alone])
    threads = info.threads
    engine.set_threads(1)
    recomputed = [_recomputed(engine, tokens) for tokens, _ in alone]
    engine.set_threads(threads)
    for seat in range(info.seats):
        engine.trim(seat, 0)
    return all(
        all(np.array_equal(a, b) for a, b in zip(solo, shared, strict=True))
        and np.array_equal(solo[-1], again)
        for (_, solo), shared, again in zip(alone, together, recomputed, strict=True)
    )


def _prompt(vocab_size: int, length: int, seed: int) -> Tokens:
    random = np.random.default_rng(seed)
    return random.integers(vocab_size // 8, vocab_size // 2, length).astype(np.int32)


def _alone(engine: Engine, prompt: Tokens) -> tuple[Tokens, list[Logits]]:
    """Prompt and greedy tokens, and the logits at each step, with the machine to itself."""
    engine.trim(0, 0)
    tokens, steps = prompt, []
    step = 2 * _CHUNK if engine.info.rung.mixed else _CHUNK
    logits = _prefill(engine, 0, tokens, step)
    for _ in range(_GENERATED):
        steps.append(logits)
        tokens = np.append(tokens, np.int32(logits.argmax()))
        logits = engine.decode([Row(0, len(tokens) - 1, tokens[-1:], True)])[0].copy()
    steps.append(logits)
    return tokens, steps


def _prefill(engine: Engine, seat: int, tokens: Tokens, step: int) -> Logits:
    for at in range(0, len(tokens), step):
        part = tokens[at : at + step]
        last = at + step >= len(tokens)
        out = engine.decode([Row(seat, at, part, last)])
    return out[seat].copy()


def _recomputed(engine: Engine, tokens: Tokens) -> Logits:
    """What a core that knows only the tokens comes to."""
    engine.trim(0, 0)
    return _prefill(engine, 0, tokens, _CHUNK)


def _together(engine: Engine, prompts: list[Tokens], expected: list[Tokens]) -> list[list[Logits]]:
    """The same sequences in other seats, staggered, in shared batches, moved half-way."""
    info = engine.info
    count = len(prompts)
    seats = [(index + 1) % info.seats for index in range(count)]
    for seat in range(info.seats):
        engine.trim(seat, 0)
    out: list[list[Logits]] = [[] for _ in range(count)]
    turn = 0
    while any(len(steps) <= _GENERATED for steps in out):
        turn += 1
        live = [i for i in range(count) if i < turn and len(out[i]) <= _GENERATED]
        batch = _batch(engine, [(i, seats[i], len(prompts[i]), expected[i]) for i in live], turn)
        logits = engine.decode([row for _, row in batch])
        for index, row in batch:
            if row.wants_logits:
                out[index].append(logits[row.seat].copy())
        if turn == 4 and info.restorable:
            _move_all(engine, seats)
    return out


def _batch(
    engine: Engine, live: list[tuple[int, int, int, Tokens]], turn: int
) -> list[tuple[int, Row]]:
    decode: list[tuple[int, Row]] = []
    prefill: list[tuple[int, Row]] = []
    for index, seat, prompt, tokens in live:
        at = engine.length(seat)
        if at < prompt:
            end = min(prompt, at + _CHUNK)
            prefill.append((index, Row(seat, at, tokens[at:end], end == prompt)))
        else:
            decode.append((index, Row(seat, at, tokens[at : at + 1], True)))
    if engine.info.rung.width == 1:
        return [*decode, *prefill][turn % (len(decode) + len(prefill)) :][:1]
    if engine.info.rung.mixed:
        return sorted([*decode, *prefill[:1]], key=lambda item: item[1].seat)
    chosen = decode if decode and (turn % 2 or not prefill) else prefill[:1]
    return sorted(chosen, key=lambda item: item[1].seat)


def _move_all(engine: Engine, seats: list[int]) -> None:
    """Save every sequence and load each into its neighbour's seat."""
    info = engine.info
    saved = []
    for seat in seats:
        length = engine.length(seat)
        room = bytearray(info.image_fixed_bytes + length * info.image_token_bytes)
        size = engine.save(seat, memoryview(room)) if length else 0
        saved.append((memoryview(room)[:size], length))
    seats[:] = seats[1:] + seats[:1]
    for seat, (image, length) in zip(seats, saved, strict=True):
        engine.trim(seat, 0)
        if length:
            engine.load(seat, image, length)
