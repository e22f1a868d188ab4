"""Idle jobs: work on a model while nothing else is under way, in a low-priority child process.

    none → working ⇄ paused → none

A job looks for faster settings (hw/tuning/idle_work.py). One runs at a time, begins when all models
have been idle for a moment, and is stopped by a signal as soon as a request arrives. What it finds
is in the cache of findings at once, so it may be ended at any time: when a core is loaded, which
needs the memory, or when it has been paused for long. A model whose job found better settings is
loaded again when nothing is under way for it; a living request is never moved to other settings.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, Protocol

from aios.hw.engine.engine import EngineInfo
from aios.hw.tuning.idle_messages import Done, Failed, IdleEvent, Kind, Progress
from aios.kernel.loop.loop import Loop, Timer
from aios.kernel.loop.states import step

from .model import Model

log = logging.getLogger("aios.idle")

IDLE_S = 2.0
"""Quiet time before a job begins or continues."""
MAX_PAUSE_S = 300.0
"""Pause after which a job is ended, for the memory that it holds."""
MAX_DEATHS = 2
"""Deaths of a job's process after which it is not tried again."""
AGAIN_S = 60.0
"""Time until the next look, if there was no memory for a job, or the machine was busy."""

NAMES: Mapping[Kind, str] = {"settings": "self-test", "tune": "tuning"}

State = Literal["none", "working", "paused"]
STATES: Mapping[State, frozenset[State]] = {
    "none": frozenset({"working"}),
    "working": frozenset({"paused", "none"}),
    "paused": frozenset({"working", "none"}),
}


class Job(Protocol):
    """A running job's process group."""

    os_pid: int

    def pause(self) -> None:
        """Stop it."""

    def resume(self) -> None:
        """Continue it."""

    def end(self) -> str:
        """Kill and reap it; return how it ended. ``on_gone`` is not called."""


StartJob = Callable[[Model, Kind, Callable[[IdleEvent], None], Callable[[], None]], Job]
"""Start a job with ``on_event`` and ``on_gone``, which only the loop calls. Raises OSError."""


