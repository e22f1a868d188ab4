"""Calls on tools."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from aios.kernel.loop.task import Promise, start
from aios.kernel.tools.calls import ToolHandlers
from aios.syscalls.errors import Cancelled
from aios.syscalls.types.tool import OfferRequest, ToolCall


@pytest.mark.parametrize(
    ("name", "body"), [("tool.call", ToolCall("rm", "{}")), ("tool.offer", OfferRequest([]))]
)
def test_a_call_that_ended_while_tools_were_listed_does_nothing(name: str, body: Any) -> None:
    listed: Promise[None] = Promise()
    table: Any = SimpleNamespace(caller=lambda pid: SimpleNamespace(pid=pid, name="a"))
    registry: Any = SimpleNamespace(ready=lambda: listed)
    unused: Any = SimpleNamespace()  # anything that is done would need a part of it
    handlers: Any = ToolHandlers(table, unused, registry, unused, unused, unused, unused).handlers
    call = SimpleNamespace(ended=False, caller=SimpleNamespace(pid=1))
    errors: list[Exception | None] = []
    start(handlers[name](call, body)).then(lambda outcome: errors.append(outcome.error))
    call.ended = True
    listed.resolve(None)
    assert isinstance(errors[0], Cancelled)
