"""The error tree that crosses the system-call boundary.

    AiosError                     any failure; has ``code``, ``message`` and ``hint`` (what to do)
    ├── InvalidArgument           a value is outside its limits; nothing was done
    ├── PermissionDenied          the caller may not make this call, or not on that thing
    │   └── ConfirmationRequired  the operator has to approve it first; the hint says how
    ├── NotFound                  no such process, model or call
    ├── IllegalState              the object is not in a state that allows the operation
    ├── ResourceExhausted         a quota, queue or table is full; nothing was done
    │   ├── BudgetExceeded        the agent has used the tokens it was started with
    │   ├── QuotaExceeded         the agent's home would take more than it may
    │   └── DiskFull              the disk is full: nothing can be written, reading goes on
    ├── ContextOverflow           prompt (and room for one token) do not fit the context window
    ├── DeadlineExceeded          the call's own deadline passed; the kernel has dropped it
    ├── Cancelled                 the caller, or the end of the caller, cancelled the call
    ├── VersionConflict           somebody else has written the file or value meanwhile
    ├── StorageUnavailable        storage, or where its blobs are, cannot be reached now
    │   └── StorageDamaged        what is stored is not what was written; a backup has it
    ├── AuditUnavailable          the audit log cannot be written, so nothing may be changed
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


class ConfirmationRequired(PermissionDenied):
    """Irreversible, so the operator decides: ``aios approvals approve ID``; then try again."""

    code = "CONFIRMATION_REQUIRED"

    @property
    def approval(self) -> str:
        """The id of the question to the operator; the hint's last word."""
        return self.hint.rpartition(" ")[2]


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


class QuotaExceeded(ResourceExhausted):
    """The home is full. Free old versions (``aios.fs.prune()``), or ask for a larger quota."""

    code = "QUOTA_EXCEEDED"


class DiskFull(ResourceExhausted):
    """The disk has no room. Nothing was changed; reading goes on. Make room on it."""

    code = "DISK_FULL"


class VersionConflict(AiosError):
    """It is not the version you expected. Read it again, and write with its version."""

    code = "VERSION_CONFLICT"


class StorageUnavailable(AiosError):
    """Storage cannot be used now; the message says why. ``aios storage status`` tells more."""

    code = "STORAGE_UNAVAILABLE"


class StorageDamaged(StorageUnavailable):
    """Stored bytes have changed. See: ``aios storage check``; ``aios storage restore``."""

    code = "STORAGE_DAMAGED"


class ContextOverflow(AiosError):
    """The prompt does not fit the context window. Shorten it, or start aiosd with --ctx larger."""

    code = "CONTEXT_OVERFLOW"


class DeadlineExceeded(AiosError):
    """The call did not end by its deadline. Give it a larger ``timeout``."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(AiosError):
    """The call was cancelled, or its agent has ended."""

    code = "CANCELLED"


class AuditUnavailable(AiosError):
    """The audit log cannot be written. Make room where it lies; reading goes on meanwhile."""

    code = "AUDIT_UNAVAILABLE"


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
        InvalidArgument, PermissionDenied, ConfirmationRequired, NotFound, IllegalState,
        ResourceExhausted, BudgetExceeded, QuotaExceeded, DiskFull, ContextOverflow,
        DeadlineExceeded, Cancelled, VersionConflict, StorageUnavailable, StorageDamaged,
        AuditUnavailable, ToolFailed, ToolUnavailable, ModelUnavailable, KernelUnavailable,
        InternalError,
    )
}  # fmt: skip


def from_body(body: ErrorBody) -> AiosError:
    """The typed error that a wire body stands for."""
    kind = BY_CODE.get(body.code)
    if kind is not None:
        return kind(body.message, body.hint)
    error = AiosError(f"{body.code}: {body.message}", body.hint)
    return error
