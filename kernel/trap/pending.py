"""One system call in flight: from its frame to its reply.

    running → waiting ⇄ asking → ended      asking → running: begun again from the start

Promises that a call ends once: with a result, an error, or silently when its caller is gone; and
that one whose handler waits ends by its deadline.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import msgspec

from aios.kernel.loop.loop import Loop, Timer
from aios.kernel.loop.states import step
from aios.kernel.loop.task import Outcome, Task
from aios.syscalls import codec
from aios.syscalls.errors import (
    AiosError,
    ConfirmationRequired,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    ResourceExhausted,
)
from aios.syscalls.table import Call
from aios.syscalls.types.chat import Chunk

from .asker import Asker
from .doors import Peer

log = logging.getLogger("aios.trap")

MAX_PENDING = 1024
"""Limit on waiting calls per caller."""
_FROZEN_S = 10 * 365 * 86400.0
"""Longer than any kernel runs."""

Stage = Literal["running", "waiting", "asking", "ended"]
STAGES: Mapping[Stage, frozenset[Stage]] = {
    "running": frozenset({"waiting", "asking", "ended"}),
    "waiting": frozenset({"asking", "ended"}),
    "asking": frozenset({"running", "ended"}),
    "ended": frozenset(),
}
"""``running``: its handler has not waited yet; ``asking``: it waits for the operator's answer."""


class Caller:
    """An agent (its pid) or a program of the operator's (pid 0) that makes calls."""

    def __init__(self, user: str, pid: int, os_pid: int) -> None:
        self.user, self.pid, self.os_pid = user, pid, os_pid
        self.pending: dict[tuple[bytes, int], Pending] = {}
        self.calls = 0


class Sender(Protocol):
    """The trap, as a call sees it."""

    loop: Loop

    def send(self, pending: Pending, kind: int, body: msgspec.Struct) -> None:
        """Send a reply frame."""

    def ask(self, pending: Pending, error: AiosError) -> bool:
        """Let the call wait for the operator; False when it cannot."""

    def ended(self, pending: Pending) -> None:
        """The call has ended."""


