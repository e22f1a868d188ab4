"""One model being served: its core process, its requests, and what happens when the core dies.

    unloaded → (waiting →) loading → ready ⇄ restarting      loading/restarting → failed
    ready → unloaded when idle      failed → loading at the next use

Promises that a request outlives the core: after a restart each goes on from its tokens, or from
its image in the arena. A request that was being worked on in three deaths, and got no token
between them, is taken for their cause and fails; repeated deaths back off, and when no request at
all gets a token between them, they fail the model, with the reason.
"""

from __future__ import annotations

import logging
import os
import time
from array import array
from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol

from aios.hw.engine import EngineInfo, Message
from aios.hw.messages import (
    Adopt,
    Command,
    Drop,
    Event,
    Failed,
    Hello,
    Moved,
    Prepare,
    Prepared,
    Refused,
    SliceEnd,
    Step,
    Yield,
)
from aios.syscalls.errors import AiosError, IllegalState, InvalidArgument, ModelUnavailable
from aios.syscalls.types import ModelInfo, RequestRecord

from . import window
from .context import ContextManager
from .imaging import Written
from .kvstore import KvStore
from .loop import Loop, Timer
from .request import Request
from .scheduler import Scheduler, Settings

log = logging.getLogger("aios.model")

MOST_DEATHS_OF_A_REQUEST = 3
MOST_DEATHS = 6
BACKOFF_WINDOW_S = 5.0
RETRY_FAILED_S = 2.0
_MOST_RECORDS = 10_000
_MOST_RESTORED = 256


class Core(Protocol):
    """A running core process, as boot.py makes it."""

    os_pid: int

    def send(self, command: Command) -> None:
        """Send, never blocking."""

    def end(self) -> str:
        """Make sure that it is gone; returns how it ended."""


StartCore = Callable[[Callable[[Event], None], Callable[[], None]], Core]
"""Start a core; the callbacks get its events, and once the news that it is gone."""

State = Literal["unloaded", "waiting", "loading", "ready", "restarting", "failed"]


