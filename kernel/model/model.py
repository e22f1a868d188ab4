"""One model being served: its requests, and what becomes of them when its core dies.

Requests and the core's events are handled here. core_life.py keeps the core alive, the scheduler
decides who runs, the context manager who sits where.

Promises that a request outlives the core: after a restart each continues from its tokens, or from
its image in the arena. A request that was being worked on in three deaths, the last time alone, and
got no token between them, is taken for their cause and fails.
"""

from __future__ import annotations

import itertools
import logging
from array import array
from collections.abc import Callable

import msgspec

from aios.hw.core import messages
from aios.hw.core.messages import Event, Prepared, Refused, Step
from aios.hw.engine.engine import EngineInfo
from aios.hw.models.names import Source
from aios.kernel.context.manager import ContextManager
from aios.kernel.context.saved_kv import SavedKv
from aios.kernel.context.store import KvStore
from aios.kernel.loop.loop import Loop, Timer
from aios.kernel.loop.task import detach
from aios.kernel.scheduler.chooser import SUSPECT_DEATHS
from aios.kernel.scheduler.history import History
from aios.kernel.scheduler.pace import LONE_CHUNK_FACTOR, Settings
from aios.kernel.scheduler.request import Request
from aios.kernel.scheduler.scheduler import Scheduler
from aios.syscalls.errors import (
    AiosError,
    IllegalState,
    InvalidArgument,
    ModelUnavailable,
    ToolsUnsupported,
)
from aios.syscalls.types.chat import Chunk
from aios.syscalls.types.trace import RequestRecord

from . import context_window as window
from .core_life import CoreLife, StartCore, State
from .core_requests import adopt, prepare
from .prompt_queue import PromptQueue

log = logging.getLogger("aios.model")

MAX_DEATHS_OF_A_REQUEST = SUSPECT_DEATHS + 1
"""Deaths of cores working on a request, since its last token, after which it fails."""
_MAX_RECORDS = 10_000
"""Limit on ended requests kept for the trace."""
_STEPS_OF_PATIENCE = 20
"""How many times longer a step may take on a very busy machine."""