class Pending:
    """A call. Handlers get it as ``call``; they return or raise, and the trap ends it."""

    __slots__ = ("_drop", "_late", "_stage", "_timer", "_trap", "asker", "call", "call_id",
                 "caller", "peer", "timeout_s", "work")  # fmt: skip

    def __init__(
        self, trap: Sender, peer: Peer, caller: Caller, call: Call, request: codec.CallFrame
    ) -> None:
        self._trap, self.peer, self.caller, self.call = trap, peer, caller, call
        self.call_id, self.work = request.call_id, request.work
        self.asker = Asker(caller.pid, body=request.body, used=[])
        self.timeout_s = request.timeout_s or call.timeout_s
        self._stage: Stage = "running"
        self._timer: Timer | None = None
        self._drop: Callable[[AiosError], None] | None = None
        self._late: AiosError | None = None

    @property
    def ended(self) -> bool:
        """It has been answered, or given up; a further reply goes nowhere."""
        return self._stage == "ended"

    # ------------------------------------------------------------------ waiting

    def wait(self) -> None:
        """Its handler waits: the deadline counts. Raises ResourceExhausted when too many calls of
        this caller wait, InvalidArgument when its number is in use."""
        if self._stage == "waiting":
            return
        pending = self.caller.pending
        if len(pending) >= MAX_PENDING:
            raise ResourceExhausted(
                f"{len(pending)} calls of this caller are waiting; the limit is {MAX_PENDING}",
                "wait for some of them",
            )
        if (self.peer.route, self.call_id) in pending:
            raise InvalidArgument(f"call id {self.call_id} is in use by a call that still waits")
        self._move("waiting")
        pending[self.peer.route, self.call_id] = self
        self._timer = self._trap.loop.after(self.timeout_s, self._expire)

    def on_end(self, drop: Callable[[AiosError], None]) -> None:
        """Set what drops the work when the call ends early. A later stage's replaces it."""
        self._drop = drop

    def defer(self, drop: Callable[[AiosError], None]) -> None:
        """Wait, as a handler that is no coroutine. Raises as ``wait`` does."""
        self.wait()
        self.on_end(drop)

    def freeze(self) -> None:
        """Stop the deadline's clock until ``thaw``."""
        self._postpone(_FROZEN_S)

    def thaw(self, frozen_s: float) -> None:
        """Start the deadline's clock again, ``frozen_s`` after it was stopped."""
        self._postpone(frozen_s - _FROZEN_S)

    def _postpone(self, by_s: float) -> None:
        if self._timer and not self._timer.cancelled:
            due_s = self._timer.due_s + by_s
            self._timer.cancel()
            self._timer = self._trap.loop.at(due_s, self._expire)

    # ------------------------------------------------------------------ asking the operator

    def await_operator(self, off: Callable[[], None], error: AiosError) -> None:
        """Wait for the operator's answer; ``error`` is the reply when none comes in time.

        Raises ResourceExhausted.
        """
        self.wait()
        self._move("asking")
        self._drop, self._late = lambda _: off(), error

    def begin_again(self) -> None:
        """Start from the beginning, with the time that is left."""
        assert self._timer
        self._move("running")
        self.timeout_s = max(0.0, self._timer.due_s - self._trap.loop.now())
        self._timer.cancel()
        self._timer = self._drop = self._late = None
        del self.caller.pending[self.peer.route, self.call_id]

    # ------------------------------------------------------------------ ends

    def finish(self, outcome: Outcome[msgspec.Struct]) -> None:
        """End with what the handler returned or raised: the one way from an outcome to a reply."""
        error = outcome.error
        if error is None:
            self.reply(outcome.result())
        elif isinstance(error, AiosError):
            self.fail(error)
        else:
            log.error("%s by %s failed", self.call.name, self.caller.user, exc_info=error)
            self.fail(InternalError(
                "the kernel failed on this call", "its log says why; please report it"
            ))  # fmt: skip

    def reply(self, body: msgspec.Struct) -> None:
        """End with a result. Does nothing when it has ended."""
        if self._end():
            self._trap.send(self, codec.RESULT, body)

    def fail(self, error: AiosError) -> None:
        """End with an error for the caller. Does nothing when it has ended.

        A call that needs the operator's approval waits instead if the operator can be asked.
        """
        asks = isinstance(error, ConfirmationRequired) and error is not self._late
        if asks and not self.ended and self._trap.ask(self, error):
            return
        if self._end():
            self._trap.send(self, codec.ERROR, error.body())

    def cancel(self, error: AiosError) -> None:
        """End with an error, and drop the work."""
        if not self.ended:
            self.fail(error)
            if self._drop:
                self._drop(error)

    def abandon(self, error: AiosError) -> None:
        """Drop the work without a reply: the caller is dead, or about to be killed."""
        if self._end() and self._drop:
            self._drop(error)

    def chunk(self, piece: Chunk) -> None:
        """Stream a piece of the result."""
        if not self.ended:
            self._trap.send(self, codec.CHUNK, piece)

    def _end(self) -> bool:
        if self.ended:
            return False
        self._move("ended")
        if self._timer:
            self._timer.cancel()
            self.caller.pending.pop((self.peer.route, self.call_id), None)
        self._trap.ended(self)
        return True

    def _move(self, to: Stage) -> None:
        self._stage = step(STAGES, self.call.name, self._stage, to)

    def _expire(self) -> None:
        self.cancel(self._late or DeadlineExceeded(
            f"{self.call.name} did not end within {self.timeout_s:g} s",
            "give the call a larger timeout, or see who holds the model: aios ps"
            if self.call.name.startswith("llm.")
            else "give the call a larger timeout, or see what does not answer: aios daemon status",
        ))  # fmt: skip


Handler = Callable[[Pending, Any], "msgspec.Struct | Task[msgspec.Struct] | None"]
"""Returns the reply, or is a coroutine that does; None after ``defer``. Raises AiosError."""
