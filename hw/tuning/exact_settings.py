"""The ladder of exactness: which settings a model is loaded with, given what is known of it.

Flash attention with q8_0 keys is bit-exact for many models but not for all; only a test shows it.
A model that is loaded runs at once: with the fastest rung that has passed the self-test, and until
one has, with SAFE, which is exact by construction. Nothing is tested here. idle_work.py tests the
other rungs while the model is idle; verdicts (verdict_cache.py) and the times of steps
(step_times.py) are kept. With exactness off, the rung that was measured to be the fastest is used.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from aios.hw.engine.engine import Engine, EngineSettings, LoadError, Rung, Tuned
from aios.hw.engine.fake import FakeEngine
from aios.hw.machine.cpu_use import OtherUse
from aios.hw.machine.threads import thread_counts
from aios.hw.models import model_files

from . import profile
from .draft_test import DRAFT_TOKENS
from .step_times import StepTimes, declare, estimate, step_times
from .thread_watch import fitting
from .verdict_cache import Finding, Subject, subject_of, verdict

log = logging.getLogger("aios.exact")

SAFE = Rung(
    "one request at a time, replayed", mixed=False, extra_buffers=False, width=1, replay=True
)
"""Exact by construction: every token is always computed in the same batch, alone."""
RUNGS = (
    Rung("q8_0/f16 KV, mixed batches", kv_type="q8_0/f16"),
    Rung("q8_0 KV, mixed batches"),
    Rung("q8_0 KV, no repacking", extra_buffers=False),
    Rung("q8_0 KV, prefill apart, pairs", mixed=False, extra_buffers=False, pairs=True),
    Rung("q8_0 KV, replayed", mixed=False, replay=True),
    Rung("q8_0 KV, replayed, 7 at a time, no repacking", mixed=False, extra_buffers=False, width=7,
         replay=True),
    Rung("q8_0 KV, replayed, 3 at a time", mixed=False, width=3, replay=True),
    SAFE,
)  # fmt: skip
UNTESTED = (RUNGS[0], Rung("f16 KV, mixed batches, untested", kv_type="f16"), RUNGS[1])
"""The settings to choose the fastest from when exactness is off; the first until they are measured.
"""


class Plan(NamedTuple):
    """How a model will be loaded."""

    settings: EngineSettings
    """The caller's, with the tuned choice applied."""
    subject: Subject
    ladder: tuple[Rung, ...]
    rung: Rung
    exact: bool
    threads: tuple[int, ...]
    """Thread counts worth trying, in descending order."""
    untested: int
    """Number of rungs of the ladder before ``rung``, or ``rung`` itself, without a verdict."""
    draft_tokens: int
    tuned: Tuned | None
    notes: tuple[str, ...]
    """Remarks for the model's description."""


def plan(settings: EngineSettings) -> Plan:
    """Decide how to load a model. Raises LoadError, OSError."""
    from aios.hw.engine import llama_lib

    problem = model_files.chat_problem(Path(settings.path))
    if problem:
        raise LoadError(problem)
    device = llama_lib.device(settings.gpu_layers)
    tuned, problem = profile.look_up(settings, llama_lib.build(), device)
    counts = thread_counts(settings.threads, tuned.threads if tuned else None)
    notes = [f"not as tuned: {problem}"] if problem else []
    ladder: tuple[Rung, ...] = RUNGS
    if tuned:
        settings = profile.apply(settings, tuned)
        ladder = (tuned.rung, *(rung for rung in RUNGS if rung != tuned.rung))
        notes.append(profile.describe(tuned))
    subject = subject_of(settings)
    before = settings.predecessor
    if before and before.model_hash == subject.model_hash:
        rung, exact, untested = before.rung, before.exact, before.untested
    elif settings.exact:
        rung, exact, untested = _best_known(settings, subject, ladder)
    else:
        rung, exact, untested = _fastest_known(settings, subject, tuned)
    if settings.exact and not exact:
        notes.append("not exact with any settings")
    drafts = _draft_tokens(settings, subject, rung)
    return Plan(settings, subject, ladder, rung, exact, tuple(counts), untested, drafts, tuned,
                tuple(notes))  # fmt: skip


