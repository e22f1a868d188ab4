"""The life of a model's core: started, watched, replaced when it dies, given up, ended.

    unloaded → (waiting →) loading → ready ⇄ restarting      loading/restarting → failed
    ready → unloaded when idle      failed → loading at the next use

Promises that a core that hangs is ended like one that died, that restarts after repeated deaths
are delayed, and that a model is given up, with the reason, when its core cannot be loaded or dies
time after time before any request gets a token. ``Model`` decides what a death means for requests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from aios.hw.core.messages import Command, Event
from aios.kernel.loop.loop import Loop
from aios.kernel.loop.respawn import Respawn
from aios.kernel.loop.states import step
from aios.kernel.loop.task import Outcome, Promise
from aios.syscalls.errors import AiosError, ModelUnavailable

from .watchdog import Watchdog

log = logging.getLogger("aios.model")

MAX_DEATHS = 6
"""Deaths in a row without a token after which a model is given up."""
RETRY_FAILED_S = 2.0
"""Time after which a model that was given up is tried again."""

State = Literal["unloaded", "waiting", "loading", "ready", "restarting", "failed"]
STATES: Mapping[State, frozenset[State]] = {
    "unloaded": frozenset({"unloaded", "waiting", "loading"}),
    "waiting": frozenset({"waiting", "loading", "restarting", "failed", "unloaded"}),
    "loading": frozenset({"ready", "failed", "unloaded"}),
    "ready": frozenset({"restarting", "unloaded"}),
    "restarting": frozenset({"restarting", "ready", "failed", "unloaded"}),
    "failed": frozenset({"waiting", "loading", "restarting", "unloaded"}),
}
"""``waiting``: for memory; ``restarting``: a core that was ready is being replaced."""


class Core(Protocol):
    """A running core process."""

    os_pid: int

    def send(self, command: Command) -> None:
        """Send a command, never blocking."""

    def kill(self) -> None:
        """Kill it; ``on_gone`` is called as after any death."""

    def end(self) -> str:
        """Kill and reap it; return how it ended. ``on_gone`` is not called."""


StartCore = Callable[[Callable[[Event], None], Callable[[], None]], Core]
"""Start a core with ``on_event`` and ``on_gone``, which only the loop calls, ``on_gone`` once.
Raises OSError."""


class CoreLife:
    """One core after another, at most one at a time."""

    def __init__(
        self,
        name: str,
        loop: Loop,
        start: StartCore,
        may_load: Callable[[], bool],
        works: Callable[[], bool],
        patience_s: Callable[[], float],
        on_event: Callable[[Event], None],
        on_death: Callable[[str], None],
        on_failure: Callable[[AiosError], None],
    ) -> None:
        """``may_load`` makes room in memory before a core is started, or returns False. A core that
        ``works`` and is silent for ``patience_s`` (0: unlimited) is taken for hung. ``on_death``
        gets how a core ended that will be replaced, ``on_failure`` why there will be none."""
        self._name, self._loop, self._start, self._may_load = name, loop, start, may_load
        self._works, self._watchdog = works, Watchdog(loop, patience_s, self._end_hung)
        self._on_event, self._on_death, self._on_failure = on_event, on_death, on_failure
        self.state: State = "unloaded"
        self.reason = ""
        """Why there is no core, or what the core said about its end."""
        self._core: Core | None = None
        self._hung = ""
        self._replaces = False
        """A core was ready, and the model has not been unloaded since."""
        self._failed_s = 0.0
        self._respawn = Respawn(loop, self.load, MAX_DEATHS)
        self._waiters: list[Promise[None]] = []

    @property
    def restarts(self) -> int:
        """Cores that were replaced after a death."""
        return self._respawn.restarts

    @property
    def os_pid(self) -> int:
        """The core's host pid; 0 when there is none."""
        return self._core.os_pid if self._core else 0

    @property
    def loaded(self) -> bool:
        """There is a core, or will be one at once."""
        return self._core is not None or self.state == "restarting"

    @property
    def awaited(self) -> bool:
        """A call waits for it to be ready."""
        return bool(self._waiters)

    def use(self) -> None:
        """Load the model for a request, unless it is loaded. Raises ModelUnavailable when it was
        given up a moment ago, or can never fit."""
        if self.state == "failed" and self._loop.now() - self._failed_s < RETRY_FAILED_S:
            raise self._unavailable()
        if self.state in ("unloaded", "failed", "waiting"):
            self._load_or_raise()

    def load(self) -> None:
        """Start a core, unless there is one. Raises ModelUnavailable when it can never fit."""
        if self._core:
            return
        if self.state != "restarting" and not self._may_load():
            self._move("waiting", "other models use the memory that it needs")
            return
        self._move("restarting" if self._replaces else "loading")
        try:
            self._core = self._start(self._heard, self._on_gone)
        except OSError as error:
            self.give_up(f"its core cannot be started: {error.strerror or error}")

    async def when_ready(self) -> None:
        """Load the model and wait until it is ready. Raises ModelUnavailable, or IllegalState when
        it is unloaded meanwhile."""
        if self.state != "ready":
            self._load_or_raise()
            promise: Promise[None] = Promise()
            self._waiters.append(promise)
            await promise

    def send(self, command: Command) -> None:
        """Send a command to the core, if there is one."""
        if self._core:
            self._core.send(command)
            if self._works():
                self._watchdog.begin()

    def ready(self) -> None:
        """Note that the core has loaded the model."""
        self._replaces = True
        self._move("ready")
        self._tell(None)

    def gave_token(self) -> None:
        """Note that the core is of use: earlier deaths no longer count."""
        self._respawn.worked()

    def end(self) -> None:
        """End the core without a successor."""
        self._watchdog.rest()
        self._respawn.cancel()
        if self._core:
            self._core.end()
            self._core = None
        self._hung = ""
        self._move("unloaded")

    def forget(self, error: AiosError) -> None:
        """After ``end``: the next core replaces none, and calls that wait for this one fail."""
        self._replaces = False
        self._tell(error)

    def wait_no_more(self) -> None:
        """Stop waiting for memory: no request wants the model any more."""
        if self.state == "waiting":
            self._move("unloaded")

    def give_up(self, reason: str) -> None:
        """Note that the model cannot be served; a later request tries again."""
        self._move("failed", reason)
        self._failed_s = self._loop.now()
        self._respawn.worked()  # the next try begins from nothing
        log.error("model %s: %s", self._name, reason)
        self._on_failure(self._unavailable())
        self._tell(self._unavailable())

    def _heard(self, event: Event) -> None:
        self._watchdog.heard()
        self._on_event(event)
        if not self._works():
            self._watchdog.rest()

    def _end_hung(self, quiet_s: float) -> None:
        assert self._core
        self._hung = f"it hung: it said nothing for {quiet_s:.0f} s"
        self._core.kill()

    def _on_gone(self) -> None:
        assert self._core
        self._watchdog.rest()
        how, self._core = self._core.end(), None
        how, self._hung = self._hung or how, ""
        said = self.reason
        if self.state == "loading" or (said and self.state != "ready"):
            self.give_up(said or f"its core ended while loading ({how})")
            return
        log.error("model %s: core ended (%s)", self._name, how)
        self._move("restarting")
        self._on_death(how)
        if said:
            self.give_up(said)
        elif not self._respawn.died():
            self.give_up(f"its core died {MAX_DEATHS} times without giving a token ({how})")

    def _load_or_raise(self) -> None:
        self.load()
        if self.state == "failed":
            raise self._unavailable()

    def _move(self, state: State, reason: str = "") -> None:
        self.state = step(STATES, f"core of {self._name}", self.state, state)
        self.reason = reason

    def _tell(self, error: AiosError | None) -> None:
        waiters, self._waiters = self._waiters, []
        for promise in waiters:
            promise.settle(Outcome(None, error))

    def _unavailable(self) -> ModelUnavailable:
        return ModelUnavailable(
            f"model {self._name} cannot be served: {self.reason}",
            "name another one with --model, or repair it and try again; models: aios model ls",
        )
