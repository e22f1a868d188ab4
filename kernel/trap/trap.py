"""The trap: where a frame from outside becomes a call, and a result or an error becomes a reply.

Promises one reply for every request whose frame can be answered, by its deadline. This is the only
place that turns exceptions into replies: a typed error is told as it is; anything else is a bug of
the kernel's, is logged with its traceback and told as INTERNAL.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from aios.kernel.access.approvals import Question
from aios.kernel.access.audit.log import AuditLog
from aios.kernel.access.manager import AccessManager
from aios.kernel.access.standing import CONTINUING, Asker
from aios.kernel.loop.loop import Loop, Timer
from aios.syscalls import codec
from aios.syscalls.chat_types import Chunk
from aios.syscalls.errors import (
    AiosError,
    AuditUnavailable,
    Cancelled,
    ConfirmationRequired,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from aios.syscalls.table import BY_NAME, BY_NUMBER, Call

from .doors import Doors, Peer

log = logging.getLogger("aios.trap")

MOST_PENDING = 1024
"""Calls that one caller may have waiting."""
_FROZEN_S = 10 * 365 * 86400.0
"""Further away than any kernel lives."""


class Caller:
    """Who makes calls: an agent (its pid) or an operator's program (pid 0), by connection."""

    def __init__(self, user: str, pid: int, os_pid: int) -> None:
        self.user, self.pid, self.os_pid = user, pid, os_pid
        self.pending: dict[tuple[bytes, int], Pending] = {}
        self.calls = 0


class Pending:
    """One call on its way through the kernel. It ends once: by reply, fail or cancel."""

    __slots__ = ("_late", "_on_end", "_timer", "_trap", "asker", "call", "call_id", "caller",
                 "ended", "peer", "timeout_s", "work")  # fmt: skip

    def __init__(
        self, trap: Trap, peer: Peer, caller: Caller, call: Call, request: codec.Request
    ) -> None:
        self._trap, self.peer, self.caller, self.call = trap, peer, caller, call
        self.call_id, self.work = request.call_id, request.work
        self.asker = Asker(caller.pid, body=request.body, used=[])
        self.timeout_s = request.timeout_s or call.timeout_s
        self.ended = False
        self._timer: Timer | None = None
        self._on_end: Callable[[AiosError], None] | None = None
        self._late: AiosError | None = None

    def defer(self, on_end: Callable[[AiosError], None]) -> None:
        """The reply comes later. ``on_end`` drops the work when the call ends before that.

        Called once more when another part has taken the work over: its ``on_end`` counts then.
        Raises ResourceExhausted when the caller has too many such calls.
        """
        pending = self.caller.pending
        if pending.get((self.peer.route, self.call_id)) is self:
            self._on_end = on_end  # it went on to another stage
            return
        if len(pending) >= MOST_PENDING:
            raise ResourceExhausted(
                f"{len(pending)} calls of this caller are waiting; the limit is {MOST_PENDING}",
                "wait for some of them",
            )
        if (self.peer.route, self.call_id) in pending:
            raise InvalidArgument(f"call id {self.call_id} is in use by a call that still waits")
        pending[self.peer.route, self.call_id] = self
        self._on_end = on_end
        self._timer = self._trap.loop.at(time.monotonic() + self.timeout_s, self._expire)

    def await_operator(self, off: Callable[[], None], error: AiosError) -> None:
        """The operator is asked meanwhile; ``error`` is told when that lasts too long.

        Raises ResourceExhausted.
        """
        if self._timer is None:
            self.defer(lambda _: off())
        self._on_end, self._late = lambda _: off(), error

    def begin_again(self) -> None:
        """As if it had just come, with what is left of its time."""
        assert self._timer
        self.timeout_s = max(0.0, self._timer.due_s - time.monotonic())
        self._timer.cancel()
        self._timer = self._on_end = self._late = None
        del self.caller.pending[self.peer.route, self.call_id]

    def reply(self, body: msgspec.Struct) -> None:
        """End with a result. Nothing happens when it has ended."""
        if self._end():
            self._trap.send(self, codec.RESULT, body)

    def fail(self, error: AiosError) -> None:
        """End with an error, told to the caller only. Nothing happens when it has ended.

        What needs the operator's leave waits instead, if one can be asked at once.
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
            if self._on_end:
                self._on_end(error)

    def abandon(self, error: AiosError) -> None:
        """Drop the work without a word: the caller is dead, or about to be killed."""
        if self._end() and self._on_end:
            self._on_end(error)

    def chunk(self, text: str) -> None:
        """Stream a piece of the result."""
        if not self.ended:
            self._trap.send(self, codec.CHUNK, Chunk(text))

    def _postpone(self, by_s: float) -> None:
        """Move the deadline."""
        if self._timer and not self._timer.cancelled:
            due_s = self._timer.due_s + by_s
            self._timer.cancel()
            self._timer = self._trap.loop.at(due_s, self._expire)

    def freeze(self) -> None:
        """Stop the deadline's clock until ``thaw``."""
        if self._timer and not self._timer.cancelled:
            self._timer.cancel()
            self._timer = self._trap.loop.at(self._timer.due_s + _FROZEN_S, self._expire)

    def thaw(self, frozen_s: float) -> None:
        """Start it again, later by the time that it stood still."""
        self._postpone(frozen_s - _FROZEN_S)

    def _end(self) -> bool:
        if self.ended:
            return False
        self.ended = True
        if self._timer:
            self._timer.cancel()
            self.caller.pending.pop((self.peer.route, self.call_id), None)
        if self.asker.used:
            self._trap.forget(self.asker.used)
        return True

    def _expire(self) -> None:
        self.cancel(self._late or DeadlineExceeded(
            f"{self.call.name} did not end within {self.timeout_s:g} s",
            "give the call a larger timeout, or look who holds the model with: aios ps"
            if self.call.name.startswith("llm.")
            else "give the call a larger timeout, or look what does not answer: aios daemon status",
        ))  # fmt: skip


