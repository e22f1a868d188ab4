"""The error tree that crosses the system-call boundary.

    AiosError                     any failure; has ``code``, ``message`` and ``hint`` (what to do)
    ├── InvalidArgument           a value is outside its limits; nothing was done
    ├── PermissionDenied          the caller may not make this call, or not on that process
    ├── NotFound                  no such process, model or call
    ├── IllegalState              the object is not in a state that allows the operation
    ├── ResourceExhausted         a quota, queue or table is full; nothing was done
    │   └── BudgetExceeded        the agent has used the tokens it was started with
    ├── ContextOverflow           prompt (and room for one token) do not fit the context window
    ├── DeadlineExceeded          the call's own deadline passed; the kernel has dropped it
    ├── Cancelled                 the caller, or the end of the caller, cancelled the call
    ├── ToolFailed                the tool itself raised, crashed, or returned what cannot be sent
    ├── ToolUnavailable           the tool's process or server died, or it is revoked
    ├── ModelUnavailable          the model cannot be loaded or its core keeps dying
    ├── KernelUnavailable         no kernel runs, it died, or it refused the connection
    └── InternalError             a bug of the kernel's; it has been logged there

Errors travel as ``{"code", "message", "hint"}``. An unknown code becomes a plain ``AiosError``.
"""

from __future__ import annotations

import msgspec


class ErrorBody(msgspec.Struct, frozen=True):
    """An error as it stands on the wire."""

    code: str
    message: str
    hint: str = ""


class AiosError(Exception):
    """Base of every error of AIOS. ``hint`` says what to do about it; it may be empty."""

    code = "ERROR"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message

    def body(self) -> ErrorBody:
        """This error as a wire body."""
        return ErrorBody(self.code, self.message, self.hint)


class InvalidArgument(AiosError):
    """A value is outside its limits. Mend the value named in the message."""

    code = "INVALID_ARGUMENT"


class PermissionDenied(AiosError):
    """The caller may not do this. Run it as the operator (the ``aios`` command), or on a child."""

    code = "PERMISSION_DENIED"


class NotFound(AiosError):
    """No such process, model or call. ``aios ps -a`` lists the processes."""

    code = "NOT_FOUND"


class IllegalState(AiosError):
    """The process or request is not in a state that allows this. Nothing was changed."""

    code = "ILLEGAL_STATE"


class ResourceExhausted(AiosError):
    """A table, queue or quota is full. Try again when something has ended."""

    code = "RESOURCE_EXHAUSTED"


class BudgetExceeded(ResourceExhausted):
    """The agent has generated the tokens it was allowed. Start it with a larger --max-tokens."""

    code = "BUDGET_EXCEEDED"


class ContextOverflow(AiosError):
    """The prompt does not fit the context window. Shorten it, or start aiosd with --ctx larger."""

    code = "CONTEXT_OVERFLOW"


class DeadlineExceeded(AiosError):
    """The call did not end by its deadline. Give it a larger ``timeout``."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(AiosError):
    """The call was cancelled, or its agent has ended."""

    code = "CANCELLED"


class ToolFailed(AiosError):
    """The tool was called and failed. The message carries its own reason; mend the call or it."""

    code = "TOOL_FAILED"


class ToolUnavailable(AiosError):
    """The tool cannot be called now. ``aios tool ls`` and ``aios mcp ls`` say why."""

    code = "TOOL_UNAVAILABLE"


class ModelUnavailable(AiosError):
    """The model cannot be served. The message carries the core's own reason."""

    code = "MODEL_UNAVAILABLE"


class KernelUnavailable(AiosError):
    """No kernel answers. Start it: ``aios daemon up``."""

    code = "KERNEL_UNAVAILABLE"


class InternalError(AiosError):
    """A bug in the kernel; its log has the traceback. Please report it."""

    code = "INTERNAL"


BY_CODE: dict[str, type[AiosError]] = {
    kind.code: kind
    for kind in (
        InvalidArgument, PermissionDenied, NotFound, IllegalState, ResourceExhausted,
        BudgetExceeded, ContextOverflow, DeadlineExceeded, Cancelled, ToolFailed, ToolUnavailable,
        ModelUnavailable, KernelUnavailable, InternalError,
    )
}  # fmt: skip


def from_body(body: ErrorBody) -> AiosError:
    """The typed error that a wire body stands for."""
    kind = BY_CODE.get(body.code)
    if kind is not None:
        return kind(body.message, body.hint)
    error = AiosError(f"{body.code}: {body.message}", body.hint)
    return error
