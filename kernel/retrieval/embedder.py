"""Texts to vectors of their meaning: the kernel's side of the embedder process.

Promises that every ``embed`` ends, with vectors or with ModelUnavailable: a batch whose process
died is tried once more; one that takes too long ends its process, as a death. It is started when
there is work, again after a death (backing off), and ended when it was idle for a while. Queries
go before passages. Nothing here computes or waits.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from aios.hw.embed.messages import Embed, EmbedderEvent, Ready, TextKind, Unusable, Vectors
from aios.kernel.loop.loop import Loop, Timer
from aios.kernel.loop.task import Outcome
from aios.syscalls.errors import AiosError, ModelUnavailable, ResourceExhausted

log = logging.getLogger("aios.embedder")

MOST_WAITING = 1024
BATCH_TEXTS = 16
BATCH_CHARS = 2000
"""A query waits for at most so much of passages: a page, about a second of an idle core, and ten of
one that others keep busy."""
IDLE_S = 60.0
PATIENCE_S = 120.0
"""A batch that takes longer is taken for hung. It is long: the embedder gives way to all others."""
MOST_TRIES = 2
MOST_DEATHS = 4
BACKOFF_S = 0.1
RETRY_FAILED_S = 30.0

Done = Callable[[Outcome[list[bytes]]], None]


class EmbedderProcess(Protocol):
    """A running embedder, as children.py makes it."""

    os_pid: int

    def send(self, command: Embed) -> None:
        """Send, never blocking."""

    def kill(self) -> None:
        """End it now; ``on_gone`` follows."""

    def end(self) -> str:
        """Make sure that it is gone; returns how it ended."""


Start = Callable[[Callable[[EmbedderEvent], None], Callable[[], None]], EmbedderProcess]
"""Start one; the callbacks get its events, and once the news that it is gone."""


@dataclass(eq=False)
class _Job:
    """Texts of one call; done in batches, in order."""

    texts: Sequence[str]
    kind: TextKind
    done: Done
    vectors: list[bytes]
    tries: int = 0


class Embedder:
    """The one shared embedder. ``start`` None: there is no model, and ``why`` says what to do."""

    def __init__(self, loop: Loop, start: Start | None, why: str = "") -> None:
        self._loop, self._start, self._why = loop, start, why
        self._process: EmbedderProcess | None = None
        self._ready = False
        self.model = ""
        self._queries: deque[_Job] = deque()
        self._passages: deque[_Job] = deque()
        self._current: _Job | None = None
        self._batch = 0
        self._deaths = 0
        """Of processes, since the last one that gave vectors."""
        self._failed_s = -RETRY_FAILED_S
        self._timer: Timer | None = None
        """Due when a batch has taken too long, when nothing was to be done for a while, or when
        it is time to start a process again; never more than one of these."""

    def embed(self, texts: Sequence[str], done: Done, *, kind: TextKind = "passage") -> None:
        """Vectors of length 1, float32 as bytes, one for each text. ``done`` is called later, in
        the kernel's thread, with ModelUnavailable or ResourceExhausted when there are none."""
        error = self.unavailable()
        waiting = self._queries if kind == "query" else self._passages
        if error is None and len(waiting) >= MOST_WAITING:
            error = ResourceExhausted(f"{len(waiting)} texts wait for the embedder", "try again")
        if error is not None or not texts:
            outcome: Outcome[list[bytes]] = Outcome(None if error else [], error)
            self._loop.at(0.0, lambda: done(outcome))
            return
        waiting.append(_Job(texts, kind, done, []))
        self._next()

    def unavailable(self) -> AiosError | None:
        """Why there are no vectors at present; None when there could be."""
        if self._start is None:
            return ModelUnavailable(f"there is no embedding model: {self._why}")
        if time.monotonic() - self._failed_s < RETRY_FAILED_S:
            return ModelUnavailable(f"the embedder does not work: {self._why}")
        return None

    @property
    def os_pid(self) -> int:
        """The process's host pid, 0 when there is none."""
        return self._process.os_pid if self._process else 0

    @property
    def described(self) -> str:
        """What it is and how it fares, in one line for people."""
        error = self.unavailable()
        if error:
            return error.message
        return f"{self.model} (pid {self.os_pid})" if self._ready else "starts when needed"

    def close(self) -> None:
        """End it; what waits fails."""
        self._start, self._why = None, "the kernel is shutting down"
        self._stop()
        self._fail_all()

    def _next(self) -> None:
        """Go on with what waits, if nothing is under way."""
        if self._current or not (self._queries or self._passages):
            return
        if self._process is None:
            if self._timer is None or self._deaths == 0:
                self._begin()
        elif self._ready:
            # a long job is done piece by piece: queries get in between
            self._current = (self._queries or self._passages)[0]
            self._batch += 1
            at = len(self._current.vectors)
            texts = _first(self._current.texts[at : at + BATCH_TEXTS])
            self._process.send(Embed(self._batch, self._current.kind, texts))
            self._wait(PATIENCE_S, self._hung)

    def _begin(self) -> None:
        if self._start is None:
            return
        self._ready = False
        try:
            self._process = self._start(self._on_event, self._on_gone)
        except OSError as error:
            self._give_up(f"it cannot be started: {error.strerror}")
        else:
            self._wait(PATIENCE_S, self._hung)

    def _on_event(self, event: EmbedderEvent) -> None:
        match event:
            case Ready():
                self._ready, self.model = True, event.model
                log.info("embedder %s: ready, %d dimensions", event.model, event.dimensions)
                self._wait(IDLE_S, self._stop)
                self._next()
            case Unusable():
                self._stop()
                self._give_up(event.reason)
            case Vectors() if event.batch == self._batch and self._current:
                self._take(self._current, event.vectors)

    def _take(self, job: _Job, vectors: list[bytes]) -> None:
        self._current, self._deaths, job.tries = None, 0, 0
        job.vectors += vectors
        self._wait(IDLE_S, self._stop)
        if len(job.vectors) == len(job.texts):
            self._drop(job)
            job.done(Outcome(job.vectors, None))
        self._next()

    def _on_gone(self) -> None:
        assert self._process
        how, self._process, self._ready = self._process.end(), None, False
        job, self._current = self._current, None
        self._deaths += 1
        log.error("embedder ended (%s)", how)
        if job:
            job.tries += 1
            if job.tries >= MOST_TRIES:
                self._drop(job)
                error = ModelUnavailable(f"the embedder died {job.tries} times at these texts")
                job.done(Outcome(None, error))
        if self._deaths >= MOST_DEATHS:
            self._give_up(f"it died {self._deaths} times ({how})")
        elif self._deaths == 1:
            self._cancel_timer()
            self._next_after_death()
        else:
            self._wait(BACKOFF_S * 2**self._deaths, self._next_after_death)

    def _next_after_death(self) -> None:
        if self._process is None and (self._queries or self._passages):
            self._begin()

    def _hung(self) -> None:
        if self._process:
            log.error("embedder does not answer for %g s", PATIENCE_S)
            self._process.kill()

    def _give_up(self, reason: str) -> None:
        self._why, self._failed_s, self._deaths = reason, time.monotonic(), 0
        self._cancel_timer()
        self._fail_all()

    def _fail_all(self) -> None:
        waiting = [*self._queries, *self._passages]
        self._queries.clear()
        self._passages.clear()
        self._current = None
        for job in waiting:
            job.done(Outcome(None, ModelUnavailable(f"the embedder does not work: {self._why}")))

    def _stop(self) -> None:
        """End the process; there is no work for it."""
        self._cancel_timer()
        process, self._process, self._ready = self._process, None, False
        if process:
            process.end()

    def _drop(self, job: _Job) -> None:
        (self._queries if job.kind == "query" else self._passages).remove(job)

    def _wait(self, after_s: float, callback: Callable[[], None]) -> None:
        self._cancel_timer()

        def due() -> None:
            self._timer = None
            callback()

        self._timer = self._loop.at(time.monotonic() + after_s, due)

    def _cancel_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None


def _first(texts: Sequence[str]) -> list[str]:
    """As many as make a batch; at least one."""
    sizes = itertools.accumulate(len(text) for text in texts)
    return [text for n, (text, size) in enumerate(zip(texts, sizes, strict=True))
            if n == 0 or size <= BATCH_CHARS]  # fmt: skip
