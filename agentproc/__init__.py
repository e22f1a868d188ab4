"""AIOS as an agent sees it.

    import aios

    reply = aios.chat("What is an operating system? One sentence.")
    print(reply.text)

An agent is an ordinary Python program. ``aios run agent.py`` starts it as a process of the kernel;
``python agent.py`` also works while a kernel runs. Each function here is a system call: by its
deadline it returns a result or raises one of the errors below.
"""

from __future__ import annotations

from aios.syscalls.errors import (
    AiosError,
    AuditUnavailable,
    BudgetExceeded,
    Cancelled,
    ConfirmationRequired,
    ContextOverflow,
    DeadlineExceeded,
    DiskFull,
    IllegalState,
    InternalError,
    InvalidArgument,
    KernelUnavailable,
    ModelUnavailable,
    NotFound,
    OutputIncomplete,
    PermissionDenied,
    QuotaExceeded,
    ResourceExhausted,
    StorageDamaged,
    StorageUnavailable,
    ToolFailed,
    ToolsUnsupported,
    ToolUnavailable,
    VersionConflict,
)
from aios.syscalls.types.chat import (
    ChatReply,
    Chunk,
    Message,
    NamedContext,
    Timing,
    ToolCall,
    Usage,
    WindowReport,
)
from aios.syscalls.types.mail import MailReply
from aios.syscalls.types.memory import Hit, Note, SearchReply
from aios.syscalls.types.process import ExitStatus, ProcessInfo
from aios.syscalls.types.storage import FileInfo, SearchHit, VersionInfo
from aios.syscalls.types.tool import ToolInfo, ToolReply

from . import fs, kv, memory, tools
from .act import ActResult, Step, aact, act
from .act_turns import ToolUse
from .chat_request import ChatOptions
from .conversation import Context, context
from .embedding import embed
from .sdk import (
    AsyncReplyStream,
    Process,
    ReplyStream,
    achat,
    astream,
    chat,
    getpid,
    getppid,
    ps,
    recv,
    send,
    spawn,
    stream,
    wait,
)
from .tool import Tool, tool

__all__ = [
    "ActResult",
    "AiosError",
    "AsyncReplyStream",
    "AuditUnavailable",
    "BudgetExceeded",
    "Cancelled",
    "ChatOptions",
    "ChatReply",
    "Chunk",
    "ConfirmationRequired",
    "Context",
    "ContextOverflow",
    "DeadlineExceeded",
    "DiskFull",
    "ExitStatus",
    "FileInfo",
    "Hit",
    "IllegalState",
    "InternalError",
    "InvalidArgument",
    "KernelUnavailable",
    "MailReply",
    "Message",
    "ModelUnavailable",
    "NamedContext",
    "NotFound",
    "Note",
    "OutputIncomplete",
    "PermissionDenied",
    "Process",
    "ProcessInfo",
    "QuotaExceeded",
    "ReplyStream",
    "ResourceExhausted",
    "SearchHit",
    "SearchReply",
    "Step",
    "StorageDamaged",
    "StorageUnavailable",
    "Timing",
    "Tool",
    "ToolCall",
    "ToolFailed",
    "ToolInfo",
    "ToolReply",
    "ToolUnavailable",
    "ToolUse",
    "ToolsUnsupported",
    "Usage",
    "VersionConflict",
    "VersionInfo",
    "WindowReport",
    "aact",
    "achat",
    "act",
    "astream",
    "chat",
    "context",
    "embed",
    "fs",
    "getpid",
    "getppid",
    "kv",
    "memory",
    "ps",
    "recv",
    "send",
    "spawn",
    "stream",
    "tool",
    "tools",
    "wait",
]
