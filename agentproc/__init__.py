"""AIOS, as an agent sees it.

    import aios

    reply = aios.chat("What is an operating system? One sentence.")
    print(reply.text)

An agent is an ordinary Python program. ``aios run agent.py`` starts it as a process of the kernel;
``python agent.py`` works too, as long as a kernel runs. Every function here is a system call: it
returns by its deadline, with a result or with one of the errors below.

Import direction: syscalls and hw know nobody; kernel uses both; this package uses syscalls alone.
"""

from __future__ import annotations

from . import tools
from .act import ActResult, Step, ToolUse, act
from .conversation import Context, context
from .sdk import (
    AsyncReplyStream,
    ChatOptions,
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
from .syscalls.errors import (
    AiosError,
    BudgetExceeded,
    Cancelled,
    ContextOverflow,
    DeadlineExceeded,
    IllegalState,
    InternalError,
    InvalidArgument,
    KernelUnavailable,
    ModelUnavailable,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ToolFailed,
    ToolUnavailable,
)
from .syscalls.tool_types import ToolInfo, ToolReply
from .syscalls.types import (
    ChatReply,
    ExitStatus,
    MailReply,
    Message,
    NamedContext,
    ProcessInfo,
    Timing,
    Usage,
    WindowReport,
)
from .tool import Tool, tool

__all__ = [
    "ActResult",
    "AiosError",
    "AsyncReplyStream",
    "BudgetExceeded",
    "Cancelled",
    "ChatOptions",
    "ChatReply",
    "Context",
    "ContextOverflow",
    "DeadlineExceeded",
    "ExitStatus",
    "IllegalState",
    "InternalError",
    "InvalidArgument",
    "KernelUnavailable",
    "MailReply",
    "Message",
    "ModelUnavailable",
    "NamedContext",
    "NotFound",
    "PermissionDenied",
    "Process",
    "ProcessInfo",
    "ReplyStream",
    "ResourceExhausted",
    "Step",
    "Timing",
    "Tool",
    "ToolFailed",
    "ToolInfo",
    "ToolReply",
    "ToolUnavailable",
    "ToolUse",
    "Usage",
    "WindowReport",
    "achat",
    "act",
    "astream",
    "chat",
    "context",
    "getpid",
    "getppid",
    "ps",
    "recv",
    "send",
    "spawn",
    "stream",
    "tool",
    "tools",
    "wait",
]
