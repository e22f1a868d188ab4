"""Request and reply types of the calls on rights, approvals and the policy (``access.*``)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from .common import Effect

RuleText = Annotated[str, Meta(min_length=3, max_length=512)]
Subject = Annotated[str, Meta(min_length=1, max_length=65, pattern=r"^@?[A-Za-z0-9_.*-]+\Z")]
Verdict = Literal["deny", "ask", "allow"]


class GroupInfo(msgspec.Struct, frozen=True):
    """A privilege group with all its rules; ``builtin``: not from the policy file."""

    name: str
    about: str
    builtin: bool
    rules: list[str]


class GrantInfo(msgspec.Struct, frozen=True):
    """A right given beside the groups; ``subject``: an agent's name, perhaps with ``*``, or
    @GROUP. A grant to a group that there is no more has no effect. ``unused``: nobody has used the
    name yet, so the grant is whoever's agent uses it first."""

    id: int
    subject: str
    rule: str
    unix: float
    unused: bool = False


class PolicyReply(msgspec.Struct, frozen=True):
    """The rights in force. ``path``: the policy file, which need not exist."""

    path: str
    default: str
    guest: str
    approval_s: float
    groups: list[GroupInfo]
    grants: list[GrantInfo]


class GrantRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``rule``: ``[VERB] KIND[.ACTION]:NAME``; without a verb it is ``allow``."""

    subject: Subject
    rule: RuleText


class RevokeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The grant's number."""

    id: Annotated[int, Meta(ge=1, le=1 << 53)]


class ExplainRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Would ``subject`` (a process, or @GROUP) be allowed to do ``operation``
    (``KIND.ACTION:NAME``)? Nothing is done and no approval is used."""

    subject: Annotated[str, Meta(min_length=1, max_length=128)]
    operation: RuleText
    effect: Effect = "read"


class ExplainStep(msgspec.Struct, frozen=True):
    """What the rules of one principal say; ``rule`` is '' when none of them matches."""

    who: str
    group: str
    verdict: Verdict
    rule: str
    source: str


class ExplainReply(msgspec.Struct, frozen=True):
    """The strictest step decides: the caller is the first, then those who started it."""

    verdict: Verdict
    decided_by: int
    steps: list[ExplainStep]


class Approval(msgspec.Struct, frozen=True):
    """A question to the operator. ``behalf``: for whom the agent would do it, '' for itself;
    ``pid`` is 0 until it is asked again after the kernel's restart. ``arguments``: the beginning of
    what the operation is called with; ``digest``: the hash of all of it, which the answer is bound
    to."""

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
    """Oldest first."""

    approvals: list[Approval]


class ApprovalAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Allow the operation once, or not."""

    id: Annotated[str, Meta(min_length=1, max_length=64)]
    approve: bool
