"""The ladder of exactness: loading a model with the fastest settings that pass the self-test.

Flash attention with q8_0 keys is bit-exact for many models but not for all; only a test shows it.
So when a model is first loaded, the self-test (self_test.py) tries the rungs, fastest first, until
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
from .self_test import is_exact
from .speed import measure_speed
from .verdict_cache import Finding, Verdict, verdict

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
            others = [rung for rung in RUNGS if rung != tuned.rung]
            engine = _climb(profile.apply(settings, tuned), [tuned.rung, *others])
        except LoadError as error:
            problem = str(error)
        else:
            engine.declare(msgspec.structs.replace(engine.info, tuned=tuned))
            return _described(engine, profile.describe(tuned))
    engine = _climb(settings, RUNGS) if settings.exact else _fastest(settings)
    if problem:
        log.warning("%s: loaded as it is: %s", settings.path, problem)
        return _described(engine, f"not as tuned: {problem}")
    return engine


def _described(engine: Engine, text: str) -> Engine:
    """Append a text to the model's description."""
    text = f"{engine.info.description}; {text}"
    engine.declare(msgspec.structs.replace(engine.info, description=text))
    return engine


def _fastest(settings: EngineSettings) -> Engine:
    """Open the engine with the fastest settings of all; they are measured once and kept."""
    from aios.hw.engine.llama import LlamaEngine

    engine: Engine = LlamaEngine(settings, UNTESTED[0])
    kept = Finding(dict[str, float], settings, engine.info, "fastest", repr(UNTESTED))
    scores = kept.value or {}
    for rung in UNTESTED if kept.value is None else ():
        engine = _with_rung(engine, settings, rung)
        scores[rung.name] = score(measure_speed(engine))
    kept.keep(scores)
    rung = max(UNTESTED, key=lambda each: scores.get(each.name, 0.0))
    return _with_rung(engine, settings, rung)


def _with_rung(engine: Engine, settings: EngineSettings, rung: Rung) -> Engine:
    """Open the engine again if it has another rung."""
    from aios.hw.engine.llama import LlamaEngine

    if engine.info.rung == rung:
        return engine
    engine.close()
    return LlamaEngine(settings, rung)


def _climb(settings: EngineSettings, ladder: Sequence[Rung]) -> Engine:
    """Open the engine with the first rung that passes, or the first one if exactness is off."""
    from aios.hw.engine.llama import LlamaEngine

    engine: Engine = LlamaEngine(settings, ladder[0])
    if not settings.exact:
        return engine
    for rung in ladder:
        known = verdict(settings, engine.info, rung)
        if known.value and not known.value.exact:
            continue
        engine = _with_rung(engine, settings, rung)
        exact = known.value is not None or is_exact(engine)
        known.keep(Verdict(exact, rung.name))
        if exact:
            engine.declare(msgspec.structs.replace(engine.info, exact=True))
            return engine
        log.info("%s: not exact with %s", settings.path, rung.name)
    return _inexact(engine, settings, ladder[-1])


def _inexact(engine: Engine, settings: EngineSettings, last: Rung) -> Engine:
    """Open the engine with the last rung, since none passes, and say so."""
    engine = _with_rung(engine, settings, last)
    log.warning("%s is not exact with any settings: a reply that was interrupted may differ from "
                "an uninterrupted one", settings.path)  # fmt: skip
    return _described(engine, "not exact with any settings")