class Model:
    """Owns everything about one model, all in the kernel's thread."""

    def __init__(
        self,
        name: str,
        path: str,
        store: KvStore,
        settings: Settings,
        loop: Loop,
        start: StartCore,
        may_load: Callable[[Model], bool] = lambda model: True,
        on_idle: Callable[[Model], None] = lambda model: None,
    ) -> None:
        """``may_load`` is asked for memory before a core is started; ``on_idle`` is told when the
        last request has ended."""
        self.name, self.path = name, path
        self.store = store
        self._may_load, self._on_idle = may_load, on_idle
        self.idle_since_s = time.monotonic()
        self.state: State = "unloaded"
        self.reason = ""
        self.info: EngineInfo | None = None
        self.scheduler = Scheduler(name, settings)
        self.requests: dict[int, Request] = {}
        self.records: deque[RequestRecord] = deque(maxlen=_MOST_RECORDS)
        self.restarts = 0
        self._context: ContextManager | None = None
        self._loop, self._start = loop, start
        self._core: Core | None = None
        self._deaths: deque[float] = deque(maxlen=MOST_DEATHS)
        self._fruitless = 0
        """Deaths since a token came."""
        self._failed_s = 0.0
        self._restart: Timer | None = None
        self._quota_timer: Timer | None = None
        self._restored: dict[str, tuple[array[int], int]] = {}
        """Until there is a core that can look at them: tokens and stamps of files."""
        self._saves: list[tuple[array[int], str, Written]] = []
        """Contexts to write when the slice is over."""
        self._on_ready: list[Callable[[AiosError | None], None]] = []

    # ------------------------------------------------------------------ requests

    def submit(self, request: Request) -> None:
        """Take a request; it ends through its ``on_done``. Loads the model when it must."""
        now = time.monotonic()
        if self.state == "failed" and now - self._failed_s < RETRY_FAILED_S:
            raise self._unavailable()
        request.phase_since_s = now
        if self.state in ("unloaded", "failed", "waiting"):
            self.load()
        self.requests[request.id] = request
        if self.state == "ready":
            self._prepare(request)

    def cancel(self, request: Request, error: AiosError) -> None:
        """End a request now; the core stops it at the next token."""
        if request.helper:
            self.cancel(request.helper, error)
        if request.id in self.requests:
            self._send(Drop(request.id))
            self._finish(request, error)
            self._dispatch()

    def hold(self, request: Request) -> None:
        """Its agent is paused: it keeps what it has, and does not run."""
        if request.helper:
            self.hold(request.helper)
        if request.phase in ("preparing", "ready", "running"):
            self.scheduler.hold(request, time.monotonic())
            self._dispatch()

    def unhold(self, request: Request) -> None:
        """Its agent goes on."""
        if request.helper:
            self.unhold(request.helper)
        if request.phase == "held":
            now = time.monotonic()
            if request.tokens:
                self.scheduler.add(request, now)
                self._dispatch()
            else:
                request.move("preparing", now)

    def reconsider(self) -> None:
        """Priorities or settings have changed."""
        self._dispatch()

    def _prepare(self, request: Request) -> None:
        streamed, cut = request.on_text is not None, request.window_policy != "error"
        self._send(Prepare(
            request.id, request.params, streamed, request.messages, request.prompt, cut
        ))  # fmt: skip

    def _finish(self, request: Request, error: AiosError | None) -> None:
        now = time.monotonic()
        self.scheduler.remove(request, now)
        del self.requests[request.id]
        outcome = error.code if error else "done"
        if not request.hidden:
            self.records.append(request.record(self.name, outcome, now))
        request.on_done(error or request.reply(self.name, now))
        if not self.requests:
            self._rest()

    def _rest(self) -> None:
        self.idle_since_s = time.monotonic()
        self._on_idle(self)

    def _dispatch(self) -> None:
        """Start the next slice, or end the one under way if the policy wants others to run."""
        if self.state != "ready":
            return
        now = time.monotonic()
        command = self.scheduler.next_slice(now)
        if command:
            self._send(command)
        elif (number := self.scheduler.should_yield(now)) is not None:
            self._send(Yield(number))
        elif not self.scheduler.counts[0]:
            self._wait_for_quota(now)

    def _wait_for_quota(self, now: float) -> None:
        """Nobody may run now; look again when somebody's quota lets it."""
        if self._quota_timer:
            self._quota_timer.cancel()
        due_s = self.scheduler.wake_s(now)
        self._quota_timer = None if due_s is None else self._loop.at(due_s, self._dispatch)

    # ------------------------------------------------------------------ the core

    def load(self) -> None:
        """Start a core, unless there is one. Raises ModelUnavailable when it can never fit."""
        if self._core:
            return
        if self.state != "restarting" and not self._may_load(self):
            self.state, self.reason = "waiting", "other models use the memory that it needs"
            return
        self.reason = ""
        self.state = "restarting" if self._context else "loading"
        self._core = self._start(self._on_event, self._on_gone)

    def when_ready(self, tell: Callable[[AiosError | None], None]) -> None:
        """Load it, and say when it is ready, or why it is not."""
        if self.state == "ready":
            tell(None)
            return
        self.load()
        self._on_ready.append(tell)

    def unload(self) -> None:
        """End the idle model's core and forget its contexts; the next request loads it again."""
        assert not self.requests
        self._end_core()
        self.scheduler.core_lost(time.monotonic())  # the slice of the last request may be under way
        if self._context:
            self._context.close()
        self._context, self.state, self.reason = None, "unloaded", ""
        self._write_contexts()
        self._tell_ready(IllegalState(f"model {self.name} was unloaded", "load it again"))

    def wait_no_more(self) -> None:
        """Nobody wants it any more: it needs no memory."""
        if self.state == "waiting" and not self.wanted:
            self.state, self.reason = "unloaded", ""

    def save_context(self, tokens: array[int], path: str, done: Written) -> None:
        """Write what KV there is of these tokens to a file. ``done`` is told when it is there, or
        that there is none."""
        self._saves.append((tokens, path, done))
        self._write_contexts()

    def _write_contexts(self) -> None:
        """Between slices only: during one, nobody knows how much is in the seats."""
        if self.state == "ready" and self.scheduler.busy:
            return
        saves, self._saves = self._saves, []
        for tokens, path, done in saves:
            context = self._context if self.state == "ready" else None
            if not (context and context.imaging.to_file(tokens, path, done)):
                done(0, 0)
        if saves:
            self._dispatch()

    def restore_context(self, tokens: array[int], path: str, stamp: int) -> None:
        """KV of these tokens is in a file; it is looked at when a request begins with them."""
        if self._context:
            self._context.adopt(tokens, path, stamp)
        else:
            self._restored[path] = tokens, stamp
            if len(self._restored) > _MOST_RESTORED:
                del self._restored[next(iter(self._restored))]

    def _end_core(self) -> None:
        if self._restart:
            self._restart.cancel()
        if self._core:
            self._core.end()
            self._core = None

    def shut(self) -> None:
        """End the core; requests fail."""
        self._end_core()
        self.state = "unloaded"
        self._write_contexts()
        self._fail(ModelUnavailable("the kernel is shutting down"))

    def _send(self, command: Command) -> None:
        if self._core:
            self._core.send(command)

    def _on_event(self, event: Event) -> None:
        match event:
            case Step():
                self._on_step(event)
            case Moved():
                self.scheduler.on_moved(event.ok)
            case SliceEnd():
                self.scheduler.on_slice_end(event, time.monotonic())
                self._write_contexts()
                self._dispatch()
            case Prepared():
                self._on_prepared(event)
            case Refused():
                self._on_refused(event)
            case Hello():
                self._on_hello(event.info)
            case Failed():
                self.reason = event.reason

    def _on_hello(self, info: EngineInfo) -> None:
        log.info("model %s: %s, %s", self.name, info.description, info.rung.name)
        self.info = info
        if self._context is None:
            self._context = ContextManager(self.store, info)
        for path, (restored, stamp) in self._restored.items():
            self._context.adopt(restored, path, stamp)
        self._restored.clear()
        self.scheduler.attach(self._context, info)
        self.state, self.reason = "ready", ""
        if not info.restorable:
            log.warning("model %s: its state cannot be saved; what loses its seat is computed "
                        "again", self.name)  # fmt: skip
        self._tell_ready(None)
        for request in list(self.requests.values()):
            if request.tokens:
                tokens, streamed = request.tokens.tobytes(), request.on_text is not None
                self._send(
                    Adopt(request.id, request.params, streamed, tokens, request.prompt_tokens)
                )
            elif not request.helper:
                self._prepare(request)
        self._dispatch()
        if not self.requests:
            self._rest()

    def _on_prepared(self, event: Prepared) -> None:
        request = self.requests.get(event.request)
        if request is None or request.tokens or request.helper:
            return
        if event.dropped and request.window_policy == "summarise" and not request.window:
            self._send(Drop(request.id))
            window.summarise(self, request, event.dropped)
            return
        tokens = array("i")
        tokens.frombytes(event.tokens)
        assert self.info
        quota = request.account.quota_cells
        holds = min(self.info.context_tokens, quota or self.info.context_tokens)
        if len(tokens) >= holds:
            self._send(Drop(request.id))
            self._finish(request, window.overflow(self.name, len(tokens), holds, holds == quota))
            return
        if event.dropped:
            request.window = window.report(request, event.dropped)
        request.tokens, request.prompt_tokens = tokens, len(tokens)
        if request.phase == "preparing":
            self.scheduler.add(request, time.monotonic())
        self._dispatch()

    def begin_anew(self, request: Request, messages: list[Message]) -> None:
        """Prepare it again, with other messages."""
        if request.id in self.requests:
            request.messages = messages
            if self.state == "ready":
                self._prepare(request)

    def fail(self, request: Request, error: AiosError) -> None:
        """A request cannot go on."""
        if request.id in self.requests:
            self._finish(request, error)

    def _on_refused(self, event: Refused) -> None:
        request = self.requests.get(event.request)
        if request:
            self._finish(request, InvalidArgument(event.reason))

    def _on_step(self, step: Step) -> None:
        now = time.monotonic()
        self._fruitless = 0
        for request, row in self.scheduler.on_step(step.rows, now):
            request.core_deaths = 0
            if row.text and request.on_text:
                request.on_text(row.text)
            if row.finish:
                self._finish(request, None)
        if any(row.finish for row in step.rows):
            self._dispatch()

    def _on_gone(self) -> None:
        assert self._core
        how, self._core = self._core.end(), None
        now = time.monotonic()
        if self.state == "loading" or self.reason:
            self.give_up(self.reason or f"its core ended while loading ({how})")
            return
        self._deaths.append(now)
        self._fruitless += 1
        log.error("model %s: core ended (%s)", self.name, how)
        preparing = [r for r in self.requests.values() if not r.tokens and not r.helper]
        suspects = self.scheduler.core_lost(now) + preparing
        self.state = "restarting"
        if self._context:
            self._context.lost()
        self._write_contexts()
        for request in suspects:
            request.core_deaths += 1
            if request.core_deaths >= MOST_DEATHS_OF_A_REQUEST and request.phase != "done":
                self._finish(request, ModelUnavailable(
                    f"the model's core died {request.core_deaths} times while working on this "
                    f"request ({how})", "change the request, or look into: aios daemon status",
                ))  # fmt: skip
        if self._fruitless >= MOST_DEATHS:
            self.give_up(f"its core died {MOST_DEATHS} times without giving a token ({how})")
            return
        self.restarts += 1
        recent = sum(now - death < BACKOFF_WINDOW_S for death in self._deaths)
        delay_s = 0.0 if recent <= 1 else min(5.0, 0.1 * 2**recent)
        self._restart = self._loop.at(now + delay_s, self.load)

    def give_up(self, reason: str) -> None:
        """It cannot be served; the next request tries again."""
        self.state, self.reason, self._failed_s = "failed", reason, time.monotonic()
        self._fruitless = 0
        log.error("model %s: %s", self.name, reason)
        self._write_contexts()
        self._fail(self._unavailable())
        self._tell_ready(self._unavailable())
        self._rest()

    def _tell_ready(self, error: AiosError | None) -> None:
        waiting, self._on_ready = self._on_ready, []
        for tell in waiting:
            tell(error)

    def _fail(self, error: ModelUnavailable) -> None:
        for request in list(self.requests.values()):
            self._finish(request, error)

    def _unavailable(self) -> ModelUnavailable:
        return ModelUnavailable(
            f"model {self.name} cannot be served: {self.reason}",
            "name another one with --model, or mend it and try again; models: aios model ls",
        )

    # ------------------------------------------------------------------ looking in

    @property
    def core_os_pid(self) -> int:
        """The core's host pid, 0 when there is none."""
        return self._core.os_pid if self._core else 0

    def describe(self) -> ModelInfo:
        """One row of ``aios model ls``."""
        info = self.info
        running, ready = self.scheduler.counts
        return ModelInfo(
            name=self.name,
            path=self.path,
            state=self.state,
            reason=self.reason,
            description=info.description if info else "",
            context_tokens=info.context_tokens if info else 0,
            seats=info.seats if info else 0,
            seats_used=self._context.seats_used if self._context else 0,
            running=running,
            ready=ready,
            kv_type=info.rung.kv_type if info else "",
            exact=(info.rung.name if info.exact else "off") if info else "",
            threads=info.threads if info else 0,
            device=info.device if info else "",
            core_os_pid=self.core_os_pid,
            core_restarts=self.restarts,
            arena_bytes=self.store.arena.size_bytes,
            arena_used_bytes=self.store.arena.used_bytes,
            images=self._context.images if self._context else 0,
            file_bytes=self.store.disk_used_bytes,
            memory_bytes=self.memory_bytes,
            quantum_tokens=self.scheduler.quantum,
            chunk_tokens=self.scheduler.chunk,
            restorable=info.restorable if info else True,
        )

    @property
    def memory_bytes(self) -> int:
        """Weights and KV cache; before it is first loaded, the weights alone."""
        info = self.info
        try:
            weights = os.stat(info.tuned.path if info and info.tuned else self.path).st_size
        except OSError:
            weights = 0
        return weights + (info.seats * info.context_tokens * info.image_token_bytes if info else 0)

    @property
    def wanted(self) -> bool:
        """Somebody waits for it, or for something that it does."""
        writing = self._context is not None and self._context.busy
        return bool(self.requests or self._on_ready or self._saves or writing)

    @property
    def loaded(self) -> bool:
        """It has a core, or will have one at once."""
        return self._core is not None or self.state == "restarting"

    def check(self) -> list[str]:
        """What is wrong with the accounts; empty when all is well."""
        problems = []
        if self._context:
            problems += self._context.check(self.requests.values())
        return problems
