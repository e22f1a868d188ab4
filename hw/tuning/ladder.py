"""The ladder of exactness: loading a model with the fastest settings that pass the self-test.

Flash attention with q8_0 keys is bit-exact for many models but not for all; only a test shows it.
So when a model is first loaded, the self-test (exactness.py) tries the rungs, fastest first, until
one passes. If none does, the model runs with the last one and its description says so. Verdicts
are cached (verdict_cache.py). With exactness off, the fastest of a few settings is measured and
chosen.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from aios.hw.engine.engine import Engine, EngineSettings, LoadError, Rung
from aios.hw.engine.fake import FakeEngine

from . import profile
from .candidate import score
from .exactness import is_exact
from .speed import measure_speed
from .verdict_cache import Finding, Verdict

log = logging.getLogger("aios.exact")

RUNGS = (
    Rung("q8_0/f16 KV, mixed batches", kv_type="q8_0/f16"),
    Rung("q8_0 KV, mixed batches"),
    Rung("q8_0 KV, prefill apart", mixed=False),
    Rung("q8_0 KV, prefill apart, no repacking", mixed=False, extra_buffers=False),
    Rung("one request at a time", mixed=False, extra_buffers=False, width=1),
)
UNTESTED = (Rung("f16 KV, mixed batches, untested", kv_type="f16"), *RUNGS[:2])
"""The settings to choose the fastest from when exactness is off."""


class _Fastest(msgspec.Struct, frozen=True):
    """Tokens/s of agents' mix, by rung name."""

    scores: dict[str, float]


def open_engine(settings: EngineSettings) -> Engine:
    """Load the model with the fastest exact settings, or the fastest of all if exactness is off.

    Applies the profile of ``aios model tune`` if there is one: loads its file and tries its rung
    first. ``info.exact`` says if the settings passed the self-test. Raises LoadError.
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
            text = f"{engine.info.description}; {profile.describe(tuned)}"
            engine.declare(msgspec.structs.replace(engine.info, tuned=tuned, description=text))
            return engine
    engine = _climb(settings, RUNGS) if settings.exact else _fastest(settings)
    if problem:
        log.warning("%s: loaded as it is: %s", settings.path, problem)
        text = f"{engine.info.description}; not as tuned: {problem}"
        engine.declare(msgspec.structs.replace(engine.info, description=text))
    return engine


def _fastest(settings: EngineSettings) -> Engine:
    """Open the engine with the fastest settings of all; they are measured once and kept."""
    from aios.hw.engine.llama import LlamaEngine

    engine = LlamaEngine(settings, UNTESTED[0])
    file = Finding(settings, engine.info, "fastest", repr(UNTESTED))
    kept = file.read(_Fastest)
    if kept is None:
        scores = {engine.info.rung.name: score(measure_speed(engine))}
        for rung in UNTESTED[1:]:
            engine.close()
            engine = LlamaEngine(settings, rung)
            scores[rung.name] = score(measure_speed(engine))
        kept = _Fastest(scores)
        file.write(kept)
    rung = max(UNTESTED, key=lambda each: kept.scores.get(each.name, 0.0))
    if engine.info.rung != rung:
        engine.close()
        engine = LlamaEngine(settings, rung)
    return engine


def _ladder(first: Rung) -> tuple[Rung, ...]:
    """Return the rungs in the order to try them, the tuned one first."""
    return (first, *(rung for rung in RUNGS if rung != first))


def _climb(settings: EngineSettings, ladder: Sequence[Rung]) -> Engine:
    """Open the engine with the first rung that passes, or the first one if exactness is off."""
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
        if known.exact or is_exact(engine):
            known.keep(True)
            engine.declare(msgspec.structs.replace(engine.info, exact=True))
            return engine
        known.keep(False)
        log.info("%s: not exact with %s", settings.path, rung.name)
    return _inexact(engine, settings, ladder[-1])


def _inexact(engine: Engine, settings: EngineSettings, last: Rung) -> Engine:
    """Open the engine with the last rung, since none passes, and say so."""
    from aios.hw.engine.llama import LlamaEngine

    if engine.info.rung != last:
        engine.close()
        engine = LlamaEngine(settings, last)
    log.warning("%s is not exact with any settings: a reply that was interrupted may differ from "
                "an uninterrupted one", settings.path)  # fmt: skip
    text = f"{engine.info.description}; not exact with any settings"
    engine.declare(msgspec.structs.replace(engine.info, description=text))
    return engine