class IdleJobs:
    """The jobs of all models, one at a time."""

    def __init__(
        self,
        loop: Loop,
        models: Callable[[], Iterable[Model]],
        start: StartJob,
        no_room: Callable[[Model], str],
        kinds: Sequence[Kind],
    ) -> None:
        """``no_room`` returns why there is no memory for a model's job; '' if there is. ``kinds``:
        the jobs that are done at all, in their order."""
        self._loop, self._models, self._start, self._no_room = loop, models, start, no_room
        self._kinds = kinds
        self.state: State = "none"
        self._job: Job | None = None
        self._model: Model | None = None
        self._kind: Kind = "settings"
        self._progress = ""
        self._heard = False
        """The job has said something."""
        self._timer: Timer | None = None
        self._pause_timer: Timer | None = None
        """Ends the job when it has been paused for long."""
        self._finished: dict[tuple[str, Kind], str] = {}
        """Jobs that are done or given up, by model hash; what to say of them."""
        self._deaths: dict[tuple[str, Kind], int] = {}
        self._not_before: dict[tuple[str, Kind], float] = {}
        """Jobs to be tried again, and the earliest time for that."""
        self._lacking: dict[Model, str] = {}
        """Models whose job waits for memory; what to say of them."""
        self._outdated: set[Model] = set()
        """Models to load again, because better settings are known."""

    @property
    def os_pid(self) -> int:
        """Host pid of the job's process; 0 if there is none."""
        return self._job.os_pid if self._job else 0

    def describe(self, model: Model) -> str:
        """Return what is done, or is to be done, for a model; '' if nothing is."""
        if self._job and model is self._model:
            return self._progress + (" (paused)" if self.state == "paused" else "")
        if model in self._outdated:
            return "faster settings are known: loaded again when idle"
        if any(self._pending(model)):
            kind = next(iter(self._pending(model)))
            return self._lacking.get(model, f"{NAMES[kind]} when idle")
        if model.info is None:
            return ""
        said = (self._finished.get((model.info.model_hash, kind), "") for kind in NAMES)
        return "; ".join(filter(None, said))

    def busy(self) -> None:
        """Note that a model has got work: stop the job now."""
        if self._timer:
            self._timer.cancel()
        if self._job and not self._heard:
            self.stop()  # a program that is stopped before it runs would outlive the kernel
        elif self._job and self.state == "working":
            self._pause_timer = self._loop.after(MAX_PAUSE_S, self.stop)
            self._move("paused")
            self._job.pause()

    def idle(self) -> None:
        """Note that a model has nothing to do."""
        self._set_timer(IDLE_S, self._look)

    def stop(self) -> None:
        """End the job; it is begun again when all models are idle."""
        if self._job:
            self._job.end()
            self._release()

    def unloaded(self, model: Model) -> None:
        """Note that a model has left memory: a job would bring it back."""
        if model is self._model:
            self.stop()

    def close(self) -> None:
        """End the job for good."""
        self.stop()
        if self._timer:
            self._timer.cancel()

    # ------------------------------------------------------------------ what comes next

    def _look(self) -> None:
        """All has been quiet: load outdated models again, else continue or begin a job."""
        if not self._rests():
            if not any(model.requests for model in self._models()):
                self.idle()  # a context is being written, or a core is being loaded
            return
        for model in [each for each in self._outdated if not each.wanted]:
            self._outdated.discard(model)
            if model.state == "ready":
                log.info("model %s: loaded again with faster settings", model.name)
                model.reload()
                return  # looks again when it has been loaded
        if self._job is None:
            self._begin()
            if self._job is None and self._not_before:
                self._set_timer(AGAIN_S, self._look)
        elif self.state == "paused":
            self._end_pause()
            self._move("working")
            self._job.resume()

    def _rests(self) -> bool:
        return not any(m.wanted or m.state in ("loading", "restarting") for m in self._models())

    def _pending(self, model: Model) -> Iterable[Kind]:
        """Return the kinds of jobs that a model has yet to get."""
        info = model.info
        if info is None:
            return
        wanted: dict[Kind, bool] = {
            "settings": bool(info.untested) or info.estimated,
            "tune": info.tuned is None and info.device != "none" and not model.source.lora,
        }
        for kind in self._kinds:
            if wanted[kind] and not self._done(info, kind):
                yield kind

    def _done(self, info: EngineInfo, kind: Kind) -> bool:
        key = info.model_hash, kind
        return key in self._finished or self._not_before.get(key, 0.0) > self._loop.now()

    def _begin(self) -> None:
        """Begin the first job of a loaded model for which there is memory."""
        for model in (each for each in self._models() if each.core.loaded):
            for kind in self._pending(model):
                reason = self._no_room(model)
                if not reason:
                    self._lacking.pop(model, None)
                    self._begin_one(model, kind)
                    return
                if model not in self._lacking:
                    log.warning("model %s: no %s yet: %s", model.name, NAMES[kind], reason)
                self._lacking[model] = f"no {NAMES[kind]} yet: {reason}"
                self._set_timer(AGAIN_S, self._look)

    def _begin_one(self, model: Model, kind: Kind) -> None:
        self._model, self._kind, self._progress = model, kind, f"{NAMES[kind]} begins"
        self._heard = False
        try:
            self._job = self._start(model, kind, self._on_event, self._on_gone)
        except OSError as error:
            self._finish(f"no {NAMES[kind]}: {error.strerror or error}")
            return
        self._move("working")

    # ------------------------------------------------------------------ the job's events

    def _on_event(self, event: IdleEvent) -> None:
        assert self._model
        name, self._heard = NAMES[self._kind], True
        match event:
            case Progress():
                self._progress = f"{event.text} ({event.percent} %)"
                log.info("model %s: %s", self._model.name, event.text)
            case Done():
                log.info("model %s: %s done: %s", self._model.name, name, event.text)
                if event.better:
                    self._outdated.add(self._model)
                self._finish(None if event.again else "")
            case Failed():
                self._finish(f"{name} failed: {event.reason}; try: aios model tune")

    def _on_gone(self) -> None:
        assert self._job and self._model and self._model.info
        key = self._model.info.model_hash, self._kind
        self._deaths[key] = self._deaths.get(key, 0) + 1
        how = self._job.end()
        if self._deaths[key] < MAX_DEATHS:
            log.warning("model %s: %s ended early (%s)", self._model.name, NAMES[self._kind], how)
        else:
            self._note(f"{NAMES[self._kind]} ended early ({how}); try: aios model tune")
        self._release()
        self.idle()

    def _finish(self, text: str | None) -> None:
        """End the job, and note what to say of it; None: it is to be tried again."""
        assert self._model and self._model.info
        if text is None:
            key = self._model.info.model_hash, self._kind
            self._not_before[key] = self._loop.now() + AGAIN_S
        else:
            self._note(text)
        if self._job:
            self._job.end()
        self._release()
        self.idle()

    def _note(self, text: str) -> None:
        assert self._model and self._model.info
        if text:
            log.warning("model %s: %s", self._model.name, text)
        self._finished[self._model.info.model_hash, self._kind] = text

    def _release(self) -> None:
        self._end_pause()
        if self._job:
            self._job = None
            self._move("none")
        self._model = None

    def _end_pause(self) -> None:
        if self._pause_timer:
            self._pause_timer.cancel()
        self._pause_timer = None

    def _move(self, state: State) -> None:
        self.state = step(STATES, "idle job", self.state, state)

    def _set_timer(self, delay_s: float, callback: Callable[[], None]) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.after(delay_s, callback)
