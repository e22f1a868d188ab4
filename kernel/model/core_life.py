"""The life of a model's core: started, watched, replaced when it dies, given up, ended.

    unloaded → (waiting →) loading → ready ⇄ restarting      loading/restarting → failed
    ready → unloaded when idle      failed → loading at the next use

Promises that a core that hangs is ended like one that died, that repeated deaths back off, and
that a model is given up, with the reason, when its core cannot be loaded or dies time after time
before any request gets a token. What a death means for requests is the model's affair.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol

from aios.hw.core.messages import Command, Event
from aios.kernel.loop.loop import Loop, Timer
from aios.syscalls.errors import AiosError, ModelUnavailable

from .watchdog import Watchdog

log = logging.getLogger("aios.model")

MOST_DEATHS = 6
"""Of cores, one after another, that gave no token at all."""
BACKOFF_WINDOW_S = 5.0
"""Deaths within so many seconds make the next start wait."""
RETRY_FAILED_S = 2.0
"""A model that was given up is not tried again before so many seconds have passed."""


class Core(Protocol):
    """A running core process, as children.py makes it."""

    os_pid: int

    def send(self, command: Command) -> None:
        """Send, never blocking."""

    def kill(self) -> None:
        """End it now; the news that it is gone comes as after any death."""

    def end(self) -> str:
        """Make sure that it is gone; returns how it ended."""


StartCore = Callable[[Callable[[Event], None], Callable[[], None]], Core]
"""Start a core; the callbacks get its events, and once the news that it is gone."""

State = Literal["unloaded", "waiting", "loading", "ready", "restarting", "failed"]


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
        """``may_load`` is asked for memory before a core is started. While it ``works``, the core
        says something within ``patience_s`` (0: or not) or is taken for hung. ``on_death`` is told
        how a core ended that will be replaced, ``on_failure`` why there will be none."""
        self._name, self._loop, self._start, self._may_load = name, loop, start, may_load
        self._works, self._watchdog = works, Watchdog(loop, patience_s, self._end_hung)
        self._on_event, self._on_death, self._on_failure = on_event, on_death, on_failure
        self.state: State = "unloaded"
        self.reason = ""
        """Why there is no core, or what the core says about its end."""
        self.restarts = 0
        self._core: Core | None = None
        self._hung = ""
        self._replaces = False
        """There was a core that was ready, and the model has not been unloaded since."""
        self._deaths: deque[float] = deque(maxlen=MOST_DEATHS)
        self._fruitless = 0
        """Deaths since a token came."""
        self._failed_s = 0.0
        self._restart: Timer | None = None
        self._on_ready: list[Callable[[AiosError | None], None]] = []

    @property
    def os_pid(self) -> int:
        """The core's host pid, 0 when there is none."""
        return self._core.os_pid if self._core else 0

    @property
    def loaded(self) -> bool:
        """There is a core, or will be one at once."""
        return self._core is not None or self.state == "restarting"

    @property
    def awaited(self) -> bool:
        """Somebody asked to be told when it is ready."""
        return bool(self._on_ready)

    def use(self) -> None:
        """A request wants it: load it, if nobody has. Raises ModelUnavailable when it was given up
        a moment ago, or can never fit."""
        if self.state == "failed" and time.monotonic() - self._failed_s < RETRY_FAILED_S:
            raise self._unavailable()
        if self.state in ("unloaded", "failed", "waiting"):
            self.load()
        if self.state == "failed":
            raise self._unavailable()

    def load(self) -> None:
        """Start a core, unless there is one. Raises ModelUnavailable when it can never fit."""
        if self._core:
            return
        if self.state != "restarting" and not self._may_load():
            self.state, self.reason = "waiting", "other models use the memory that it needs"
            return
        self.reason = ""
        self.state = "restarting" if self._replaces else "loading"
        try:
            self._core = self._start(self._heard, self._on_gone)
        except OSError as error:
            self.give_up(f"its core cannot be started: {error.strerror or error}")

    def when_ready(self, tell: Callable[[AiosError | None], None]) -> None:
        """Load it, and say when it is ready, or why it is not."""
        if self.state == "ready":
            tell(None)
            return
        self.load()
        if self.state == "failed":
            tell(self._unavailable())
        else:
            self._on_ready.append(tell)

    def send(self, command: Command) -> None:
        """To the core, if there is one."""
        if self._core:
            self._core.send(command)
            if self._core and self._works():  # else it was found dead
                self._watchdog.begin()

    def ready(self) -> None:
        """The core has said that it is."""
        self.state, self.reason, self._replaces = "ready", "", True
        self._tell(None)

    def gave_token(self) -> None:
        """Its deaths so far were not for nothing."""
        self._fruitless = 0

    def end(self) -> None:
        """End the core, and start none."""
        self._watchdog.rest()
        if self._restart:
            self._restart.cancel()
        if self._core:
            self._core.end()
            self._core = None
        self.state, self.reason, self._hung = "unloaded", "", ""

    def forget(self, error: AiosError) -> None:
        """After ``end``: the next core is a new one, and who waits for the old gets the error."""
        self._replaces = False
        self._tell(error)

    def wait_no_more(self) -> None:
        """Nobody wants it any more: it needs no memory."""
        if self.state == "waiting":
            self.state, self.reason = "unloaded", ""

    def give_up(self, reason: str) -> None:
        """It cannot be served; the next request tries again."""
        self.state, self.reason, self._failed_s = "failed", reason, time.monotonic()
        self._fruitless = 0
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
        now = time.monotonic()
        if self.state == "loading" or self.reason:
            self.give_up(self.reason or f"its core ended while loading ({how})")
            return
        self._deaths.append(now)
        self._fruitless += 1
        log.error("model %s: core ended (%s)", self._name, how)
        self.state = "restarting"
        self._on_death(how)
        if self._fruitless >= MOST_DEATHS:
            self.give_up(f"its core died {MOST_DEATHS} times without giving a token ({how})")
            return
        self.restarts += 1
        recent = sum(now - death < BACKOFF_WINDOW_S for death in self._deaths)
        delay_s = 0.0 if recent <= 1 else min(5.0, 0.1 * 2**recent)
        self._restart = self._loop.at(now + delay_s, self.load)

    def _tell(self, error: AiosError | None) -> None:
        waiting, self._on_ready = self._on_ready, []
        for tell in waiting:
            tell(error)

    def _unavailable(self) -> ModelUnavailable:
        return ModelUnavailable(
            f"model {self._name} cannot be served: {self.reason}",
            "name another one with --model, or mend it and try again; models: aios model ls",
        )