def _draft_tokens(settings: EngineSettings, subject: Subject, rung: Rung) -> int:
    """Return the limit on drafts: what the self-test allowed; all if exactness is off."""
    if not settings.drafts:
        return 0
    if not settings.exact:
        return DRAFT_TOKENS
    known = verdict(settings.cache_dir, subject, rung).value
    return known.draft_tokens if known else 0


def _best_known(
    settings: EngineSettings, subject: Subject, ladder: Sequence[Rung]
) -> tuple[Rung, bool, int]:
    """Return the fastest rung that is known to be exact, else SAFE; True unless SAFE failed, too;
    and the number of rungs that are still to be tested."""
    untested = 0
    for rung in ladder:
        known = verdict(settings.cache_dir, subject, rung).value
        if known is None:
            untested += 1
        elif known.exact:
            return rung, True, untested
    failed = verdict(settings.cache_dir, subject, SAFE).value
    return SAFE, failed is None, untested if settings.cache_dir else 0


def fastest(settings: EngineSettings, subject: Subject) -> Finding[dict[str, float]]:
    """Look up the measured tokens/s of each of UNTESTED, by name."""
    return Finding(dict[str, float], settings.cache_dir, subject, "fastest", repr(UNTESTED))


def _fastest_known(
    settings: EngineSettings, subject: Subject, tuned: Tuned | None
) -> tuple[Rung, bool, int]:
    if tuned:
        return tuned.rung, False, 0
    scores = fastest(settings, subject).value
    if scores is None:
        return UNTESTED[0], False, len(UNTESTED) if settings.cache_dir else 0
    return max(UNTESTED, key=lambda each: scores.get(each.name, 0.0)), False, 0


def kept_times(chosen: Plan) -> Finding[StepTimes]:
    """Look up the times of steps that were measured with a plan's settings."""
    return step_times(
        chosen.settings.cache_dir, chosen.subject, chosen.rung, chosen.settings.seats,
        chosen.threads,
    )  # fmt: skip


def open_engine(settings: EngineSettings) -> Engine:
    """Load the model as planned, without testing or measuring anything.

    Applies the profile of ``aios model tune`` if there is one; if its file cannot be loaded, the
    original is. Raises LoadError.
    """
    if settings.path == "fake" or settings.path.startswith("fake:"):
        return FakeEngine(settings)
    try:
        chosen = plan(settings)
    except OSError as error:
        raise LoadError(f"cannot read {settings.path}: {error.strerror or error}") from None
    try:
        return _opened(chosen)
    except LoadError as error:
        if not chosen.tuned:
            raise
        plain = msgspec.structs.replace(settings, look_up_tuned=False, predecessor=None)
        chosen = plan(plain)
        return _opened(chosen._replace(notes=(*chosen.notes, f"not as tuned: {error}")))


def _opened(chosen: Plan) -> Engine:
    from aios.hw.engine.llama import LlamaEngine

    use = OtherUse()
    engine = LlamaEngine(chosen.settings, chosen.rung)
    times = kept_times(chosen).value
    fit = fitting(chosen.threads, len(use.cpus), use.ask())
    threads = min(chosen.subject.threads, fit[0])
    declare(engine, times or estimate(engine, threads))
    for note in chosen.notes:
        if note.startswith("not "):
            log.warning("%s: %s", chosen.settings.path, note)
    engine.declare(msgspec.structs.replace(
        engine.info, exact=chosen.exact, untested=chosen.untested, tuned=chosen.tuned,
        draft_tokens=chosen.draft_tokens,
        estimated=times is None and chosen.settings.cache_dir is not None,
        description="; ".join([engine.info.description, *chosen.notes]),
    ))  # fmt: skip
    return engine
