"""One model being served: its requests, and what becomes of them when its core dies.

Requests and what the core says of them are dealt with here; the core itself is kept alive in
core_life.py, who runs is decided in scheduler.py, and who sits where in context/manager.py.

Promises that a request outlives the core: after a restart each goes on from its tokens, or from
its image in the arena. A request that was being worked on in three deaths, the last time alone, and
got no token between them, is taken for their cause and fails.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from array import array
from collections.abc import Callable

from aios.hw.core.messages import (
    Adopt,
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
from aios.hw.engine.engine import EngineInfo, Message
from aios.kernel.context.filing import Filing
from aios.kernel.context.imaging import Written
from aios.kernel.context.manager import ContextManager
from aios.kernel.context.store import KvStore
from aios.kernel.loop.loop import Loop, Timer
from aios.kernel.scheduler.history import History
from aios.kernel.scheduler.request import Request
from aios.kernel.scheduler.scheduler import LONE_CHUNK_FACTOR, SUSPECT_DEATHS, Scheduler, Settings
from aios.syscalls.errors import AiosError, IllegalState, InvalidArgument, ModelUnavailable
from aios.syscalls.types.trace import RequestRecord

from . import context_window as window
from .core_life import CoreLife, StartCore, State
from .preparing import Preparing

log = logging.getLogger("aios.model")

MOST_DEATHS_OF_A_REQUEST = SUSPECT_DEATHS + 1
_MOST_RECORDS = 10_000
_STEPS_OF_PATIENCE = 20
"""A step takes so much longer on a machine that is very busy."""


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
        core_timeout_s: float,
        may_load: Callable[[Model], bool] = lambda model: True,
        on_idle: Callable[[Model], None] = lambda model: None,
    ) -> None:
        """``core_timeout_s``: how long a busy core may be silent, beside some steps; 0: for ever.
        ``may_load`` is asked for memory before a core is started; ``on_idle`` is told when the last
        request has ended."""
        self.name, self.path, self.store, self._on_idle = name, path, store, on_idle
        self.idle_since_s = time.monotonic()
        self.info: EngineInfo | None = None
        """What the core has said of itself; None before it was first loaded."""
        self.core = CoreLife(
            name, loop, start, lambda: may_load(self), self._works, self._patience_s,
            self._on_event, self._on_death, self._on_failure,
        )  # fmt: skip
        self._core_timeout_s = core_timeout_s
        self.scheduler = Scheduler(name, settings)
        self.context: ContextManager | None = None
        """While it is loaded; it outlives the cores."""
        self.requests: dict[int, Request] = {}
        self._preparing = Preparing(self._send_prompt)
        self.records = History[RequestRecord](_MOST_RECORDS)
        self._loop = loop
        self._quota_timer: Timer | None = None
        self._helper_ids = itertools.count(-1, -1)
        self._filing = Filing()

    @property
    def state(self) -> State:
        """Of its core."""
        return self.core.state

    # ------------------------------------------------------------------ requests

    def submit(self, request: Request) -> None:
        """Take a request; it ends through its ``on_done``. Loads the model when it must."""
        self.core.use()
        request.phase_since_s = time.monotonic()
        self.requests[request.id] = request
        if self.state == "ready":
            self._preparing.add(request)

    def cancel(self, request: Request, error: AiosError) -> None:
        """End a request now; the core stops it at the next token."""
        if request.helper:
            self.cancel(request.helper, error)
        if request.id in self.requests:
            self.core.send(Drop(request.id))
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
        self._preparing.reorder()
        self._dispatch()

    def _send_prompt(self, request: Request) -> None:
        streamed, cut = request.on_text is not None, request.window_policy != "error"
        self.core.send(Prepare(
            request.id, request.params, streamed, request.messages, request.prompt, cut
        ))  # fmt: skip

    def _finish(self, request: Request, error: AiosError | None) -> None:
        if request.id not in self.requests:
            return  # it has ended in between: a core is found dead when it is sent something
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
        """Start the next slice, or end the one under way if the policy wants others to run. Not
        while an idle core prepares prompts: a slice would begin after those, but without them."""
        if self.state != "ready" or (self._preparing and not self.scheduler.busy):
            return
        now = time.monotonic()
        command = self.scheduler.next_slice(now)
        if command:
            self._preparing.last_slice = command.slice
            self.core.send(command)
        elif (number := self.scheduler.should_yield(now)) is not None:
            self.core.send(Yield(number))
        elif not self.scheduler.counts[0]:
            self._wait_for_quota(now)

    def _wait_for_quota(self, now: float) -> None:
        """Nobody may run now; look again when somebody's quota lets it."""
        if self._quota_timer:
            self._quota_timer.cancel()
        due_s = self.scheduler.wake_s(now)
        self._quota_timer = None if due_s is None else self._loop.at(due_s, self._dispatch)

    def _works(self) -> bool:
        """The core has something to do, and will say so."""
        return bool(self._preparing) or self.scheduler.busy

    def _patience_s(self) -> float:
        """How long the core may be silent: it shows life between the steps of a slice."""
        info = self.info
        if not self._core_timeout_s or info is None:
            return 0.0
        prompt_s = info.prefill_token_s * self.scheduler.chunk * LONE_CHUNK_FACTOR
        longest_step_s = prompt_s + info.decode_token_s * info.seats
        return self._core_timeout_s + _STEPS_OF_PATIENCE * longest_step_s

    # ------------------------------------------------------------------ the core

    def unload(self) -> None:
        """End the idle model's core and forget its contexts; the next request loads it again."""
        assert not self.requests
        self.core.end()
        self._preparing.clear()  # a prompt may be on its way that nobody waits for any more
        self.scheduler.core_lost(time.monotonic())  # the slice of the last request may be under way
        if self.context:
            self.context.close()
        self.context = None
        self._write_contexts()
        self.core.forget(IllegalState(f"model {self.name} was unloaded", "load it again"))

    def save_context(self, tokens: array[int], path: str, done: Written) -> None:
        """Write what KV there is of these tokens to a file. ``done`` is told when it is there, or
        that there is none."""
        self._filing.save(tokens, path, done)
        self._write_contexts()

    def _write_contexts(self) -> None:
        """Between slices only: during one, nobody knows how much is in the seats."""
        if self.state == "ready" and self.scheduler.busy:
            return
        if self._filing:
            self._filing.write(self.context if self.state == "ready" else None)
            self._dispatch()

    def restore_context(self, tokens: array[int], path: str, stamp: int) -> None:
        """KV of these tokens is in a file; it is looked at when a request begins with them."""
        self._filing.restore(self.context, tokens, path, stamp)

    def shut(self) -> None:
        """End the core; requests fail."""
        self.core.end()
        self._write_contexts()
        self._fail(ModelUnavailable("the kernel is shutting down"))

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
                self._preparing.answered(event.request)
                self._on_prepared(event)
                self._go_on()
            case Refused():
                self._preparing.answered(event.request)
                if request := self.requests.get(event.request):
                    self._finish(request, InvalidArgument(event.reason))
                self._go_on()
            case Hello():
                self._on_hello(event.info)
            case Failed():
                self.core.reason = event.reason

    def _on_hello(self, info: EngineInfo) -> None:
        log.info("model %s: %s, %s", self.name, info.description, info.rung.name)
        self.info = info
        if self.context is None:
            self.context = ContextManager(self.store, info)
        self._filing.attach(self.context)
        self.scheduler.attach(self.context, info)
        if not info.restorable:
            log.warning("model %s: its state cannot be saved; what loses its seat is computed "
                        "again", self.name)  # fmt: skip
        self.core.ready()
        for request in list(self.requests.values()):
            if self.state != "ready":
                return  # it has been found dead, and another is on its way
            if request.tokens:
                tokens, streamed = request.tokens.tobytes(), request.on_text is not None
                self.core.send(
                    Adopt(request.id, request.params, streamed, tokens, request.prompt_tokens)
                )
            elif not request.helper:
                self._preparing.add(request)
        self._dispatch()
        if not self.requests:
            self._rest()

    def _on_prepared(self, event: Prepared) -> None:
        request = self.requests.get(event.request)
        if request is None or request.tokens or request.helper:
            return
        if event.dropped and request.window_policy == "summarise" and not request.window:
            self.core.send(Drop(request.id))
            window.summarise(self, request, event.dropped)
            return
        tokens = array("i")
        tokens.frombytes(event.tokens)
        quota = request.account.quota_cells
        holds = window.holds(self, request)
        if len(tokens) >= holds:
            self.core.send(Drop(request.id))
            self._finish(request, window.overflow(self.name, len(tokens), holds, holds == quota))
            return
        if event.dropped:
            request.window = window.report(request, event.dropped)
        request.tokens, request.prompt_tokens = tokens, len(tokens)
        if request.phase == "preparing":
            self.scheduler.add(request, time.monotonic())

    def _go_on(self) -> None:
        """A prompt has been prepared, or refused. Those that wait are sent after the next slice."""
        self._dispatch()
        self._preparing.refill()

    def helper_id(self) -> int:
        """For a request of the kernel's own: below zero, where those of agents are not."""
        return next(self._helper_ids)

    def begin_anew(self, request: Request, messages: list[Message]) -> None:
        """Prepare it again, with other messages."""
        if request.id in self.requests:
            request.messages = messages
            if self.state == "ready":
                self._preparing.add(request)

    def fail(self, request: Request, error: AiosError) -> None:
        """A request cannot go on."""
        if request.id in self.requests:
            self._finish(request, error)

    def _on_step(self, step: Step) -> None:
        now = time.monotonic()
        if step.rows:
            self.core.gave_token()
        for request, row in self.scheduler.on_step(step.rows, now):
            request.core_deaths = 0
            if row.text and request.on_text:
                request.on_text(row.text)
            if row.finish:
                self._finish(request, None)
        if any(row.finish for row in step.rows):
            self._dispatch()

    def _on_death(self, how: str) -> None:
        """The core has died, and another will be started."""
        suspects = self._worked_on()
        if self.context:
            self.context.lost()
        self._write_contexts()
        for request in suspects:
            request.core_deaths += 1
            if request.core_deaths >= MOST_DEATHS_OF_A_REQUEST and request.phase != "done":
                self._finish(request, ModelUnavailable(
                    f"the model's core died {request.core_deaths} times while working on this "
                    f"request ({how})", "change the request, or look into: aios daemon status",
                ))  # fmt: skip

    def _worked_on(self) -> list[Request]:
        """What the core that has died may have been doing: it does what it is sent in order."""
        running = self.scheduler.core_lost(time.monotonic())
        first, begun = self._preparing.clear()
        if not first:
            return running
        prepared = [self.requests[first]] if first in self.requests else []  # or cancelled
        return running + prepared if begun else prepared

    def _on_failure(self, error: AiosError) -> None:
        """There will be no core."""
        self._write_contexts()
        self._fail(error)
        self._rest()

    def _fail(self, error: AiosError) -> None:
        for request in list(self.requests.values()):
            self._finish(request, error)

    # ------------------------------------------------------------------ looking in

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
        writing = self.context is not None and self.context.busy
        return bool(self.requests or self.core.awaited or self._filing or writing)

    def check(self) -> list[str]:
        """What is wrong with the accounts; empty when all is well."""
        return self.context.check(self.requests.values()) if self.context else []
