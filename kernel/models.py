"""The models that the kernel serves: found by name, loaded on demand, unloaded when idle.

Promises that the cores together stay within the memory budget as far as is known before loading:
a model that does not fit waits until others are idle and have made room; one that could never fit
is refused with both numbers. The default model is never unloaded for being idle.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from aios.hw import models as gguf
from aios.hw.engine import EngineInfo
from aios.hw.messages import Event
from aios.syscalls.errors import IllegalState, ModelUnavailable

from .kvstore import KvStore
from .loop import Loop
from .model import Core, Model, StartCore
from .scheduler import Settings

log = logging.getLogger("aios.models")

Start = Callable[[str, EngineInfo | None, Callable[[Event], None], Callable[[], None]], Core]
"""Start a core for a path, as the one that it replaces was loaded; see model.StartCore."""


class Models:
    """All models that have been asked for, by every name they were asked for."""

    def __init__(
        self,
        default: str,
        folder: Path,
        store: KvStore,
        settings: Settings,
        loop: Loop,
        start: Start,
        memory_bytes: int | None,
        idle_unload_s: float,
    ) -> None:
        self._default, self._folder = default, folder
        self._store, self._settings, self._loop, self._start = store, settings, loop, start
        self._memory_bytes, self._idle_unload_s = memory_bytes, idle_unload_s
        self._by_name: dict[str, Model] = {}

    def __iter__(self) -> Iterator[Model]:
        return iter(dict.fromkeys(self._by_name.values()))

    def find(self, name: str | None) -> Model:
        """The model of this name or path, served from now on. Raises ModelUnavailable."""
        name = name or self._default
        model = self._by_name.get(name)
        if model is None:
            try:
                path = gguf.resolve(name, self._folder)
            except LookupError as error:
                raise ModelUnavailable(str(error.args[0]), "models: aios model ls") from None
            model = next((m for m in self if m.path == path), None) or self._new(name, path)
            self._by_name[name] = model
        return model

    def holding(self, request_id: int) -> Model:
        """The model that works on this request."""
        return next(model for model in self if request_id in model.requests)

    def unload(self, model: Model) -> None:
        """At the operator's wish. Raises IllegalState while it has requests."""
        if model.requests:
            raise IllegalState(
                f"model {model.name} has {len(model.requests)} requests",
                "wait for them, or end their agents: aios ps",
            )
        model.unload()
        self._serve_waiting()

    def close(self) -> None:
        """End all cores."""
        for model in self:
            model.shut()

    def _new(self, name: str, path: str) -> Model:
        def start(on_event: Callable[[Event], None], on_gone: Callable[[], None]) -> Core:
            earlier = model.info if model.state == "restarting" else None
            return self._start(path, earlier, on_event, on_gone)

        starter: StartCore = start
        model = Model(name, path, self._store, self._settings, self._loop, starter,
                      self._may_load, self._on_idle)  # fmt: skip
        return model

    def _may_load(self, model: Model) -> bool:
        """Make room for it, if idle models can give enough."""
        if self._memory_bytes is None:
            return True
        if model.memory_bytes > self._memory_bytes:
            raise ModelUnavailable(
                f"model {model.name} needs {model.memory_bytes:,} bytes; the budget for models is "
                f"{self._memory_bytes:,}", "raise it: aios daemon restart --memory N",
            )  # fmt: skip
        others = [other for other in self if other is not model and other.loaded]
        used = sum(other.memory_bytes for other in others)
        idle = sorted((m for m in others if not m.requests), key=lambda m: m.idle_since_s)
        while used + model.memory_bytes > self._memory_bytes and idle:
            victim = idle.pop(0)
            log.info("model %s makes room for %s", victim.name, model.name)
            used -= victim.memory_bytes
            victim.unload()
        return used + model.memory_bytes <= self._memory_bytes

    def _on_idle(self, model: Model) -> None:
        self._loop.at(0.0, self._serve_waiting)
        if self._idle_unload_s and model is not self._by_name.get(self._default):
            due_s = time.monotonic() + self._idle_unload_s
            self._loop.at(due_s, lambda: self._unload_idle(model))

    def _unload_idle(self, model: Model) -> None:
        idle_s = time.monotonic() - model.idle_since_s
        if not model.requests and model.state == "ready" and idle_s >= self._idle_unload_s * 0.99:
            log.info("model %s was idle for %.0f s: unloaded", model.name, idle_s)
            model.unload()
            self._serve_waiting()

    def _serve_waiting(self) -> None:
        for model in list(self):
            if model.state == "waiting":
                model.load()
