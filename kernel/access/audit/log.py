"""The audit log in the kernel's thread: takes entries, and holds replies until they are written.

A worker writes entries in batches (group commit), so the kernel never waits for a disk. An entry
for a mutation is rejected when it does not fit in the space that the worker has reserved; the
mutation must then not happen. The reply to a mutation is held until its entry is written. Without
space, entries for reads are dropped and counted, and reads continue.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from aios.kernel.loop.loop import Loop, Timer
from aios.kernel.loop.task import Outcome, detach
from aios.kernel.loop.worker import Worker
from aios.syscalls.errors import AuditUnavailable

from .file import AuditFile, Space
from .records import MAX_HEAD_BYTES, Entry, text

log = logging.getLogger("aios.audit")

BATCH_S = 0.1
"""Delay of entries for reads, to batch them."""
SYNC_S = 1.0
"""Delay from a write to the sync."""
RETRY_S = 1.0
"""Delay after a failed write."""


class Line(NamedTuple):
    """An entry with its encoding and the size limit of its record; ``mutates`` for a mutation."""

    entry: Entry
    text: bytes
    size_bytes: int
    mutates: bool


def line(entry: Entry, *, mutates: bool) -> Line:
    """Encode an entry; equal decisions can share the line."""
    written = text(entry)
    return Line(entry, written, MAX_HEAD_BYTES + len(written), mutates)


Held = Callable[[AuditUnavailable | None], None]


class AuditLog:
    """The log. ``worker`` must be free of long jobs."""

    def __init__(self, loop: Loop, worker: Worker, file: AuditFile) -> None:
        self._loop, self._worker, self._file = loop, worker, file
        self._space, self._reason = 0, "not open"
        self._entries: list[tuple[float, bytes]] = []
        self._bytes = self._flying_bytes = self._lost = 0
        self._in_flight = self._broken = False
        self._seq = self._due = self._written = 0
        self._held: deque[tuple[int, Held]] = deque()
        self._flush_timer: Timer | None = None
        self._sync_timer: Timer | None = None

    def open(self, first_words: str) -> None:
        """Open the log; blocks. While it cannot be written, the kernel serves reads only."""
        try:
            self._has_space(self._file.open(first_words))
        except OSError as error:
            self._failed(error)

    def append(self, added: Line) -> None:
        """Add an entry. Raises AuditUnavailable for a mutation for which there is no space."""
        _, written, size, mutates = added
        if self._bytes + self._flying_bytes + size > self._space:
            self._later(RETRY_S)
            if mutates:
                raise self.unavailable()
            self._lost += 1
            return
        self._seq += 1
        self._entries.append((self._loop.clock.unix(), written))
        self._bytes += size
        if mutates:
            self._due = self._seq
        if self._flush_timer is None:
            self._later(BATCH_S)

    def unavailable(self) -> AuditUnavailable:
        """Return the error for a mutation that cannot be recorded."""
        return AuditUnavailable(
            f"the audit log cannot be written ({self._reason or 'it does not keep up'}), "
            "so nothing may be changed",
            "free disk space (aios audit path prints the folder); reads continue",
        )

    def warnings(self) -> list[str]:
        """Return warnings for the kernel's status."""
        error = self.unavailable()
        return [f"{error.message}; {error.hint}"] if self._reason else []

    @property
    def settled(self) -> bool:
        """True if the entries of all mutations are written."""
        return self._written >= self._due

    def kick(self) -> None:
        """Write the entries of mutations now."""
        if self._written < self._due and not self._in_flight and not self._broken:
            self._flush()

    def hold(self, reply: Held) -> None:
        """Call ``reply`` when all mutations so far are written, or with an error."""
        if self._written >= self._due:
            reply(None)
            return
        if self._broken:
            reply(self.unavailable())
            return
        self._held.append((self._due, reply))
        self.kick()

    def close(self) -> None:
        """Write all entries; the caller then closes the worker."""
        for timer in (self._flush_timer, self._sync_timer):
            if timer:
                timer.cancel()
        if self._entries and not self._in_flight:
            self._flush()
        self._worker.submit(self._file.close, lambda outcome: None)

    def check(self) -> list[str]:
        """Return inconsistencies and write errors; empty if there are none."""
        problems = [f"audit log: {self._reason}"] if self._reason else []
        if self._written > self._seq or self._due > self._seq:
            problems.append(f"audit log: {self._written} of {self._seq} written, {self._due} due")
        return problems

    # ------------------------------------------------------------------ the worker's side

    def _later(self, after_s: float) -> None:
        if self._flush_timer is None:
            self._flush_timer = self._loop.after(after_s, self._flush)

    def _flush(self) -> None:
        if self._flush_timer:
            self._flush_timer.cancel()
            self._flush_timer = None
        if self._in_flight:
            return  # its completion writes the rest
        self._in_flight = True
        batch, self._entries = self._entries, []
        self._flying_bytes, self._bytes = self._bytes, 0
        detach(self._append(batch, self._lost, self._seq))

    async def _append(self, batch: list[tuple[float, bytes]], lost: int, last: int) -> None:
        """Write a batch, up to the entry ``last``, with a record of ``lost`` entries."""
        try:
            space = await self._worker.run(lambda: self._file.append(batch, lost))
        except OSError as error:
            self._in_flight = False
            self._entries = batch + self._entries
            self._bytes += self._flying_bytes
            self._flying_bytes = 0
            self._failed(error)
            return
        self._in_flight = False
        self._flying_bytes = 0
        self._lost -= lost
        self._written = last
        self._has_space(space)
        self._release(None)
        if self._entries:
            self._flush() if self._written < self._due else self._later(BATCH_S)

    def _has_space(self, space: Space) -> None:
        if space.reason and not self._reason:
            log.error("no space for the audit log: %s", space.reason)
        self._space, self._reason = space
        self._broken = False
        if self._sync_timer is None:
            self._sync_timer = self._loop.after(SYNC_S, self._sync)

    def _sync(self) -> None:
        self._sync_timer = None
        self._worker.submit(self._file.sync, _complain)

    def _failed(self, error: OSError) -> None:
        """Reject mutations until a retry succeeds."""
        log.error("the audit log cannot be written: %s", error)
        self._broken = True
        self._space, self._reason = 0, error.strerror or str(error)
        if error.filename:
            self._reason = f"{error.filename}: {self._reason}"
        self._release(self.unavailable())
        self._later(RETRY_S)

    def _release(self, error: AuditUnavailable | None) -> None:
        while self._held and (error or self._held[0][0] <= self._written):
            self._held.popleft()[1](error)


def _complain(outcome: Outcome[None]) -> None:
    if outcome.error:
        log.error("the audit log could not be synced: %s", outcome.error)
