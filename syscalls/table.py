"""The one table of system calls. Stubs, handlers and documentation are checked against it.

A new call is one row here, its types in types.py, and one handler in the kernel.

``privilege``: ``any`` caller; ``kin``: a process acts on itself and its descendants, the operator
on all; ``operator``: only connections to the operator's socket.
``effect``: ``read`` changes nothing, ``reversible`` can be undone, ``irreversible`` cannot.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from . import tool_types as tt
from . import types as t

Privilege = Literal["any", "kin", "operator"]
Effect = Literal["read", "reversible", "irreversible"]


class Call(NamedTuple):
    """One row: what crosses the boundary, who may send it, and what it does."""

    number: int
    name: str
    request: type[msgspec.Struct]
    reply: type[msgspec.Struct]
    privilege: Privilege
    effect: Effect
    timeout_s: float
    """Deadline when the caller gives none."""


CALLS: tuple[Call, ...] = (
    Call(1, "getpid", t.Empty, t.Pid, "any", "read", 30),
    Call(2, "cancel", t.CancelRequest, t.Empty, "any", "reversible", 30),
    Call(10, "llm.chat", t.ChatRequest, t.ChatReply, "any", "reversible", 600),
    Call(11, "model.list", t.Empty, t.ModelList, "any", "read", 30),
    Call(12, "model.load", t.ModelRequest, t.ModelInfo, "operator", "reversible", 600),
    Call(13, "model.unload", t.ModelRequest, t.Empty, "operator", "reversible", 30),
    Call(14, "context.save", t.SaveRequest, t.NamedContext, "any", "reversible", 60),
    Call(15, "context.restore", t.ContextName, t.ContextReply, "any", "read", 60),
    Call(16, "context.list", t.Empty, t.ContextList, "any", "read", 30),
    Call(17, "context.remove", t.ContextName, t.Empty, "any", "irreversible", 30),
    Call(20, "proc.ps", t.PsRequest, t.ProcessList, "any", "read", 30),
    Call(21, "proc.spawn", t.SpawnRequest, t.SpawnReply, "any", "irreversible", 60),
    Call(22, "proc.wait", t.RefRequest, t.ExitStatus, "any", "read", t.MAX_TIMEOUT_S),
    Call(23, "proc.signal", t.SignalRequest, t.Empty, "kin", "irreversible", 30),
    Call(24, "proc.renice", t.ReniceRequest, t.Empty, "kin", "reversible", 30),
    Call(25, "proc.log", t.RefRequest, t.LogReply, "kin", "read", 30),
    Call(30, "ipc.send", t.SendRequest, t.Empty, "any", "irreversible", 30),
    Call(31, "ipc.recv", t.RecvRequest, t.MailReply, "any", "irreversible", 600),
    Call(40, "kernel.status", t.Empty, t.KernelStatus, "any", "read", 30),
    Call(41, "kernel.shutdown", t.Empty, t.Empty, "operator", "irreversible", 30),
    Call(42, "kernel.check", t.Empty, t.CheckReply, "operator", "read", 30),
    Call(43, "sched.set", t.SchedRequest, t.SchedReply, "operator", "reversible", 30),
    Call(44, "trace.read", t.TraceRequest, t.TraceReply, "operator", "reversible", 30),
    Call(80, "tool.list", t.Empty, tt.ToolList, "any", "read", 60),
    Call(81, "tool.show", tt.ToolRef, tt.ToolInfo, "any", "read", 60),
    Call(82, "tool.call", tt.ToolCall, tt.ToolReply, "any", "irreversible", 600),
    Call(83, "tool.offer", tt.OfferRequest, t.Empty, "any", "reversible", 30),
    Call(84, "tool.next", t.Empty, tt.ToolWork, "any", "irreversible", t.MAX_TIMEOUT_S),
    Call(85, "tool.answer", tt.AnswerRequest, t.Empty, "any", "irreversible", 30),
    Call(86, "tool.add", tt.SourceRequest, tt.ToolList, "operator", "reversible", 60),
    Call(87, "tool.remove", tt.SourceRef, t.Empty, "operator", "reversible", 30),
    Call(88, "tool.secret", tt.SecretRequest, t.Empty, "operator", "irreversible", 30),
    Call(90, "mcp.list", t.Empty, tt.McpList, "any", "read", 30),
    Call(91, "mcp.add", tt.McpAddRequest, tt.McpInfo, "operator", "reversible", 90),
    Call(92, "mcp.remove", tt.SourceRef, t.Empty, "operator", "reversible", 30),
    Call(93, "mcp.approve", tt.SourceRef, tt.McpInfo, "operator", "reversible", 90),
)

BY_NUMBER: dict[int, Call] = {call.number: call for call in CALLS}
BY_NAME: dict[str, Call] = {call.name: call for call in CALLS}
