"""Texts to vectors of their meaning: the kernel's side of the embedder process.

Promises that every ``embed`` ends, with vectors or with ModelUnavailable. A batch whose process
died is tried once more; a process whose batch takes too long is killed. The process starts when
there is work and ends when it was idle for a while. Queries go before passages. Nothing here
computes or waits.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aios.hw.embed.messages import Embed, EmbedderEvent, Ready, TextKind, Unusable, Vectors
from aios.kernel.loop.loop import Loop, Timer
from aios.kernel.loop.respawn import Respawn
from aios.kernel.loop.task import Promise
from aios.syscalls.errors import AiosError, ModelUnavailable, ResourceExhausted

log = logging.getLogger("aios.embedder")

MAX_WAITING = 1024
"""Limit on waiting calls, of queries and of passages."""
BATCH_TEXTS = 16
BATCH_CHARS = 2000
"""Limits on one batch. A query waits for one batch of passages at most: about a second on an idle
core, ten on a busy one."""
IDLE_S = 60.0
PATIENCE_S = 120.0
"""Time after which a batch counts as hung. It is long because the embedder has the lowest
priority."""
MAX_TRIES = 2
MAX_DEATHS = 4
"""Deaths in a row, without vectors in between, after which the embedder is given up."""
RETRY_FAILED_S = 30.0
"""Time after which an embedder that was given up is started again."""


class EmbedderProcess(Protocol):
    """A running embedder, as children.py makes it."""

    os_pid: int

    def send(self, command: Embed) -> None:
        """Send, never blocking."""

    def kill(self) -> None:
        """End it now; ``on_gone`` follows."""

    def end(self) -> str:
        """Make sure that it is gone; return how it ended."""


Start = Callable[[Callable[[EmbedderEvent], None], Callable[[], None]], EmbedderProcess]
"""Start a process. The callbacks get its events, and once the news that it is gone."""


@dataclass(eq=False)
class _Job:
    """The texts of one call; done in batches, in order."""

    texts: Sequence[str]
    kind: TextKind
    promise: Promise[list[bytes]]
    vectors: list[bytes] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
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
        self._respawn = Respawn(loop, self._next, MAX_DEATHS)
        self._usable_s = 0.0
        """Time from which on an embedder that was given up may be tried again."""
        self._timer: Timer | None = None
        """Due when the process hangs, or was idle for long enough."""

    def embed(
        self, texts: Sequence[str], kind: TextKind = "passage", cut: list[int] | None = None
    ) -> Promise[list[bytes]]:
        """Return one vector for each text: float32 values of length 1, as bytes. ``cut`` gets the
        positions of texts that are too long to be read to their end. The promise is rejected with
        ModelUnavailable or ResourceExhausted."""
        promise: Promise[list[bytes]] = Promise()
        waiting = self._queries if kind == "query" else self._passages
        if error := self.unavailable():
            promise.reject(error)
        elif len(waiting) >= MAX_WAITING:
            promise.reject(ResourceExhausted(
                f"{len(waiting)} calls wait for the embedder; the limit is {MAX_WAITING}",
                "try again later",
            ))  # fmt: skip
        elif not texts:
            promise.resolve([])
        else:
            waiting.append(_Job(texts, kind, promise, cut=[] if cut is None else cut))
            self._next()
        return promise

    def unavailable(self) -> AiosError | None:
        """Return why there are no vectors at present; None when there could be."""
        if self._start is None:
            return ModelUnavailable(f"there is no embedding model: {self._why}")
        if self._loop.now() < self._usable_s:
            return ModelUnavailable(f"the embedder does not work: {self._why}")
        return None

    @property
    def os_pid(self) -> int:
        """The process's host pid, 0 when there is none."""
        return self._process.os_pid if self._process else 0

    @property
    def described(self) -> str:
        """Its model and state, in one line for people."""
        error = self.unavailable()
        if error:
            return error.message
        return f"{self.model} (pid {self.os_pid})" if self._ready else "starts when needed"

    def close(self) -> None:
        """End it. Waiting calls fail."""
        self._start, self._why = None, "the kernel is shutting down"
        self._stop()
        self._fail_all()

    def _next(self) -> None:
        """Send the next batch, or start the process for it; nothing while one is under way."""
        if self._current or not (self._queries or self._passages):
            return
        if self._process is None:
            if not self._respawn.waiting:
                self._begin()
        elif self._ready:
            # a long job is done in batches, so that queries get in between
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
                self._take(self._current, event.vectors, event.cut)

    def _take(self, job: _Job, vectors: list[bytes], cut: list[int]) -> None:
        self._current, job.tries = None, 0
        self._respawn.worked()
        job.cut += [len(job.vectors) + position for position in cut]
        job.vectors += vectors
        self._wait(IDLE_S, self._stop)
        if len(job.vectors) == len(job.texts):
            self._drop(job)
            job.promise.resolve(job.vectors)
        self._next()

    def _on_gone(self) -> None:
        assert self._process
        how, self._process, self._ready = self._process.end(), None, False
        job, self._current = self._current, None
        self._cancel_timer()
        log.error("embedder ended (%s)", how)
        goes_on = self._respawn.died()
        if job:
            job.tries += 1
            if job.tries >= MAX_TRIES:
                self._drop(job)
                error = ModelUnavailable(f"the embedder died {job.tries} times at these texts")
                job.promise.reject(error)
        if not goes_on:
            self._give_up(f"it died {MAX_DEATHS} times ({how})")

    def _hung(self) -> None:
        if self._process:
            log.error("embedder does not answer for %g s", PATIENCE_S)
            self._process.kill()

    def _give_up(self, reason: str) -> None:
        self._why, self._usable_s = reason, self._loop.now() + RETRY_FAILED_S
        self._cancel_timer()
        self._fail_all()

    def _fail_all(self) -> None:
        waiting = [*self._queries, *self._passages]
        self._queries.clear()
        self._passages.clear()
        self._current = None
        for job in waiting:
            job.promise.reject(ModelUnavailable(f"the embedder does not work: {self._why}"))

    def _stop(self) -> None:
        """End the process; there is no work for it."""
        self._cancel_timer()
        self._respawn.cancel()
        process, self._process, self._ready = self._process, None, False
        if process:
            process.end()

    def _drop(self, job: _Job) -> None:
        (self._queries if job.kind == "query" else self._passages).remove(job)

    def _wait(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._cancel_timer()
        self._timer = self._loop.after(delay_s, callback)

    def _cancel_timer(self) -> None:
        if self._timer:
            self._timer.cancel()


def _first(texts: Sequence[str]) -> list[str]:
    """Return as many texts as make a batch; at least one."""
    sizes = itertools.accumulate(len(text) for text in texts)
    return [text for n, (text, size) in enumerate(zip(texts, sizes, strict=True))
            if n == 0 or size <= BATCH_CHARS]  # fmt: skip
