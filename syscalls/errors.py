"""The errors that cross the system-call boundary.

    AiosError
    ├── InvalidArgument ── ToolsUnsupported
    ├── NotFound, IllegalState, VersionConflict, ContextOverflow
    ├── PermissionDenied ── ConfirmationRequired
    ├── ResourceExhausted ── BudgetExceeded, QuotaExceeded, DiskFull, OutputIncomplete
    ├── DeadlineExceeded, Cancelled
    ├── StorageUnavailable ── StorageDamaged
    ├── AuditUnavailable, ModelUnavailable, KernelUnavailable
    ├── ToolFailed, ToolUnavailable
    └── InternalError

On the wire an error is ``{"code", "message", "hint"}``. An unknown code becomes an AiosError.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec


class ErrorBody(msgspec.Struct, frozen=True):
    """An error on the wire."""

    code: str
    message: str
    hint: str = ""


class AiosError(Exception):
    """Base class of all errors. ``hint`` is the command or change that helps, or empty."""

    code = "ERROR"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message

    def body(self) -> ErrorBody:
        """Return this error as a wire body."""
        return ErrorBody(self.code, self.message, self.hint)


class InvalidArgument(AiosError):
    """A value is outside its limits. Nothing was done. Correct the value that is named."""

    code = "INVALID_ARGUMENT"


class ToolsUnsupported(InvalidArgument):
    """The model's template has no tools. Describe them in the system text, or ask another model."""

    code = "TOOLS_UNSUPPORTED"


class PermissionDenied(AiosError):
    """The caller may not do this. ``aios perm explain`` shows which rule forbids it."""

    code = "PERMISSION_DENIED"


class ConfirmationRequired(PermissionDenied):
    """The operator must approve this first: ``aios approvals approve ID``; then retry."""

    code = "CONFIRMATION_REQUIRED"

    @property
    def approval(self) -> str:
        """The id of the question to the operator: the last word of the hint."""
        return self.hint.rpartition(" ")[2]


class NotFound(AiosError):
    """The process, model, file, note or tool does not exist."""

    code = "NOT_FOUND"


class IllegalState(AiosError):
    """The object is in a state that does not allow this. Nothing was changed."""

    code = "ILLEGAL_STATE"


class ResourceExhausted(AiosError):
    """A table, queue or quota is full. Nothing was done. Retry when something has ended."""

    code = "RESOURCE_EXHAUSTED"


class BudgetExceeded(ResourceExhausted):
    """The agent has generated all its tokens. Start it with a larger ``--max-tokens``."""

    code = "BUDGET_EXCEEDED"


class QuotaExceeded(ResourceExhausted):
    """The home is full. Prune old versions (``aios.fs.prune()``) or raise the quota."""

    code = "QUOTA_EXCEEDED"


class DiskFull(ResourceExhausted):
    """The disk is full. Nothing was changed; reads still work. Free space on it."""

    code = "DISK_FULL"


class OutputIncomplete(ResourceExhausted):
    """The text ended at its limit of tokens, before the value was complete. Raise the limit."""

    code = "OUTPUT_INCOMPLETE"


class VersionConflict(AiosError):
    """Another agent has written a newer version. Read it and write with its version."""

    code = "VERSION_CONFLICT"


class StorageUnavailable(AiosError):
    """Storage cannot be used now. ``aios storage status`` shows why."""

    code = "STORAGE_UNAVAILABLE"


class StorageDamaged(StorageUnavailable):
    """Stored bytes have changed. Run ``aios storage check`` or ``aios storage restore``."""

    code = "STORAGE_DAMAGED"


class ContextOverflow(AiosError):
    """The prompt does not fit the context window. Shorten it, or start aiosd with a larger --ctx"""

    code = "CONTEXT_OVERFLOW"


class DeadlineExceeded(AiosError):
    """The call did not end by its deadline. Give it a larger ``timeout``."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(AiosError):
    """The call was cancelled, or its agent has ended."""

    code = "CANCELLED"


class AuditUnavailable(AiosError):
    """The audit log cannot be written, so nothing may be changed. Free space on its disk."""

    code = "AUDIT_UNAVAILABLE"


class ToolFailed(AiosError):
    """The tool ran and failed. The message has its reason."""

    code = "TOOL_FAILED"


class ToolUnavailable(AiosError):
    """The tool cannot be called now. ``aios tool ls`` and ``aios mcp ls`` show why."""

    code = "TOOL_UNAVAILABLE"


class ModelUnavailable(AiosError):
    """The model cannot be served. The message has the reason."""

    code = "MODEL_UNAVAILABLE"


class KernelUnavailable(AiosError):
    """No kernel answers. Start it: ``aios daemon up``."""

    code = "KERNEL_UNAVAILABLE"


class InternalError(AiosError):
    """A bug in the kernel. The traceback is in its log. Please report it."""

    code = "INTERNAL"


def _kinds(base: type[AiosError]) -> Iterator[type[AiosError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)


BY_CODE: dict[str, type[AiosError]] = {kind.code: kind for kind in _kinds(AiosError)}


def from_body(body: ErrorBody) -> AiosError:
    """Return the typed error that a wire body stands for."""
    kind = BY_CODE.get(body.code)
    if kind is None:
        return AiosError(f"{body.code}: {body.message}", body.hint)
    return kind(body.message, body.hint)
