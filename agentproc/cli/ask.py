"""Questions to the operator at the terminal of ``aios run``, about what cannot be undone.

Asks one question at a time, on the terminal itself, apart from the agent's input and output.
Anything but yes is no.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import termios

from aios.aio import AsyncConnection
from aios.syscalls.errors import AiosError, DeadlineExceeded
from aios.syscalls.types.access import Approval, ApprovalAnswer
from aios.syscalls.types.common import Empty

from .access import who
from .out import plain

YES = ("y", "yes")


async def ask_all(connection: AsyncConnection) -> None:
    """Ask the kernel's questions about this command's agents until cancelled."""
    fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        while True:
            try:
                question: Approval = await connection.call("access.next", Empty())
            except DeadlineExceeded:
                continue
            termios.tcflush(fd, termios.TCIFLUSH)  # what was typed before is no answer
            os.write(fd, _words(question).encode())
            answer = await _line(fd)
            request = ApprovalAnswer(question.id, answer.strip().lower() in YES)
            try:
                await connection.call("access.answer", request)
            except AiosError as error:
                os.write(fd, f"aios: {error.message}\n".encode())
    finally:
        os.close(fd)


def _words(q: Approval) -> str:
    what = {"irreversible": "which cannot be undone"}.get(q.effect, f"which is {q.effect}")
    given = f"\n      with {plain(q.arguments)}" if q.arguments else ""
    return (f"\naios: {who(q)} (pid {q.pid}) wants to {q.action} {q.kind} "
            f"{plain(q.name)}, {what}{given}\n      Allow it once? [y/N] ")  # fmt: skip


async def _line(fd: int) -> str:
    """Return the next typed line; empty at the end of input."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()

    def ready() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(fd, ready)
    try:
        await readable
        with contextlib.suppress(OSError):
            return os.read(fd, 4096).decode("utf-8", "replace")
        return ""
    finally:
        loop.remove_reader(fd)