class Model:
    """All about one model, in the kernel's thread."""

    def __init__(
        self,
        name: str,
        source: Source,
        store: KvStore,
        settings: Settings,
        loop: Loop,
        start: StartCore,
        core_timeout_s: float,
        may_load: Callable[[Model], bool] = lambda model: True,
        on_idle: Callable[[Model], None] = lambda model: None,
        on_busy: Callable[[], None] = lambda: None,
    ) -> None:
        """``core_timeout_s``: how long a busy core may be silent, besides some steps; 0: unlimited.
        ``may_load`` makes room in memory before a core is started, or returns False; ``on_busy`` is
        called for each new request, ``on_idle`` when the last one has ended."""
        self.name, self.source, self.path, self.store = name, source, source.path, store
        self._on_idle, self._on_busy = on_idle, on_busy
        self._loop, self._core_timeout_s = loop, core_timeout_s
        self.idle_since_s = loop.now()
        self.info: EngineInfo | None = None
        """The core's description of itself; None before the first load."""
        self.core = CoreLife(
            name, loop, start, lambda: may_load(self), self._works, self._patience_s,
            self._on_event, self._on_death, self._on_failure,
        )  # fmt: skip
        self.scheduler = Scheduler(name, settings)
        self.context: ContextManager | None = None
        """Set while the model is loaded; it outlives the cores."""
        self.requests: dict[int, Request] = {}
        self._prompts = PromptQueue(lambda request: self.core.send(prepare(request)))
        self.saved_kv = SavedKv(self._write_contexts)
        self.records = History[RequestRecord](_MAX_RECORDS)
        self._quota_timer: Timer | None = None
        self._helper_ids = itertools.count(-1, -1)

    @property
    def state(self) -> State:
        """The state of its core."""
        return self.core.state

    @property
    def wanted(self) -> bool:
        """A request or a call waits for it, or a context is being written."""
        writing = self.context is not None and self.context.busy
        return bool(self.requests or self.core.awaited or self.saved_kv or writing)

    def check(self) -> list[str]:
        """Return what is wrong with the accounts."""
        return self.context.check(self.requests.values()) if self.context else []

    # ------------------------------------------------------------------ requests

    def submit(self, request: Request) -> None:
        """Take a request and settle its ``result`` when it ends; load the model if it must be.

        Raises ModelUnavailable.
        """
        self.core.use()
        self._on_busy()
        request.received_s = request.phase_since_s = self._loop.now()
        self.requests[request.id] = request
        if self.state == "ready":
            self._prompts.add(request)

    def cancel(self, request: Request, error: AiosError) -> None:
        """End a request now; the core stops it at the next token."""
        if request.helper:
            self.cancel(request.helper, error)
        if request.id in self.requests:
            self.core.send(messages.Drop(request.id))
            self._finish(request, error)
            self._dispatch()

    def hold(self, request: Request) -> None:
        """Stop running a request whose agent is paused; it keeps what it has."""
        if request.helper:
            self.hold(request.helper)
        if request.phase in ("preparing", "ready", "running"):
            self.scheduler.hold(request, self._loop.now())
            self._dispatch()

    def unhold(self, request: Request) -> None:
        """Let a held request run again."""
        if request.helper:
            self.unhold(request.helper)
        if request.phase == "held":
            now = self._loop.now()
            if request.tokens:
                self.scheduler.add(request, now)
                self._dispatch()
            else:
                request.move("preparing", now)

    def reconsider(self) -> None:
        """Choose again: priorities or settings have changed."""
        self._prompts.reorder()
        self._dispatch()

    def helper_id(self) -> int:
        """Return a number for a request of the kernel's own: below zero, unlike those of agents."""
        return next(self._helper_ids)

    def _finish(self, request: Request, error: AiosError | None) -> None:
        """End a request, unless it has ended: its helper or its owner may have ended it."""
        if request.id not in self.requests:
            return
        now = self._loop.now()
        self.scheduler.remove(request, now)
        del self.requests[request.id]
        if not request.hidden:
            outcome = error.code if error else "done"
            self.records.append(request.record(self.name, outcome, now))
        if error:
            request.result.reject(error)
        else:
            request.result.resolve(request.reply(self.name, now))
        if not self.requests:
            self._rest()

    def _fail_all(self, error: AiosError, *, begun: bool = False) -> None:
        for request in [each for each in self.requests.values() if each.tokens or not begun]:
            self._finish(request, error)

    def _rest(self) -> None:
        self.idle_since_s = self._loop.now()
        self._on_idle(self)

    # ------------------------------------------------------------------ slices

    def _dispatch(self) -> None:
        """Start the next slice, or end the one under way if the policy wants others to run. Not
        while an idle core prepares prompts: a slice would begin after those, but without them."""
        if self.state != "ready" or (self._prompts and not self.scheduler.busy):
            return
        now = self._loop.now()
        command = self.scheduler.next_slice(now)
        if command:
            self._prompts.last_slice = command.slice
            self.core.send(command)
        elif (number := self.scheduler.should_yield(now)) is not None:
            self.core.send(messages.Yield(number))
        elif not self.scheduler.counts[0]:
            self._wait_for_quota(now)

    def _wait_for_quota(self, now: float) -> None:
        """Choose again as soon as a quota lets a request run."""
        if self._quota_timer:
            self._quota_timer.cancel()
        due_s = self.scheduler.wake_s(now)
        self._quota_timer = None if due_s is None else self._loop.at(due_s, self._dispatch)

    def _works(self) -> bool:
        """Return True if the core has something to do that it will report."""
        return bool(self._prompts) or self.scheduler.busy

    def _patience_s(self) -> float:
        """Return how long the core may be silent: it shows life between the steps of a slice."""
        info = self.info
        if not self._core_timeout_s or info is None:
            return 0.0
        prompt_s = info.prefill_token_s * self.scheduler.pace.chunk_tokens * LONE_CHUNK_FACTOR
        longest_step_s = prompt_s + info.decode_token_s * info.seats
        return self._core_timeout_s + _STEPS_OF_PATIENCE * longest_step_s

    # ------------------------------------------------------------------ the core's events

    def _on_event(self, event: Event) -> None:
        match event:
            case Step():
                self._on_step(event)
            case messages.Moved():
                self.scheduler.on_moved(event.ok)
            case messages.SliceEnd():
                self.scheduler.on_slice_end(event, self._loop.now())
                self._write_contexts()
                self._dispatch()
            case Prepared() | Refused():
                self._on_answer(event)
            case messages.Hello():
                self._on_hello(event.info)
            case messages.Failed():
                self.core.reason = event.reason

    def _on_hello(self, info: EngineInfo) -> None:
        log.info("model %s: %s, %s", self.name, info.description, info.rung.name)
        if self.info and self.info.model_hash != info.model_hash:
            self._on_other_weights()
        self.info = info
        if self.context is None:
            self.context = ContextManager(self.store, info)
        self.saved_kv.attach(self.context)
        self.scheduler.attach(self.context, info)
        if not info.restorable:
            log.warning("model %s: no state can be saved: it is computed again", self.name)
        self.core.ready()
        for request in list(self.requests.values()):
            if request.tokens:
                self.core.send(adopt(request))
            elif not request.helper:
                self._prompts.add(request)
        self._dispatch()
        if not self.requests:
            self._rest()

    def _on_other_weights(self) -> None:
        """Forget what is of a file that was replaced since the last core."""
        if self.context:
            self.context.close()
        self.context = self.saved_kv.context = None
        error = ModelUnavailable(f"the file of model {self.name} was replaced", "ask again")
        self._fail_all(error, begun=True)

    def _on_step(self, step: Step) -> None:
        if step.rows:
            self.core.gave_token()
        for request, row in self.scheduler.on_step(step.rows, self._loop.now()):
            request.core_deaths = 0
            if request.on_text and (row.text or row.reasoning):
                request.on_text(Chunk(row.text, row.reasoning))
            if row.finish:
                self._finish(request, None)
        if any(row.finish for row in step.rows):
            self._dispatch()

    # ------------------------------------------------------------------ prompts

    def _on_answer(self, event: Prepared | Refused) -> None:
        """Handle a prompt's tokens or its refusal. Prompts that wait are sent after the slice."""
        self._prompts.answered(event.request)
        request = self.requests.get(event.request)
        if request and isinstance(event, Refused):
            refusal = ToolsUnsupported if event.tools else InvalidArgument
            self._finish(request, refusal(event.reason))
        elif request and isinstance(event, Prepared) and not (request.tokens or request.helper):
            self._on_prepared(request, event)
        self._dispatch()
        self._prompts.refill()

    def _on_prepared(self, request: Request, event: Prepared) -> None:
        if event.dropped and request.window_policy == "summarise" and not request.window:
            self.core.send(messages.Drop(request.id))
            detach(self._summarise(request, event.dropped))
            return
        tokens = array("i", event.tokens)
        holds = window.holds(self, request)
        if len(tokens) >= holds:
            self.core.send(messages.Drop(request.id))
            by_quota = holds == request.account.quota_cells
            self._finish(request, window.overflow(self.name, len(tokens), holds, by_quota))
            return
        if event.dropped:
            request.window = window.report(request, event.dropped)
        request.tokens, request.prompt_tokens = tokens, len(tokens)
        request.format, request.notes = event.format, event.notes
        if request.phase == "preparing":
            self.scheduler.add(request, self._loop.now())

    async def _summarise(self, request: Request, dropped: int) -> None:
        """Prepare a request again with a summary of the turns that must go."""
        try:
            messages = await window.summarise(self, request, dropped)
            assert request.talk
            request.talk = msgspec.structs.replace(request.talk, messages=messages)
        except AiosError as error:
            self._finish(request, error)
        else:
            if request.id in self.requests and self.state == "ready":
                self._prompts.add(request)

    # ------------------------------------------------------------------ saved contexts

    def _write_contexts(self) -> None:
        """Plan the writing between slices: during one, the length of seats is not known."""
        if self.state == "ready" and self.scheduler.busy:
            return
        if self.saved_kv:
            self.saved_kv.write(ready=self.state == "ready")
            self._dispatch()

    # ------------------------------------------------------------------ ends of cores

    def unload(self) -> None:
        """End the idle model's core and forget its contexts; the next request loads it again."""
        assert not self.requests
        self.core.end()
        self._prompts.clear()  # the prompt of a cancelled request may be on its way
        self.scheduler.core_lost(self._loop.now())  # the last request's slice may be under way
        if self.context:
            self.context.close()
        self.context = self.saved_kv.context = None
        self._write_contexts()
        self.core.forget(IllegalState(f"model {self.name} was unloaded", "load it again"))

    def reload(self) -> None:
        """Replace the idle model's core by a better one; contexts are computed again."""
        self.unload()
        try:
            self.core.load()
        except ModelUnavailable as error:  # its file has grown
            self.core.give_up(error.message)

    def shut(self) -> None:
        """End the core; requests fail."""
        self.core.end()
        self._write_contexts()
        self._fail_all(ModelUnavailable("the kernel is shutting down"))

    def _on_death(self, how: str) -> None:
        """Note that the core has died and will be replaced; fail the requests to blame."""
        suspects = self._worked_on()
        if self.context:
            self.context.lost()
        self._write_contexts()
        for request in suspects:
            request.core_deaths += 1
            if request.core_deaths >= MAX_DEATHS_OF_A_REQUEST:
                self._finish(request, ModelUnavailable(
                    f"the model's core died {request.core_deaths} times while working on this "
                    f"request ({how})", "change the request, or see: aios daemon status",
                ))  # fmt: skip

    def _worked_on(self) -> list[Request]:
        """Return the requests that the core may have died of: it does what it is sent in order."""
        running = self.scheduler.core_lost(self._loop.now())
        first, begun = self._prompts.clear()
        if not first:
            return running
        prepared = [self.requests[first]] if first in self.requests else []  # or cancelled
        return running + prepared if begun else prepared

    def _on_failure(self, error: AiosError) -> None:
        """Fail all requests: there will be no core."""
        self._write_contexts()
        self._fail_all(error)
        self._rest()
