"""The models that the kernel serves: found by name, loaded on demand, unloaded when idle.

Promises that the cores together stay within the memory budget, as far as sizes are known before
loading: a model that does not fit waits until idle ones have made room; one that can never fit is
refused with both numbers. The default model is never unloaded for being idle.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from aios.hw.core.messages import Event
from aios.hw.engine.engine import EngineInfo
from aios.hw.models import names
from aios.hw.models.aliases import Adapter
from aios.hw.models.names import Source
from aios.hw.tuning.idle_messages import Kind
from aios.kernel.context.store import KvStore
from aios.kernel.loop.loop import Loop, Timer
from aios.kernel.scheduler.pace import Settings
from aios.kernel.scheduler.request import Request
from aios.syscalls.errors import AiosError, IllegalState, ModelUnavailable

from .core_life import Core
from .idle_jobs import IdleJobs, StartJob
from .memory_need import needed_bytes, weights_bytes
from .model import Model

log = logging.getLogger("aios.models")

JOB_BYTES = 256 << 20
"""What an idle job needs besides the weights: KV of a short window, and buffers."""
_MAX_NAMES = 256
"""Number of names from which on those of models that are not loaded are forgotten."""

Start = Callable[[Source, EngineInfo | None, Callable[[Event], None], Callable[[], None]], Core]
"""Start a core for a model, loaded like the one that it replaces; see core_life.StartCore."""


class Models:
    """All models that were asked for, by every name that was used."""

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
        core_timeout_s: float,
        start_job: StartJob,
        idle_kinds: Sequence[Kind] = ("settings",),
        lora: tuple[Adapter, ...] = (),
    ) -> None:
        """``lora``: adapters of the default model."""
        self._default, self._lora, self._folder = default, lora, folder
        self._store, self._settings, self._loop, self._start = store, settings, loop, start
        self._memory_bytes, self._idle_unload_s = memory_bytes, idle_unload_s
        self._core_timeout_s = core_timeout_s
        self._by_name: dict[str, Model] = {}
        self._idle_timers: dict[Model, Timer] = {}
        self.jobs = IdleJobs(loop, lambda: self, start_job, self._no_room_for_job, idle_kinds)

    def __iter__(self) -> Iterator[Model]:
        return iter(dict.fromkeys(self._by_name.values()))

    def find(self, name: str | None) -> Model:
        """Return the model of this name or path; it is served from now on. Another name for the
        same files and adapters is the same model. Raises ModelUnavailable."""
        name = name or self._default
        model = self._by_name.get(name)
        if model is None:
            try:
                source = self._source(name)
            except LookupError as error:
                raise ModelUnavailable(str(error.args[0]), "models: aios model ls") from None
            model = next((m for m in self if m.source == source), None) or self._new(name, source)
            if len(self._by_name) >= _MAX_NAMES:
                self._forget_unused()
            self._by_name[name] = model
        return model

    def warnings(self) -> list[str]:
        """Return what is wrong with the default model, as far as it shows before loading."""
        if self._default in self._by_name:
            return []  # its state is shown
        try:
            self._source(self._default)
        except LookupError as error:
            return [f"{error.args[0]}; name another: aios daemon restart --model MODEL"]
        return []

    def holding(self, request_id: int) -> Model:
        """Return the model that works on this request."""
        return next(model for model in self if request_id in model.requests)

    @property
    def quantum_tokens(self) -> int:
        """The longest quantum of a model; 1 without models."""
        return max((model.scheduler.pace.quantum_tokens for model in self), default=1)

    def cancel(self, request: Request, error: AiosError) -> None:
        """End a request with an error."""
        self.holding(request.id).cancel(request, error)

    def hold(self, request: Request) -> None:
        """Stop working on a request until ``unhold``."""
        self.holding(request.id).hold(request)

    def unhold(self, request: Request) -> None:
        """Work on a request again."""
        self.holding(request.id).unhold(request)

    def reconsider(self) -> None:
        """Choose again who runs: a weight, class, quota or setting has changed."""
        for model in self:
            model.reconsider()

    def unload(self, model: Model) -> None:
        """Unload a model for the operator. Raises IllegalState while it has requests."""
        if model.requests:
            raise IllegalState(
                f"model {model.name} has {len(model.requests)} requests",
                "wait for them, or end their agents: aios ps",
            )
        self._unload(model)
        self._serve_waiting()

    def close(self) -> None:
        """End all cores, and the idle job."""
        self.jobs.close()
        for model in self:
            model.shut()

    def _source(self, name: str) -> Source:
        """Return what a name means. Raises LookupError."""
        source = names.find(name, self._folder)
        own = self._lora if name == self._default else ()
        return source._replace(lora=(*source.lora, *own))

    def _new(self, name: str, source: Source) -> Model:
        def start(on_event: Callable[[Event], None], on_gone: Callable[[], None]) -> Core:
            self.jobs.stop()  # the core needs its memory
            earlier = model.info if model.state == "restarting" else None
            return self._start(source, earlier, on_event, on_gone)

        model = Model(
            name, source, self._store, self._settings, self._loop, start, self._core_timeout_s,
            self._may_load, self._on_idle, self.jobs.busy,
        )  # fmt: skip
        return model

    def _no_room_for_job(self, model: Model) -> str:
        """Return why a second copy of a model cannot be loaded for a test; '' if it can."""
        needed = weights_bytes(model) + JOB_BYTES
        free = psutil.virtual_memory().available
        if needed > free:
            return f"it needs {needed >> 20:,} MiB of memory, {free >> 20:,} MiB are free"
        used = sum(needed_bytes(each) for each in self if each.core.loaded)
        if self._memory_bytes is not None and used + needed > self._memory_bytes:
            return (f"it needs {needed >> 20:,} MiB within --memory, "
                    f"{max(0, self._memory_bytes - used) >> 20:,} MiB are left; "
                    "raise that, or run: aios model tune")  # fmt: skip
        return ""

    def _may_load(self, model: Model) -> bool:
        """Make room in memory for a model; return False if idle models cannot give enough."""
        if self._memory_bytes is None:
            return True
        if needed_bytes(model) > self._memory_bytes:
            raise ModelUnavailable(
                f"model {model.name} needs {needed_bytes(model):,} bytes; the budget for models is "
                f"{self._memory_bytes:,}", "raise it: aios daemon restart --memory N",
            )  # fmt: skip
        others = [other for other in self if other is not model and other.core.loaded]
        victims, excess = self._victims(others, needed_bytes(model))
        if excess > 0:
            return False
        for victim in victims:
            log.info("model %s makes room for %s", victim.name, model.name)
            self._unload(victim)
        return True

    def _victims(self, loaded: list[Model], more_bytes: int) -> tuple[list[Model], int]:
        """Return the idle models that have to leave, the longest idle first, and the bytes by which
        the budget is still exceeded without them."""
        excess = sum(needed_bytes(m) for m in loaded) + more_bytes - (self._memory_bytes or 1 << 62)
        victims = []
        for idle in sorted((m for m in loaded if not m.wanted), key=lambda m: m.idle_since_s):
            if excess > 0:
                excess -= needed_bytes(idle)
                victims.append(idle)
        return victims, excess

    def _on_idle(self, model: Model) -> None:
        self.jobs.idle()
        self._loop.after(0, self._serve_waiting)
        if self._idle_unload_s and model is not self._by_name.get(self._default):
            before = self._idle_timers.pop(model, None)
            if before:
                before.cancel()
            self._idle_timers[model] = self._loop.after(
                self._idle_unload_s, lambda: self._unload_idle(model)
            )

    def _unload_idle(self, model: Model) -> None:
        del self._idle_timers[model]
        if model.wanted and not model.requests:
            self._on_idle(model)  # a context is being written
        elif not model.requests and model.state == "ready":
            log.info("model %s was idle for %g s: unloaded", model.name, self._idle_unload_s)
            self._unload(model)
            self._serve_waiting()

    def _unload(self, model: Model) -> None:
        self.jobs.unloaded(model)
        model.unload()

    def _shed(self) -> None:
        """Unload idle models while the budget is exceeded: a model's size is known once loaded."""
        for victim in self._victims([model for model in self if model.core.loaded], 0)[0]:
            log.info("model %s leaves: the memory budget is exceeded", victim.name)
            self._unload(victim)

    def _serve_waiting(self) -> None:
        self._shed()
        for model in list(self):
            if not model.wanted:
                model.core.wait_no_more()
            if model.state == "waiting":
                try:
                    model.core.load()
                except ModelUnavailable as error:  # its file has grown
                    model.core.give_up(error.message)

    def _forget_unused(self) -> None:
        kept = {self._by_name.get(self._default), *(m for m in self if m.core.loaded or m.wanted)}
        self._by_name = {name: model for name, model in self._by_name.items() if model in kept}
