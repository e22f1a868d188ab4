"""Serving offered tools and cancelling calls, without a kernel."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace
from typing import Any

import pytest

from aios import session, tools
from aios.syscalls import client, codec
from aios.syscalls.client import Connection
from aios.syscalls.errors import (
    AiosError,
    AuditUnavailable,
    DeadlineExceeded,
    KernelUnavailable,
    NotFound,
    ResourceExhausted,
)
from aios.syscalls.table import BY_NAME
from aios.syscalls.types.common import Empty
from aios.syscalls.types.tool import ToolAnswer, ToolWork

WORK = ToolWork(7, "greet", "{}", 3, "buyer", 0.0)


class Kernel:
    """Answers calls with the replies of a test; records the calls and the pauses between them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *replies: Any) -> None:
        self.replies = iter(replies)
        self.calls: list[str] = []
        self.pauses: list[float] = []
        monkeypatch.setattr(session, "call", self.call)
        monkeypatch.setattr(time, "sleep", self.pauses.append)

    def call(self, name: str, *_: Any) -> Any:
        self.calls.append(name)
        reply = next(self.replies)
        if isinstance(reply, AiosError):
            raise reply
        return reply


def test_serving_continues_after_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [AuditUnavailable("full"), ResourceExhausted("many"), DeadlineExceeded("long")]
    kernel = Kernel(monkeypatch, *errors, AuditUnavailable("full"), WORK, Empty(),
                    KernelUnavailable("gone"))  # fmt: skip
    here = session.Session()
    here.servers = 1
    tools._serve(here)
    assert kernel.calls == ["tool.next"] * 5 + ["tool.answer", "tool.next"]
    assert kernel.pauses == [0.2, 0.4, 0.2], "it doubles until a call succeeds in between"
    assert here.servers == 0


def test_an_answer_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, AuditUnavailable("full"), DeadlineExceeded("long"), Empty())
    tools._tell(ToolAnswer(7, "1"))
    assert len(kernel.calls) == 3
    kernel = Kernel(monkeypatch, DeadlineExceeded("long"), NotFound("it has its answer"))
    tools._tell(ToolAnswer(7, "1"))
    assert len(kernel.calls) == 2
    kernel = Kernel(monkeypatch, *[AuditUnavailable("full")] * 5)
    tools._tell(ToolAnswer(7, "1"))
    assert kernel.pauses == [0.2, 0.4, 0.8, 1.6]


def test_a_call_is_cancelled_when_its_deadline_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[codec.CallFrame] = []

    class Socket:
        def send(self, frame: bytes, flags: int) -> None:
            sent.append(codec.decode_call(frame))

    monkeypatch.setattr(client, "GRACE_S", 0.0)
    connection: Any = Connection.__new__(Connection)
    connection._call_ids, connection._streams = itertools.count(1), {}
    connection._closed = False
    connection._poller = connection._kernel_end = SimpleNamespace(poll=lambda ms: [])
    connection._socket, connection._kernel_fd = Socket(), -1
    with pytest.raises(DeadlineExceeded):
        connection.call("tool.next", Empty(), 0.01)
    assert [request.number for request in sent] == [
        BY_NAME["tool.next"].number, BY_NAME["cancel"].number
    ]  # fmt: skip
    assert sent[1].body == {"call_id": sent[0].call_id}
