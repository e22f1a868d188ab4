"""The trap: a frame from outside becomes a call, and its result or error becomes a reply.

Promises one reply for every request whose frame can be answered, by its deadline. Only the trap
turns exceptions into replies: a typed error goes to the caller as it is; any other is a bug of the
kernel's, which is logged with its traceback and answered with INTERNAL.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome, start
from aios.syscalls import codec
from aios.syscalls.errors import (
    AiosError,
    AuditUnavailable,
    ConfirmationRequired,
    InvalidArgument,
    NotFound,
)
from aios.syscalls.table import BY_NAME, BY_NUMBER

from .doors import Doors, Peer
from .gatekeeper import CONTINUING, Gatekeeper, Record
from .pending import Caller, Handler, Pending


@dataclass
class Counts:
    """Calls since the kernel started."""

    calls: int = 0
    refused: int = 0


class Trap:
    """Decodes, checks, dispatches, answers."""

    def __init__(
        self,
        loop: Loop,
        doors: Doors,
        access: Gatekeeper,
        record: Record,
        find_caller: Callable[[str], Caller | None],
        behalf: Callable[[int, int], tuple[int, ...]],
        handlers: Mapping[str, Handler],
        counts: Counts,
    ) -> None:
        """``find_caller``: by user. ``behalf``: the pids for whom a pid does a piece of work."""
        if set(handlers) != set(BY_NAME):
            raise AssertionError(f"handlers and table differ: {set(handlers) ^ set(BY_NAME)}")
        self.loop = loop
        self._doors, self._access, self._record = doors, access, record
        self._find_caller, self._behalf, self._counts = find_caller, behalf, counts
        self._handlers = {BY_NAME[name].number: handler for name, handler in handlers.items()}
        self._waits = {BY_NAME[name].number for name, handler in handlers.items()
                       if inspect.iscoroutinefunction(handler)}  # fmt: skip

    def on_frame(self, peer: Peer, frame: bytes, whole: bool) -> None:
        """Handle one frame of an authenticated peer."""
        caller = self._find_caller(peer.user)
        if caller is None:
            return  # its process has just ended
        self._counts.calls += 1
        caller.calls += 1
        try:
            if not whole:
                raise InvalidArgument("a request is one frame; this message had several")
            request = codec.decode_call(frame)
            call = BY_NUMBER.get(request.number)
            if call is None:
                raise NotFound(f"there is no system call {request.number}", "see: aios call --list")
        except AiosError as error:
            self._counts.refused += 1
            call_id = codec.peek_call_id(frame)
            self._doors.send(peer, codec.encode_reply(call_id, codec.ERROR, error.body()))
            return
        self._handle(Pending(self, peer, caller, call, request))

    def _handle(self, pending: Pending) -> None:
        """Check and do a call. Again from the start when the operator had to be asked."""
        try:
            self._begin(pending)
        except Exception as error:
            self._finish(pending, Outcome(None, error))
        finally:
            self._record.kick()

    def _begin(self, pending: Pending) -> None:
        call = pending.call
        if pending.work:
            behalf = self._behalf(pending.caller.pid, pending.work)
            pending.asker = pending.asker._replace(behalf=behalf)
        self._access.check_call(pending.asker, call)
        body = codec.convert(pending.asker.body, call.request)
        handler: Any = self._handlers[call.number]
        if call.number in self._waits:
            pending.wait()
            start(handler(pending, body)).then(lambda outcome: self._finish(pending, outcome))
        elif (result := handler(pending, body)) is not None:
            pending.reply(result)

    def _finish(self, pending: Pending, outcome: Outcome[msgspec.Struct]) -> None:
        self._counts.refused += outcome.error is not None and not pending.ended
        pending.finish(outcome)

    # ------------------------------------------------------------------ what calls ask of it

    def ask(self, pending: Pending, error: AiosError) -> bool:
        """Let a call wait for the operator if one sits at the agent's terminal."""
        assert isinstance(error, ConfirmationRequired)

        def answered() -> None:
            if not pending.ended:  # by another call that waited for the same answer
                pending.begin_again()
                self._handle(pending)

        off = self._access.ask_operator(pending.asker, error.approval, answered)
        if off is None:
            return False
        try:
            pending.await_operator(off, error)
        except AiosError:
            off()
            return False
        return True

    def ended(self, pending: Pending) -> None:
        """The call has ended."""
        if pending.asker.used:
            self._access.call_ended(pending.asker)

    def send(self, pending: Pending, kind: int, body: msgspec.Struct) -> None:
        """Send a reply frame; that of a mutation once the audit log has its record."""
        try:
            frame = codec.encode_reply(pending.call_id, kind, body)
        except AiosError as error:
            frame = codec.encode_reply(pending.call_id, codec.ERROR, error.body())
        call = pending.call
        if call.effect == "read" or self._record.settled or call.name in CONTINUING:
            self._doors.send(pending.peer, frame)
            return

        def written(error: AuditUnavailable | None) -> None:
            if error is None:
                self._doors.send(pending.peer, frame)
            elif kind != codec.CHUNK:
                refusal = codec.encode_reply(pending.call_id, codec.ERROR, error.body())
                self._doors.send(pending.peer, refusal)

        self._record.hold(written)
