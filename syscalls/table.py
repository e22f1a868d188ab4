"""The table of system calls. Stubs, handlers and documentation are checked against it.

A new call is one row here, its types in ``types/``, and one handler in the kernel.

``privilege``: ``any`` caller; ``kin``: a process acts on itself and its descendants, the operator
on all; ``operator``: only connections to the operator's socket.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from .types import access as a
from .types import chat as c
from .types import kernel as k
from .types import mail, trace
from .types import memory as m
from .types import process as p
from .types import storage as s
from .types import tool as t
from .types.common import MAX_TIMEOUT_S, Effect, Empty

Privilege = Literal["any", "kin", "operator"]


class Call(NamedTuple):
    """One row: the types that cross the boundary, who may make the call, and its effect."""

    number: int
    name: str
    request: type[msgspec.Struct]
    reply: type[msgspec.Struct]
    privilege: Privilege
    effect: Effect
    timeout_s: float
    """Deadline when the caller gives none."""


CALLS: tuple[Call, ...] = (
    Call(1, "getpid", Empty, p.Pid, "any", "read", 30),
    Call(2, "cancel", k.CancelRequest, Empty, "any", "reversible", 30),
    Call(10, "llm.chat", c.ChatRequest, c.ChatReply, "any", "reversible", 600),
    Call(11, "model.list", Empty, k.ModelList, "any", "read", 30),
    Call(12, "model.load", k.ModelRequest, k.ModelInfo, "operator", "reversible", 600),
    Call(13, "model.unload", k.ModelRequest, Empty, "operator", "reversible", 30),
    Call(14, "context.save", c.SaveRequest, c.NamedContext, "any", "reversible", 60),
    Call(15, "context.restore", c.ContextName, c.ContextReply, "any", "read", 60),
    Call(16, "context.list", c.ContextsOf, c.ContextList, "any", "read", 30),
    Call(17, "context.remove", c.ContextName, Empty, "any", "irreversible", 30),
    Call(18, "llm.embed", c.EmbedRequest, c.EmbedReply, "any", "read", 300),
    Call(20, "proc.ps", p.PsRequest, p.ProcessList, "any", "read", 30),
    Call(21, "proc.spawn", p.SpawnRequest, p.SpawnReply, "any", "irreversible", 60),
    Call(22, "proc.wait", p.RefRequest, p.ExitStatus, "any", "read", MAX_TIMEOUT_S),
    Call(23, "proc.signal", p.SignalRequest, Empty, "kin", "irreversible", 30),
    Call(24, "proc.renice", p.ReniceRequest, Empty, "kin", "reversible", 30),
    Call(25, "proc.log", p.RefRequest, p.LogReply, "kin", "read", 30),
    Call(30, "ipc.send", mail.SendRequest, Empty, "any", "irreversible", 30),
    Call(31, "ipc.recv", mail.RecvRequest, mail.MailReply, "any", "irreversible", 600),
    Call(40, "kernel.status", Empty, k.KernelStatus, "any", "read", 30),
    Call(41, "kernel.shutdown", Empty, Empty, "operator", "irreversible", 30),
    Call(42, "kernel.check", Empty, k.CheckReply, "operator", "read", 30),
    Call(43, "sched.set", k.SchedRequest, k.SchedReply, "operator", "reversible", 30),
    Call(44, "trace.read", trace.TraceRequest, trace.TraceReply, "operator", "reversible", 30),
    Call(60, "memory.add", m.AddRequest, m.Note, "any", "reversible", 30),
    Call(61, "memory.get", m.NoteRef, m.Note, "any", "read", 30),
    Call(62, "memory.update", m.UpdateRequest, m.Note, "any", "irreversible", 30),
    Call(63, "memory.remove", m.NoteRef, Empty, "any", "irreversible", 30),
    Call(64, "memory.search", m.SearchRequest, m.SearchReply, "any", "read", 60),
    Call(65, "memory.list", m.ListRequest, m.NoteList, "any", "read", 30),
    Call(66, "memory.clear", m.ScopeRef, m.Cleared, "any", "irreversible", 60),
    Call(67, "memory.scopes", Empty, m.ScopeList, "any", "read", 30),
    Call(68, "memory.check", Empty, m.MemoryReport, "operator", "read", 600),
    Call(69, "memory.backup", m.BackupRequest, m.MemoryReport, "operator", "reversible", 600),
    Call(80, "tool.list", Empty, t.ToolList, "any", "read", 60),
    Call(81, "tool.show", t.ToolRef, t.ToolInfo, "any", "read", 60),
    Call(82, "tool.call", t.ToolCall, t.ToolReply, "any", "irreversible", 600),
    Call(83, "tool.offer", t.OfferRequest, Empty, "any", "reversible", 30),
    Call(84, "tool.next", Empty, t.ToolWork, "any", "irreversible", MAX_TIMEOUT_S),
    Call(85, "tool.answer", t.ToolAnswer, Empty, "any", "irreversible", 30),
    Call(86, "tool.add", t.SourceRequest, t.ToolList, "operator", "reversible", 60),
    Call(87, "tool.remove", t.SourceRef, Empty, "operator", "reversible", 30),
    Call(88, "tool.secret", t.SecretRequest, Empty, "operator", "irreversible", 30),
    Call(90, "mcp.list", Empty, t.McpList, "any", "read", 30),
    Call(91, "mcp.add", t.McpAddRequest, t.McpInfo, "operator", "reversible", 90),
    Call(92, "mcp.remove", t.SourceRef, Empty, "operator", "reversible", 30),
    Call(93, "mcp.approve", t.SourceRef, t.McpInfo, "operator", "reversible", 90),
    Call(100, "fs.write", s.FsWrite, s.FileInfo, "any", "reversible", 60),
    Call(101, "fs.read", s.FsRead, s.FsData, "any", "read", 60),
    Call(102, "fs.list", s.FsList, s.FsEntries, "any", "read", 30),
    Call(103, "fs.stat", s.FsPath, s.FileInfo, "any", "read", 30),
    Call(104, "fs.move", s.FsMove, s.FileInfo, "any", "reversible", 60),
    Call(105, "fs.delete", s.FsDelete, Empty, "any", "reversible", 60),
    Call(106, "fs.mkdir", s.FsPath, s.FileInfo, "any", "reversible", 30),
    Call(107, "fs.history", s.FsPath, s.FsVersions, "any", "read", 30),
    Call(108, "fs.rollback", s.FsRollback, s.FileInfo, "any", "reversible", 30),
    Call(109, "fs.prune", s.FsPrune, s.FsPruned, "any", "irreversible", 120),
    Call(110, "fs.begin", s.FsBegin, s.FsUpload, "any", "reversible", 30),
    Call(111, "fs.part", s.FsPart, Empty, "any", "reversible", 60),
    Call(112, "fs.end", s.FsEnd, s.FileInfo, "any", "reversible", 60),
    Call(113, "fs.drop", s.FsEnd, Empty, "any", "reversible", 30),
    Call(114, "fs.share", s.FsShare, s.FsShared, "any", "reversible", 30),
    Call(115, "fs.shares", Empty, s.FsShares, "any", "read", 30),
    Call(116, "fs.search", s.FsSearch, s.FsFound, "any", "read", 60),
    Call(117, "fs.usage", Empty, s.FsUsage, "any", "read", 30),
    Call(120, "kv.get", s.KvKey, s.KvEntry, "any", "read", 30),
    Call(121, "kv.set", s.KvSet, s.KvEntry, "any", "reversible", 30),
    Call(122, "kv.delete", s.KvDelete, Empty, "any", "irreversible", 30),
    Call(123, "kv.list", s.KvList, s.KvKeys, "any", "read", 30),
    Call(130, "storage.mount", s.MountRequest, s.MountList, "operator", "reversible", 30),
    Call(131, "storage.mounts", Empty, s.MountList, "operator", "read", 30),
    Call(132, "storage.quota", s.QuotaRequest, s.FsUsage, "operator", "reversible", 30),
    Call(133, "storage.status", Empty, s.StorageStatus, "operator", "read", 30),
    Call(134, "storage.check", s.StorageCheck, s.StorageReport, "operator", "irreversible", 3600),
    Call(135, "storage.backup", s.StorageBackup, s.BackupReply, "operator", "reversible", 3600),
    Call(140, "access.policy", Empty, a.PolicyReply, "operator", "read", 30),
    Call(141, "access.reload", Empty, a.PolicyReply, "operator", "reversible", 30),
    Call(142, "access.grant", a.GrantRequest, a.GrantInfo, "operator", "reversible", 30),
    Call(143, "access.revoke", a.RevokeRequest, a.GrantInfo, "operator", "reversible", 30),
    Call(144, "access.explain", a.ExplainRequest, a.ExplainReply, "operator", "read", 30),
    Call(145, "access.approvals", Empty, a.ApprovalList, "operator", "read", 30),
    Call(146, "access.answer", a.ApprovalAnswer, a.Approval, "operator", "irreversible", 30),
    Call(147, "access.next", Empty, a.Approval, "operator", "read", MAX_TIMEOUT_S),
)

BY_NUMBER: dict[int, Call] = {call.number: call for call in CALLS}
BY_NAME: dict[str, Call] = {call.name: call for call in CALLS}