Handler = Callable[[Pending, Any], msgspec.Struct | None]
"""Returns the reply, or None after ``defer``. Raises AiosError."""


class Trap:
    """Decodes, checks, dispatches, answers."""

    def __init__(
        self,
        loop: Loop,
        access: AccessManager,
        audit: AuditLog,
        find_caller: Callable[[str], Caller | None],
        behalf: Callable[[int, int], tuple[int, ...]],
        handlers: Mapping[str, Handler],
    ) -> None:
        if set(handlers) != set(BY_NAME):
            raise AssertionError(f"handlers and table differ: {set(handlers) ^ set(BY_NAME)}")
        self.loop = loop
        self._access, self._audit, self._find_caller = access, audit, find_caller
        self._behalf = behalf
        self._handlers = {BY_NAME[name].number: handler for name, handler in handlers.items()}
        self.doors: Doors | None = None
        self.calls = self.refused = 0

    def on_frame(self, peer: Peer, frame: bytes, whole: bool) -> None:
        """One frame from a peer that the door has authenticated."""
        caller = self._find_caller(peer.user)
        if caller is None:
            return  # its process has just ended
        self.calls += 1
        caller.calls += 1
        try:
            if not whole:
                raise InvalidArgument("a request is one frame; this message had several")
            request = codec.decode_request(frame)
            call = BY_NUMBER.get(request.number)
            if call is None:
                raise NotFound(f"there is no system call {request.number}", "see: aios call --list")
        except AiosError as error:
            self.refused += 1
            call_id = codec.peek_call_id(frame)
            if self.doors:
                self.doors.send(peer, codec.encode_reply(call_id, codec.ERROR, error.body()))
            return
        self._handle(Pending(self, peer, caller, call, request))

    def _handle(self, pending: Pending) -> None:
        """Check and do a call. Once more from the start when the operator had to be asked."""
        call = pending.call
        try:
            if pending.work:
                behalf = self._behalf(pending.caller.pid, pending.work)
                pending.asker = pending.asker._replace(behalf=behalf)
            self._access.check_call(pending.asker, call)
            body = codec.convert(pending.asker.body, call.request)
            result = self._handlers[call.number](pending, body)
            if result is not None:
                pending.reply(result)
        except AiosError as error:
            self._refuse(pending, error)
        except Exception:
            log.exception("a handler failed on a call by %s", pending.caller.user)
            self._refuse(pending, InternalError(
                "the kernel failed on this call", "its log says why; please report it"
            ))  # fmt: skip
        finally:
            self._audit.kick()

    def ask(self, pending: Pending, error: AiosError) -> bool:
        """Let a call wait for the operator when one sits at the agent's terminal."""
        assert isinstance(error, ConfirmationRequired)
        self._access.approvals.give_back(pending.asker.used or [])
        if not self._access.asked_at_terminal(pending.caller.pid):
            return False

        def answered() -> None:
            pending.begin_again()
            self._handle(pending)

        off = self._access.approvals.when_answered(error.approval, answered)
        try:
            pending.await_operator(off, error)
        except AiosError:
            off()
            return False
        return True

    def forget(self, used: list[Question]) -> None:
        """The approvals that a call has used, when it has ended."""
        self._access.approvals.forget(used)

    def cancel(self, pending: Pending, call_id: int) -> None:
        """The caller cancels one of its own calls on the same connection."""
        target = pending.caller.pending.get((pending.peer.route, call_id))
        if target:
            target.cancel(Cancelled("cancelled by its caller"))

    def send(self, pending: Pending, kind: int, body: msgspec.Struct) -> None:
        """Send a reply frame; that of a mutation when the audit log has its record."""
        try:
            frame = codec.encode_reply(pending.call_id, kind, body)
        except AiosError as error:
            frame = codec.encode_reply(pending.call_id, codec.ERROR, error.body())
        call = pending.call
        if call.effect == "read" or self._audit.settled or call.name in CONTINUING:
            self._send(pending, frame)
            return

        def written(error: AuditUnavailable | None) -> None:
            if error is None:
                self._send(pending, frame)
            elif kind != codec.CHUNK:
                told = codec.encode_reply(pending.call_id, codec.ERROR, error.body())
                self._send(pending, told)

        self._audit.hold(written)

    def _send(self, pending: Pending, frame: bytes) -> None:
        assert self.doors
        self.doors.send(pending.peer, frame)

    def _refuse(self, pending: Pending, error: AiosError) -> None:
        self.refused += 1
        pending.fail(error)
