"""Request and reply types of ``access.*``: rights, grants and approvals."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from .common import Effect

RuleText = Annotated[str, Meta(min_length=3, max_length=512)]
Subject = Annotated[str, Meta(min_length=1, max_length=65, pattern=r"^@?[A-Za-z0-9_.*-]+\Z")]
Verdict = Literal["deny", "ask", "allow"]


class GroupInfo(msgspec.Struct, frozen=True):
    """A privilege group and all its rules. ``builtin``: the policy file does not define it."""

    name: str
    about: str
    builtin: bool
    rules: list[str]


class GrantInfo(msgspec.Struct, frozen=True):
    """A right granted in addition to the groups. ``subject``: an agent's name (``*`` is a wildcard)
    or @GROUP; a grant to a group that no longer exists has no effect. ``unused``: no agent has used
    the name yet, so the grant goes to the first one that does."""

    id: int
    subject: str
    rule: str
    unix: float
    unused: bool = False


class PolicyReply(msgspec.Struct, frozen=True):
    """The rights in force. ``path``: the policy file; it need not exist."""

    path: str
    default: str
    guest: str
    approval_s: float
    groups: list[GroupInfo]
    grants: list[GrantInfo]


class GrantRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Grant a right. ``rule``: ``[VERB] KIND[.ACTION]:NAME``; the default verb is ``allow``."""

    subject: Subject
    rule: RuleText


class RevokeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Revoke a grant by its number."""

    id: Annotated[int, Meta(ge=1, le=1 << 53)]


class ExplainRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ask which rule decides whether ``subject`` (a process or @GROUP) may do ``operation``
    (``KIND.ACTION:NAME``). Nothing is done and no approval is used."""

    subject: Annotated[str, Meta(min_length=1, max_length=128)]
    operation: RuleText
    effect: Effect = "read"


class ExplainStep(msgspec.Struct, frozen=True):
    """The verdict of one principal's rules. ``rule``: empty if none matches."""

    who: str
    group: str
    verdict: Verdict
    rule: str
    source: str


class ExplainReply(msgspec.Struct, frozen=True):
    """The strictest step decides. The first step is the caller's; those of its ancestors follow."""

    verdict: Verdict
    decided_by: int
    steps: list[ExplainStep]


class Approval(msgspec.Struct, frozen=True):
    """A question to the operator. ``behalf``: the agent for which the operation would be done,
    empty for itself. ``pid``: 0 until the agent asks again after a restart of the kernel.
    ``arguments``: the beginning of the operation's arguments; ``digest``: the hash of all of them,
    to which the answer is bound."""

    id: str
    pid: int
    agent: str
    program: str
    kind: str
    action: str
    name: str
    effect: str
    rule: str
    arguments: str
    digest: str
    state: Literal["pending", "approved", "denied", "used"]
    asked_unix: float
    expires_in_s: float
    behalf: str = ""


class ApprovalList(msgspec.Struct, frozen=True):
    """Approvals, oldest first."""

    approvals: list[Approval]


class ApprovalAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Allow the operation once, or deny it."""

    id: Annotated[str, Meta(min_length=1, max_length=64)]
    approve: bool
