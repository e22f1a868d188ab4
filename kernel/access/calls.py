"""System calls for rights: ``access.*``, for the operator only.

A worker reads and writes the files; the kernel's thread puts their contents in force, completely or
not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aios.kernel.loop.clock import Clock
from aios.kernel.loop.worker import Worker
from aios.kernel.trap.pending import Handler, Pending
from aios.syscalls.errors import InvalidArgument, ResourceExhausted
from aios.syscalls.types import access as a
from aios.syscalls.types.common import Empty

from . import groups, rules
from .approvals import Question
from .grant_file import Grant, GrantFile
from .manager import AccessManager


class AccessCalls:
    """Handlers for the policy, grants, explanations and approvals."""

    def __init__(
        self, access: AccessManager, worker: Worker, grants: GrantFile, policy: Path, clock: Clock
    ) -> None:
        self._clock = clock
        self._access, self._worker, self._grants, self._path = access, worker, grants, policy
        self.handlers: dict[str, Handler] = {
            "access.policy": lambda call, body: self._policy(),
            "access.reload": self._reload,
            "access.grant": self._grant,
            "access.revoke": self._revoke,
            "access.explain": self._explain,
            "access.approvals": self._approvals,
            "access.answer": self._answer,
            "access.next": self._next,
        }

    def _policy(self) -> a.PolicyReply:
        policy = self._access.standings.policy
        return a.PolicyReply(
            path=str(self._path), default=policy.default, guest=policy.guest,
            approval_s=policy.approval_s,
            groups=[
                a.GroupInfo(group.name, group.about, group.builtin, [str(r) for r in group.rules])
                for group in policy.groups.values()
            ],
            grants=[self._info(grant) for grant in self._access.standings.grants],
        )  # fmt: skip

    async def _reload(self, _: Pending, __: Empty) -> a.PolicyReply:
        def read() -> tuple[groups.GroupPolicy, tuple[Grant, ...]]:
            return groups.load(self._path), self._grants.load()

        self._access.note("reload", str(self._path), "ok")
        try:
            policy, grants = await self._worker.run(read)
        except OSError as error:
            raise ResourceExhausted(
                f"cannot read the grants: {error.strerror}", "change the file's permissions"
            ) from None
        self._access.use(policy, grants)
        return self._policy()

    async def _grant(self, _: Pending, body: a.GrantRequest) -> a.GrantInfo:
        rule = str(rules.parse(body.rule, "allow"))
        if body.subject.startswith("@"):
            self._access.standings.policy.find(body.subject[1:])
        elif "@" in body.subject:
            raise InvalidArgument(f"{body.subject!r}: a grant names an agent or @GROUP")
        self._access.note("grant", f"{body.subject}: {rule}", "ok")
        unix = self._clock.unix()
        return await self._change(lambda: self._grants.add(body.subject, rule, unix))

    async def _revoke(self, _: Pending, body: a.RevokeRequest) -> a.GrantInfo:
        found = next((g for g in self._access.standings.grants if g.id == body.id), None)
        named = f"{found.subject}: {found.rule}" if found else "unknown"
        self._access.note("revoke", f"{body.id} ({named})", "ok")
        return await self._change(lambda: self._grants.remove(body.id))

    async def _change(self, write: Callable[[], tuple[Grant, tuple[Grant, ...]]]) -> a.GrantInfo:
        """Write the grants, then put them in force."""
        try:
            grant, grants = await self._worker.run(write)
        except OSError as error:
            raise ResourceExhausted(
                f"cannot write the grants: {error.strerror}",
                "free disk space, or fix the folder's permissions",
            ) from None
        self._access.use(self._access.standings.policy, grants)
        return self._info(grant)

    def _info(self, grant: Grant) -> a.GrantInfo:
        unused = self._access.unused(grant.subject)
        return a.GrantInfo(grant.id, grant.subject, grant.rule, grant.unix, unused)

    def _explain(self, _: Pending, body: a.ExplainRequest) -> a.ExplainReply:
        rule = rules.parse(body.operation, "allow")
        if rule.action == "*" or rule.kind == "*" or "*" in rule.name:
            raise InvalidArgument(
                f"{body.operation!r} is not one operation: KIND.ACTION:NAME, without *",
                "for example: aios perm explain mailer path.write:/notes/a.txt",
            )
        operation = rules.Operation(rule.kind, rule.action, rule.name, body.effect)
        decision, steps = self._access.explain(body.subject, operation)
        return a.ExplainReply(decision.verdict, decision.of, [
            a.ExplainStep(step.who, step.group, step.verdict,
                          str(step.rule or ""), step.rule.source if step.rule else "")
            for step in steps
        ])  # fmt: skip

    def _approvals(self, _: Pending, __: Empty) -> a.ApprovalList:
        now = self._clock.now()
        return a.ApprovalList([_approval(q, now) for q in self._access.approvals.open(now)])

    async def _answer(self, _: Pending, body: a.ApprovalAnswer) -> a.Approval:
        approvals, now = self._access.approvals, self._clock.now()
        approvals.find(body.id, now)
        self._access.note("answer", body.id, "approved" if body.approve else "denied")
        try:
            question = await approvals.answer(body.id, body.approve, now, self._clock.unix())
        except OSError as error:
            raise ResourceExhausted(
                f"the answer cannot be saved, so it does not count: {error}",
                "free disk space, and answer again",
            ) from None
        approvals.tell(question)
        return _approval(question, now)

    async def _next(self, call: Pending, _: Empty) -> a.Approval:
        owner = call.caller.os_pid
        call.on_end(lambda error: self._access.approvals.leave(owner))
        question = await self._access.approvals.next(owner)
        return _approval(question, self._clock.now())


def _approval(q: Question, now: float) -> a.Approval:
    who, _, program = q.key.who.partition(" ")
    return a.Approval(
        id=q.id, pid=q.pid, agent=who, program=program, behalf=q.key.behalf, kind=q.key.kind,
        action=q.key.action, name=q.key.name, effect=q.effect, rule=q.rule,
        arguments=q.preview, digest=q.key.digest, state=q.state,
        asked_unix=q.asked_unix, expires_in_s=q.expires_s - now,
    )  # fmt: skip
